"""Tail drop: keep the leading channels, drop the rest. The idea of ProgDTD, whole.

A compression network maps an image to a latent `y` (M channels) and a hyper-latent `z` (N
channels). Training with a random fraction `p` of the leading channels of both makes the network
store what matters most in the first channels, so that any prefix of them is already a picture.

Source: Hojjat, Haberer, Landsiedel, "ProgDTD: Progressive Learned Image Compression with
Double-Tail-Drop Training", CVPR Workshops 2023, section 3. Before it, for the units of one layer:
Rippel, Gelbart, Adams, "Learning ordered representations with nested dropout", ICML 2014; and
Koike-Akino, Wang, "Stochastic bottleneck: rateless auto-encoder for flexible dimensionality
reduction", ISIT 2020. Ours are the draws `full` and `power`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from progdtd.errors import UserError

if TYPE_CHECKING:  # imported where it is used: a config is checked without waiting for it
    import torch
    from torch import Tensor

P = TypeVar("P", float, "Tensor")

P_LEVELS = tuple(n / 100 for n in (1, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 85, 90, 95, 100))
"""The 16 fractions at which the paper evaluates (its figure 4)."""


def kept(p: float, channels: int) -> int:
    """How many leading channels survive: `min(C, floor(p*C) + 1)`, at least 1, all at p = 1.

    Args:
        p: fraction in [0, 1].
        channels: total number of channels, C.
    """
    return min(channels, math.floor(p * channels) + 1)


def fraction(count: int, channels: int) -> float:
    """A p that keeps `count` of the channels: `kept` gives it back."""
    return (count - 0.5) / channels


def mask(p: float | Tensor, channels: int, device: torch.device | None = None) -> Tensor:
    """Ones for the kept channels and zeros for the tail, of shape (B or 1, C, 1, 1), float32.

    Args:
        p: fraction in [0, 1]; a float, or a tensor of shape (B,) with one fraction an image.
        channels: total number of channels, C.
        device: where the mask is made; that of `p` if `p` is a tensor.
    """
    import torch

    if not isinstance(p, torch.Tensor):
        p = torch.tensor([p], dtype=torch.float64, device=device)
    count = torch.floor(p.double() * channels) + 1
    index = torch.arange(channels, device=p.device)
    return (index < count[:, None]).float()[:, :, None, None]


@dataclass(frozen=True)
class TailDrop:
    """Which tails are dropped, and how the kept fraction p is drawn in training.

    Args:
        latent: drop the tail of the latent `y`.
        hyper: drop the tail of the hyper-latent `z`, with the same p.
        range: bounds of p, `0 <= low <= high <= 1`.
        full: probability that an image keeps as much as any (p = high), whatever the draw.
        power: p = low + (high - low) * u**power for u ~ U(0, 1); 1 is the paper's uniform draw,
            above 1 favours short prefixes, below 1 long ones.
        name: what run directories and result tables call it.

    Raises:
        UserError: a range, probability or power outside its bounds, a tail that is neither dropped
            nor kept.
    """

    latent: bool
    hyper: bool
    range: tuple[float, float] = (0.0, 1.0)
    full: float = 0.0
    power: float = 1.0
    name: str = "dtd"

    def __post_init__(self) -> None:
        try:
            low, high = map(float, self.range)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not 0 <= low <= high <= 1:
            raise UserError(
                f"drop.range={self.range} is not a range of p: give two numbers with "
                "0 <= low <= high <= 1, such as 'drop.range=[0.3,1.0]'."
            )
        if type(self.full) not in (int, float) or not 0 <= self.full <= 1:
            raise UserError(f"drop.full={self.full} is not a probability: give 0 to 1.")
        if type(self.power) not in (int, float) or not 0 < self.power < math.inf:
            raise UserError(f"drop.power={self.power} must be above 0; 1 is the uniform draw.")
        for name in ("latent", "hyper"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"drop.{name}={getattr(self, name)} must be true or false.")
        object.__setattr__(self, "range", (low, high))

    @property
    def progressive(self) -> bool:
        """Whether any tail is dropped at all."""
        return self.latent or self.hyper

    @property
    def top(self) -> float:
        """The largest p: channels beyond it were never trained, and are no part of a stream."""
        return self.range[1] if self.progressive else 1.0

    def within(self, levels: Iterable[float]) -> list[float]:
        """The fractions p from the range's lower end up, each once; those above its top become it.
        Lower ones were never trained, and would only add bits to all later levels."""
        return list(dict.fromkeys(min(p, self.top) for p in levels if p >= self.range[0]))

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """One fraction p for each image of a batch, of shape (batch,), float64, on the CPU."""
        import torch

        low, high = self.range
        u = torch.rand(batch, generator=generator, dtype=torch.float64)
        keeps_all = torch.rand(batch, generator=generator, dtype=torch.float64) < self.full
        return torch.where(keeps_all, high, low + (high - low) * u**self.power)

    def fractions(self, p: P) -> tuple[P, P]:
        """The fractions of `y` and of `z` to keep at p: p where the tail is dropped, else 1."""
        everything = p * 0 + 1
        return (p if self.latent else everything), (p if self.hyper else everything)


def build_drop(config: Mapping[Any, Any]) -> TailDrop:
    """Build the tail drop that a `drop:` config or the metadata of weights describes.

    Raises:
        UserError: an option that it does not have, lacks or cannot have.
    """
    try:
        return TailDrop(**config)
    except TypeError as error:
        raise UserError(f"drop={dict(config)}: {error}.") from error
