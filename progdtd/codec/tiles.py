"""Work on an image of any size tile by tile, in memory for one tile beside input and output.

Tiles are looked at with what surrounds them. Where that is at least the receptive field of a
convolutional network, and what lies within it of a cut is thrown away, the result is that of the
whole image: there are no seams.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

SHOWN_AFTER_S = 1.0
"""Progress bars are for what takes longer, while a terminal looks on."""


class Box(NamedTuple):
    """A rectangle of samples; `bottom` and `right` lie just outside."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[EllipsisType, slice, slice]:
        """Indices of its samples in a tensor (..., H, W)."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, by: int, height: int, width: int) -> "Box":
        """With so much around it as lies within a height and width."""
        top, left, bottom, right = self
        return Box(
            max(top - by, 0), max(left - by, 0), min(bottom + by, height), min(right + by, width)
        )

    def within(self, outer: "Box") -> "Box":
        """As seen from a box that contains it."""
        top, left, bottom, right = self
        return Box(top - outer.top, left - outer.left, bottom - outer.top, right - outer.left)

    def times(self, ratio: Fraction) -> "Box":
        """The same place where there are `ratio` times the samples a side."""
        return Box(*(int(side * ratio) for side in self))


def tiles(height: int, width: int, side: int) -> Iterator[Box]:
    """Yield tiles of a side that cover a height and width: one, if that is no larger than a
    tile."""
    if height * width <= side * side:
        yield Box(0, 0, height, width)
        return
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Box(top, left, min(top + side, height), min(left + side, width))


def tiled(
    function: Callable[[Tensor], Tensor],
    source: Tensor,
    ratio: Fraction,
    side: int,
    halo: int,
) -> Tensor:
    """`function(source)`, computed tile by tile where the source is larger than a tile.

    Args:
        function: maps (1, C, h, w) to (1, C', h * ratio, w * ratio) and commutes with shifts.
        source: (1, C, H, W).
        ratio: size of the result relative to the source.
        side: of a tile, in samples of the source; a multiple of what `ratio` divides by.
        halo: the receptive field around a tile, in samples of the source.
    """
    height, width = source.shape[-2:]
    boxes = list(tiles(height, width, side))
    if len(boxes) == 1:
        return function(source)
    halo = -(-halo // ratio.denominator) * ratio.denominator
    result = None
    for box in tqdm(boxes, leave=False, disable=None, unit="tile", delay=SHOWN_AFTER_S):
        outer = box.grown(halo, height, width)
        part = function(source[outer.slices])[box.within(outer).times(ratio).slices]
        if result is None:
            shape = (*part.shape[:2], int(height * ratio), int(width * ratio))
            result = torch.empty(shape, dtype=part.dtype, device=part.device)
        result[box.times(ratio).slices] = part
    assert result is not None
    return result
