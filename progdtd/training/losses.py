"""What training minimises."""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from progdtd.codec import sensitivities
from progdtd.errors import UserError
from progdtd.evaluation import protocols
from progdtd.files import WEIGHTS
from progdtd.models import Progressive, weights
from progdtd.tail_drop import TailDrop

log = logging.getLogger(__name__)

VALIDATION_LEVELS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


class RateDistortion(nn.Module):
    """A model and its loss `R + lambda * 255^2 * MSE` (Ballé et al. 2018, equation 3), as one
    module, so that every gradient, the quantiles' too, comes from one forward and one backward.

    Args:
        model: the compression model.
        lmbda: lambda, above 0; the weight of the distortion on the 8-bit scale.
        rounded: whether the syntheses see rounded latents, as `Progressive.quantise` says.
    """

    def __init__(self, model: Progressive, lmbda: float, rounded: bool = False) -> None:
        super().__init__()
        self.model = model
        self.lmbda, self.rounded = lmbda, rounded

    def forward(
        self, images: Tensor, p: Sequence[float], p_hyper: Sequence[float]
    ) -> dict[str, Tensor]:
        """Scalars: `loss`, `bpp` (bits per pixel) and `mse` (for images in [0, 1]), means over the
        batch, and `aux`, the loss of the entropy bottleneck's quantiles.

        Images come as integers and fractions as numbers, because tensors of floats would be rounded
        to the precision of the transforms on the way here.

        Args:
            images: (B, 3, H, W), uint8.
            p, p_hyper: fractions of `y` and `z` to keep, B of each.
        """
        x = images.float() / 255
        fractions = torch.tensor([p, p_hyper], dtype=torch.float64).to(x.device, non_blocking=True)
        out = self.model(x, *fractions, self.rounded)
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        nats = -torch.stack([likelihood.log().sum() for likelihood in out["likelihoods"].values()])
        bpp = nats.sum() / (math.log(2) * pixels)
        mse = (out["x_hat"] - x).square().mean()
        loss = bpp + self.lmbda * 255**2 * mse
        with torch.autocast(x.device.type, enabled=False):
            aux = self.model.aux_loss()
        return {"loss": loss, "bpp": bpp, "mse": mse, "aux": aux}

    @torch.no_grad()
    def estimate(
        self, picture: np.ndarray, drop: TailDrop
    ) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Estimated rate, quality and loss of an image (H, W, 3) uint8 at some p of the drop's
        range, with the pictures (3, H, W) in [0, 1]."""
        levels = drop.within(VALIDATION_LEVELS) if drop.progressive else [1.0]
        for row, x_hat in protocols.estimate(self.model, drop, picture, levels):
            distortion = 255**2 * 10 ** (-row["psnr"] / 10)
            yield row | {"loss": row["bpp"] + self.lmbda * distortion}, x_hat

    def save(
        self, directory: Path, drop: TailDrop, meta: dict[str, Any], paths: list[Path]
    ) -> None:
        """Write the finished weights, with their entropy coder's tables and what errors in each
        channel do to the photographs at `paths`."""
        self.model.update(force=True)
        path = directory / WEIGHTS
        loaded = weights.Loaded(self.model.eval(), drop, meta)
        try:
            meta["sensitivities"] = sensitivities.of(loaded, paths)
        except (UserError, RuntimeError) as error:  # no integer form; no memory left on the GPU
            log.warning("%s has no sensitivities, and so no levels of planes: %s", path, error)
        weights.save_weights(path, self.model, meta)

    def compile_parts(self) -> None:
        """Let torch compile the transforms of pixels, where nearly all of the time goes. Where it
        cannot, for want of a compiler, it says so and they run as they are."""
        torch._dynamo.config.suppress_errors = True
        self.model.g_a.compile()
        self.model.g_s.compile()
