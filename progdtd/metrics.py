"""Picture quality: PSNR, SSIM and MS-SSIM of images in [0, 1].

Sources: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
structural similarity", IEEE Transactions on Image Processing, 2004; Wang, Simoncelli, Bovik,
"Multiscale structural similarity for image quality assessment", Asilomar Conference 2003.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

MS_SSIM_MIN_SIDE = 161
"""Below this MS-SSIM's fifth scale has no whole 11x11 window (Wang et al. 2003)."""

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales, from the finest."""


def psnr(x: Tensor, x_hat: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all elements; inf for identical images."""
    mse = torch.mean((x - x_hat).double().square()).item()
    return -10 * math.log10(mse) if mse > 0 else math.inf


def to_db(similarity: float) -> float:
    """`-10 log10(1 - s)`: spreads similarities near 1 as the literature plots them."""
    return math.inf if similarity >= 1 else -10 * math.log10(1 - similarity)


class Quality:
    """Compares many reconstructions with one image.

    Evaluating all levels of one image is mostly blurring for SSIM and MS-SSIM. pytorch-msssim
    would blur the image itself anew for each of its functions and reconstructions; here that is
    done once, and one pass serves both, in a quarter of the time; a test holds them to its results.

    Args:
        x: (1, 3, H, W) in [0, 1].
    """

    def __init__(self, x: Tensor) -> None:
        self.x, side = x, min(x.shape[-2:])
        self.scales: list[tuple[Tensor, Tensor, Tensor]] = []
        count = len(WEIGHTS) if side >= MS_SSIM_MIN_SIDE else int(side >= WINDOW)
        for scale in range(count):
            x = _half(x) if scale else x
            mean, square = blur(torch.cat([x, x * x])).chunk(2)
            self.scales.append((x, mean, square - mean * mean))

    def __call__(self, x_hat: Tensor) -> dict[str, float]:
        """`psnr` and `ms_ssim_db` in dB, `ms_ssim` and `ssim` in [0, 1]; MS-SSIM is NaN when a
        side is under 161 pixels, SSIM when one is under 11.

        Args:
            x_hat: (1, 3, H, W) in [0, 1].
        """
        structural, contrasts = self._similarity(x_hat)
        ms_ssim = math.nan
        if len(contrasts) == len(WEIGHTS):
            parts = torch.stack([*contrasts[:-1], structural[-1]]).relu()
            ms_ssim = (parts ** parts.new_tensor(WEIGHTS)[:, None]).prod(0).mean().item()
        return {
            "psnr": psnr(self.x, x_hat),
            "ms_ssim": ms_ssim,
            "ms_ssim_db": to_db(ms_ssim),
            "ssim": structural[0].mean().item() if structural else math.nan,
        }

    def _similarity(self, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """SSIM and its contrast-structure part of each channel at each scale (Wang et al. 2004,
        equations 6 and 13, with the variances of a Gaussian window)."""
        structural, contrasts = [], []
        for scale, (x, mean, variance) in enumerate(self.scales):
            y = _half(y) if scale else y
            mean_y, square, product = blur(torch.cat([y, y * y, x * y])).chunk(3)
            means = mean * mean_y
            contrast = (2 * (product - means) + C2) / (variance + square - mean_y * mean_y + C2)
            luminance = (2 * means + C1) / (mean * mean + mean_y * mean_y + C1)
            structural.append((luminance * contrast).mean((0, 2, 3)))
            contrasts.append(contrast.mean((0, 2, 3)))
        return structural, contrasts


def blur(maps: Tensor) -> Tensor:
    """Each map (N, C, H, W) under a Gaussian window, (N, C, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW, dtype=maps.dtype, device=maps.device) - WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    flat = maps.flatten(0, 1)[None]  # as channels of one image, which is fastest
    rows = (window / window.sum()).view(1, 1, WINDOW, 1).repeat(flat.shape[1], 1, 1, 1)
    blurred = functional.conv2d(flat, rows, groups=len(rows))
    blurred = functional.conv2d(blurred, rows.transpose(2, 3), groups=len(rows))
    return blurred.view(*maps.shape[:2], *blurred.shape[-2:])


def _half(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 2, padding=[side % 2 for side in x.shape[-2:]])


def eight_bit(x_hat: Tensor) -> Tensor:
    """A reconstruction as a file would hold it: clipped to [0, 1] and rounded to 8 bits."""
    return (x_hat.clamp(0, 1) * 255).round() / 255
