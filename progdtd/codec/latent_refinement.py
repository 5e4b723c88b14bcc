"""Effort: fit the latent of one image to the synthesis that will show it.

The analysis finds a latent in one pass and does not see what rounding makes of it. Some steps of
gradient descent on the latent itself lower the rate-distortion loss of this very image, at all of
the channels and at fractions of them in turn; how far each goes follows from the sensitivities of
the channels and from the scales, so that few steps suffice. The hyper-latent, the model and the
format of streams stay as they are, and decoding takes no longer.

Sources: Campos, Meierhans, Djelouah, Schroers, "Content adaptive optimization for neural image
compression", CVPR Workshops 2019. Rounding hardens on the way, as in Yang, Bamler, Mandt,
"Improving inference for neural image compression", NeurIPS 2020, but by the soft rounding of
Agustsson, Theis, "Universally quantized neural compression", NeurIPS 2020, section 4.1, instead of
at random. Ours are the fractions of the channels in turn, and steps scaled by the curvature.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from progdtd.codec.digits import OCTAVE
from progdtd.codec.tiles import SHOWN_AFTER_S, Box, tiles
from progdtd.codec.tritplanes import require_sensitivities
from progdtd.downsampling_factor import LATENT_FACTOR, LATENT_TO_HYPER
from progdtd.errors import UserError
from progdtd.models import Progressive
from progdtd.options import whole
from progdtd.tail_drop import TailDrop, mask

RATE = 0.5
"""The part of a step that is taken, where a whole one would make the gradient vanish if elements
were independent; it falls to nothing along half a cosine."""

MOMENTUM = 0.8
"""Weight of the steps before, in the running mean of gradients."""

SOFTEST, HARDEST = 1.0, 10.0
"""How steep the soft rounding is, in the first step and after the last."""

LEAST = 1e-9
"""Probability that a symbol has at least, as in training."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Its multiples, less their whole parts, are spread evenly however many there are."""


@dataclass(frozen=True)
class Effort:
    """How long a latent is fitted, and what is known of the loss.

    Args:
        steps: how many, at least 1; each is a pass through the synthesis and back.
        lmbda: lambda, the weight of the distortion, above 0.
        sensitivities: (M,) of the latent's channels, as `sensitivities.py` measures them.
    """

    steps: int
    lmbda: float
    sensitivities: np.ndarray

    def curvature(self, scales: Tensor) -> Tensor:
        """Second derivative of the loss, in bits, by each element of a latent of these scales
        (B, M, H, W): of the distortion and of the rate."""
        sensitivities = torch.from_numpy(np.exp2(self.sensitivities / OCTAVE)).to(scales)[
            :, None, None
        ]
        return 2 / 3 * self.lmbda * sensitivities + 1 / (math.log(2) * scales.square())


def effort_of(steps: int, lmbda: float | None, sensitivities: np.ndarray | None) -> Effort | None:
    """The effort of `steps` steps, or None for 0.

    Raises:
        UserError: `steps` is not a number of steps, or lambda or sensitivities are not known.
    """
    if not whole(steps, 0):
        raise UserError(f"effort={steps!r} is not a number of steps: give 0 or more.")
    if not steps:
        return None
    if lmbda is None:
        raise UserError(
            "effort weighs rate against distortion by the lambda that the model was trained with, "
            "and these weights record none above 0."
        )
    return Effort(steps, lmbda, require_sensitivities(sensitivities, "effort needs"))


def fit(
    model: Progressive,
    drop: TailDrop,
    effort: Effort,
    pixels: Tensor,
    y: Tensor,
    z: Tensor,
    side: int,
) -> Tensor:
    """A latent of images that suits them better than what the analysis found.

    Args:
        model: in evaluation mode, on any device.
        drop: which tails a fraction p cuts, and from which range p is.
        effort: from `effort_of`.
        pixels: images (B, 3, h, w) without padding, uint8 or float32 in [0, 1].
        y, z: latent (B, M, H, W) and hyper-latent (B, N, H/4, W/4) of them, not quantised.
        side: of the tiles that are fitted one after the other, in samples of the latent; a
            multiple of LATENT_TO_HYPER.

    Returns:
        a latent of the shape of `y`, on its device. With as many channels as the model was trained
        for, no tile of any image has a greater loss than before, by the model's estimate of the
        rate and before pixels are clipped; of fewer channels, or of planes, nothing is promised.
    """
    with torch.inference_mode(False), torch.enable_grad():
        y, z = y.clone(), z.clone()
        height, width = y.shape[-2:]
        boxes = list(tiles(height, width, side))
        total, delay = len(boxes) * effort.steps, SHOWN_AFTER_S
        with tqdm(total=total, leave=False, disable=None, unit="step", delay=delay) as bar:
            for box in boxes:
                tile = Tile(model, drop, effort, pixels, y, z, box)
                y[box.slices] = tile.fitted(bar)
    return y


