"""Apply a convolutional network to an image of any size in bounded memory.

Tiles overlap by at least the network's reach, and what lies within reach of a cut is thrown away,
so the result is that of the whole image: there are no seams.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction

import torch
from torch import Tensor
from tqdm import tqdm


def tiled(
    function: Callable[[Tensor], Tensor],
    source: Tensor,
    ratio: Fraction,
    tile: int,
    halo: int,
    title: str = "",
) -> Tensor:
    """`function(source)`, computed tile by tile where the source is larger than a tile.

    Args:
        function: maps (1, C, h, w) to (1, C', h * ratio, w * ratio) and commutes with shifts.
        source: (1, C, H, W).
        ratio: size of the result relative to the source.
        tile, halo: side of a tile and the reach around it, in samples of the source; multiples of
            what `ratio` divides by.
        title: of the progress bar, shown while a terminal looks on and there are several tiles.
    """
    height, width = source.shape[-2:]
    if height * width <= tile * tile:
        return function(source)
    result = None
    tiles = list(_tiles(height, width, tile))
    for top, left in tqdm(tiles, title, unit="tile", leave=False, disable=None if title else True):
        bottom, right = min(top + tile, height), min(left + tile, width)
        above, before = max(top - halo, 0), max(left - halo, 0)
        part = function(source[..., above : bottom + halo, before : right + halo])
        inner = part[
            ...,
            int((top - above) * ratio) : int((bottom - above) * ratio),
            int((left - before) * ratio) : int((right - before) * ratio),
        ]
        if result is None:
            shape = (*inner.shape[:2], int(height * ratio), int(width * ratio))
            result = torch.empty(shape, dtype=inner.dtype, device=inner.device)
        y, x = int(top * ratio), int(left * ratio)
        result[..., y : y + inner.shape[-2], x : x + inner.shape[-1]] = inner
    assert result is not None
    return result


def _tiles(height: int, width: int, tile: int) -> Iterator[tuple[int, int]]:
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            yield top, left
