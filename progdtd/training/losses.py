"""What training minimises."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from progdtd.models import Progressive


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
