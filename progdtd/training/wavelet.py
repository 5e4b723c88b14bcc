"""What training a wavelet model minimises: bits of digits, and the error of pictures of prefixes.

Every step drops a random tail of the digits: the batch is known down to one plane, which the first
image's p says, and the digit network pays for the digits of this plane; each image is known down to
a place of its own, which its p says, and the picture network pays for what it shows there.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progdtd.files import MODEL
from progdtd.images import to_tensor
from progdtd.metrics import Quality, eight_bit
from progdtd.models import weights
from progdtd.models.wavelet import Plane, Wavelet, finest_scale, indices
from progdtd.models.wavelet_file import save
from progdtd.tail_drop import TailDrop
from progdtd.wavelet.walk import PLANES

TRAINED = PLANES - 1
"""Planes that photographs have; p = 1 is the last of them."""

RARE = 0.7
"""Each plane's bits are divided by their mean rate to this power: the first are few, but come first
in every prefix."""

KEEP = 0.98
"""Of the mean rate of a plane, when a step measures it anew."""

LEFT_OUT = 0.1
"""Weight of what the first pass leaves out, so that its own logits stay true there."""

MADE = ("drop", "seed", "steps", "images_seen", "dataset", "ancestors")
"""What the model's file says of its training."""

FLOOR = 0.3
"""Squared error, in grey levels, below which a picture's error does not matter any more."""


class DigitsAndPicture(nn.Module):
    """A wavelet model and its loss: bits of a plane, weighted by how rare such bits are, and the
    logarithm of the squared error of the pictures of random prefixes.

    Args:
        model: both networks.
    """

    def __init__(self, model: Wavelet) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, p: Sequence[float], p_hyper: Sequence[float]
    ) -> dict[str, Tensor]:
        """Scalars: `loss`, `bpp` (of one plane's digits), `mse` (of pictures, for images in [0,
        1]), means over the batch, and `aux`, which is zero.

        Args:
            images: (B, 3, H, W), uint8; sides are multiples of 64.
            p: how much of the stream is known, B of them.
            p_hyper: unused.
        """
        x = images.float()
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            steps = indices(x)
        digits, bpp = self.digits(steps, plane_at(p[0]), x[:, 0].numel())
        error = self.errors(steps, p, x)
        idle = sum(weight.sum() for weight in self.model.parameters())
        loss = digits + (error + FLOOR).log().mean()
        loss = loss + 0 * idle  # several processes wait for every weight's gradient
        mse = error.mean() / 255**2
        return {"loss": loss, "bpp": bpp, "mse": mse, "aux": torch.zeros_like(mse)}

    def digits(self, steps: Sequence[Tensor], plane: int, pixels: int) -> tuple[Tensor, Tensor]:
        """The loss of the digits of a plane, and their bits per pixel."""
        bits, left_out = self.model.digits(steps, plane)
        bpp = bits.sum() / pixels
        rate = self.model.rate[plane]
        with torch.no_grad():
            rate.copy_(torch.where(rate > 0, KEEP * rate + (1 - KEEP) * bpp, bpp))
        loss = (bpp + LEFT_OUT * left_out / pixels) / (rate + 1e-4) ** RARE
        return loss, bpp.detach()

    def errors(self, steps: Sequence[Tensor], p: Sequence[float], x: Tensor) -> Tensor:
        """Squared errors (B,), in grey levels, of pictures of random places in planes; those of
        the same size come together."""
        planes = torch.tensor([*map(plane_at, p)], device=x.device)
        rounds = torch.randint(0, 3, planes.shape).to(x.device)
        scales = torch.randint(0, len(steps) + 1, planes.shape).to(x.device)
        known, errors = places(steps, planes, rounds, scales), []
        finest = finest_scale(known)
        for scale in finest.unique():
            own = finest == scale
            shown = self.model.picture([place[own] for place in known], planes[own])
            errors.append((shown.float() - x[own]).square().mean((1, 2, 3)))
        return torch.cat(errors)

    @torch.no_grad()
    def estimate(
        self, picture: np.ndarray, drop: TailDrop
    ) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Estimated rate and quality of an image (H, W, 3) uint8, whose sides are multiples of 64,
        at the end of every plane in the drop's range; with the pictures (3, H, W) in [0, 1]."""
        x = to_tensor(picture).to(self.model.rate.device)
        steps = indices(255 * x)
        quality, bpp = Quality(x), 0.0
        for known in range(1, TRAINED + 1):
            p = known / TRAINED
            plane = TRAINED - known
            bpp += self.model.digits(steps, plane)[0].sum().item() / x[0, 0].numel()
            if not drop.range[0] <= p <= drop.range[1] or bpp == 0:
                continue
            end = torch.tensor([plane], device=x.device)
            ends = places(steps, end, torch.full_like(end, 3), torch.zeros_like(end))
            x_hat = eight_bit(self.model.picture(ends, end) / 255)
            row = {"p": round(p, 4), "bpp": bpp} | quality(x_hat)
            mse = 255**2 * 10 ** (-row["psnr"] / 10)
            yield row | {"loss": math.log(bpp) + math.log(mse)}, x_hat[0].cpu()

    def save(
        self, directory: Path, drop: TailDrop, meta: dict[str, Any], paths: list[Path]
    ) -> None:
        """Write the finished model: what codes pictures, and the weights to go on from."""
        made = {key: meta[key] for key in MADE}
        save(self.model.cpu(), directory / MODEL, made)
        weights.save_state(directory / weights.WEIGHTS, self.model, meta)

    def compile_parts(self) -> None:
        """Nothing: each scale has another size, for which torch would compile anew."""


def plane_at(p: float) -> int:
    """The plane that a fraction p of the stream's planes ends with: the first for 0, 0 for 1."""
    return TRAINED - max(1, math.ceil(p * TRAINED))


def places(steps: Sequence[Tensor], plane: Tensor, rounds: Tensor, scales: Tensor) -> list[Tensor]:
    """What is known within a plane, per scale, (B, C, H, W).

    Which coefficients are likely and which are worth their bits is told by their neighbours here,
    not by the digit network: nearly the same, and the picture network learns without it.

    Args:
        steps: from `indices`.
        plane: (B,).
        rounds: (B,), how many of the plane's three rounds are done at all scales.
        scales: (B,), how many scales have one round more.
    """
    known, coarser = [], None
    for scale, step in enumerate(steps):
        at = Plane(step, plane[:, None, None, None])
        large = torch.asinh(at.before.abs().float() / 4)
        near = F.avg_pool2d(F.pad(large, (1, 1, 1, 1), "replicate"), 3, 1)
        hint = near if coarser is None else near + coarser / 2
        turn = torch.where(at.new, 1 - (hint > 0.25).int() + (hint <= 0.02).int(), 1)
        done = (rounds + (scales > scale))[:, None, None, None]
        known.append(torch.where((turn < done) & at.live, at.after, at.before))
        coarser = (
            near.repeat_interleave(3, 1) if scale == 0 else F.interpolate(near, scale_factor=2)
        )
    return known
