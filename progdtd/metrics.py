"""Picture quality: PSNR, SSIM and MS-SSIM of images in [0, 1]."""

import math

import torch
from pytorch_msssim import ms_ssim, ssim
from torch import Tensor

MS_SSIM_MIN_SIDE = 161
"""Below this MS-SSIM's fifth scale has no whole 11x11 window (Wang et al. 2003)."""


def psnr(x: Tensor, x_hat: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all elements; inf for identical images."""
    mse = torch.mean((x - x_hat).double().square()).item()
    return -10 * math.log10(mse) if mse > 0 else math.inf


def to_db(similarity: float) -> float:
    """`-10 log10(1 - s)`: spreads similarities near 1 as the literature plots them."""
    return math.inf if similarity >= 1 else -10 * math.log10(1 - similarity)


def quality(x: Tensor, x_hat: Tensor) -> dict[str, float]:
    """`psnr` and `ms_ssim_db` in dB, `ms_ssim` and `ssim` in [0, 1].

    Args:
        x, x_hat: (1, 3, H, W) in [0, 1]. MS-SSIM is NaN when a side is under 161 pixels, SSIM
            when one is under 11.
    """
    side = min(x.shape[-2:])
    structural = ssim(x, x_hat, data_range=1.0).item() if side >= 11 else math.nan
    multi_scale = ms_ssim(x, x_hat, data_range=1.0).item() if side >= MS_SSIM_MIN_SIDE else math.nan
    return {
        "psnr": psnr(x, x_hat),
        "ms_ssim": multi_scale,
        "ms_ssim_db": to_db(multi_scale),
        "ssim": structural,
    }


def eight_bit(x_hat: Tensor) -> Tensor:
    """A reconstruction as a file would hold it: clipped to [0, 1] and rounded to 8 bits."""
    return (x_hat.clamp(0, 1) * 255).round() / 255