class Tile:
    """One tile of a latent, and what its loss depends on: the image, and what surrounds it.

    That is whole hyper-latents, and no less than twice the receptive field of the synthesis, so
    that all pixels that the tile touches are right.

    Args:
        model, drop, effort, pixels, y, z: as for `fit`.
        box: where in the latent the tile is.
    """

    def __init__(
        self,
        model: Progressive,
        drop: TailDrop,
        effort: Effort,
        pixels: Tensor,
        y: Tensor,
        z: Tensor,
        box: Box,
    ) -> None:
        device = model.device
        field = model.RECEPTIVE_FIELD["g_s"]
        halo = math.ceil(2 * field / LATENT_TO_HYPER) * LATENT_TO_HYPER
        outer, seen = (box.grown(by, *y.shape[-2:]) for by in (halo, field))
        self.model, self.drop, self.effort = model, drop, effort
        self.around = y[outer.slices].to(device)
        self.inner = box.within(outer).slices
        self.shown = seen.within(outer).times(Fraction(LATENT_FACTOR)).slices
        x = pixels[seen.times(Fraction(LATENT_FACTOR)).slices].to(device)
        self.x = x if x.is_floating_point() else x / 255
        known = outer.times(Fraction(1, LATENT_TO_HYPER))
        wider = known.grown(model.RECEPTIVE_FIELD["h_s"], *z.shape[-2:])
        self.predicted = known.within(wider).times(Fraction(LATENT_TO_HYPER)).slices
        with torch.no_grad():
            self.z_hat = model.entropy_bottleneck(z[wider.slices].to(device))[0]

    def fitted(self, bar: tqdm) -> Tensor:
        """The tile's latent after all steps, or as it was where that is better."""
        start, steps = self.around[self.inner], self.effort.steps
        tile, mean = start.clone().requires_grad_(), torch.zeros_like(start)
        with torch.no_grad():
            curvature = self.effort.curvature(self.prior(self.drop.range[1])[0])[self.inner]
        for step, p in enumerate(fractions(self.drop, steps)):
            steepness = SOFTEST + (HARDEST - SOFTEST) * step / steps
            (gradient,) = torch.autograd.grad(self.loss(tile, p, steepness).sum(), tile)
            mean = torch.lerp(gradient, mean, MOMENTUM)
            pace = RATE * (1 + math.cos(math.pi * step / steps)) / 2
            with torch.no_grad():
                tile -= pace * mean / (1 - MOMENTUM ** (step + 1)) / curvature
            bar.update()
        with torch.no_grad():
            before, after = (self.loss(latent, self.drop.range[1]) for latent in (start, tile))
            return torch.where((after < before)[:, None, None, None], tile, start)

    def loss(self, tile: Tensor, p: float, steepness: float = math.inf) -> Tensor:
        """`R + lambda 255^2 MSE` of each image (B,), in bits, of what the tile has an effect on.

        Args:
            tile: its latent, not quantised.
            p: fraction of the channels.
            steepness: of the rounding.
        """
        with torch.no_grad():
            scales, means = self.prior(p)
            residual = torch.round(self.around - means)
        residual[self.inner] = soft_round(tile - means[self.inner], steepness)
        keep_y = mask(self.drop.fractions(p)[0], self.model.M, tile.device)
        y_hat = ((residual + means) * keep_y).contiguous(memory_format=torch.channels_last)
        x_hat = self.model.g_s(y_hat)[self.shown][..., : self.x.shape[-2], : self.x.shape[-1]]
        error = (x_hat - self.x).square().sum((1, 2, 3))
        rate = (bits(residual, scales) * keep_y).sum((1, 2, 3))
        return rate + self.effort.lmbda * 255**2 / 3 * error

    def prior(self, p: float) -> tuple[Tensor, Tensor]:
        """Scales and means of the tile and of what surrounds it, at a fraction p."""
        keep_z = mask(self.drop.fractions(p)[1], self.z_hat.shape[1], self.z_hat.device)
        scales, means = self.model.prior(self.z_hat * keep_z)
        scales = self.model.gaussian_conditional.lower_bound_scale(scales[self.predicted])
        return scales, torch.zeros_like(scales) if means is None else means[self.predicted]


def bits(symbols: Tensor, scales: Tensor) -> Tensor:
    """What symbols (B, C, H, W), not only whole ones, cost under Gaussians of these scales."""
    magnitude = symbols.abs()
    upper, lower = ((half - magnitude) / scales for half in (0.5, -0.5))
    chance = torch.special.ndtr(upper) - torch.special.ndtr(lower)
    return -chance.clamp_min(LEAST).log2()


def soft_round(values: Tensor, steepness: float) -> Tensor:
    """Soft rounding: floor(x) + 1/2 + tanh(a r) / (2 tanh(a / 2)), where r = x - floor(x) - 1/2
    and a is the steepness (Agustsson and Theis 2020, section 4.1); with a = inf, rounding."""
    if math.isinf(steepness):
        return values.round()
    below = values.detach().floor()
    rise = torch.tanh(steepness * (values - below - 0.5)) / math.tanh(steepness / 2)
    return below + 0.5 + rise / 2


def fractions(drop: TailDrop, steps: int) -> Iterator[float]:
    """The fraction p of each step: all channels, and in turn one from all over the range."""
    low, high = drop.range
    for step in range(steps):
        spread = (step // 2 * GOLDEN + 0.5) % 1
        yield high if step % 2 == 0 else low + (high - low) * spread
