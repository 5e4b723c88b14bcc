"""What an error in each channel of the latent does to the image, measured on photographs.

The codec's planes refine first what lowers the image's error most, so they need the sensitivity of
each channel: the fall of the image's squared error for a fall of the latent's. How the synthesis
amplifies noise does not tell it: a channel that is rarely used has little effect then, and much
where it is used. So the sensitivities are measured along the way that planes themselves go, from
the prior alone to the whole latent: gradients at points between two levels, times the step,
attribute the fall of the image's error to the channels (integrated gradients; Sundararajan, Taly,
Yan, "Axiomatic attribution for deep networks", ICML 2017).
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from progdtd import images
from progdtd.codec.container import PLANES, Header
from progdtd.codec.digits import OCTAVE
from progdtd.codec.hyperprior import HyperpriorCoder
from progdtd.codec.tritplanes import LARGEST_SENSITIVITY
from progdtd.errors import UserError
from progdtd.images import centre, to_tensor
from progdtd.models.weights import Loaded

SIDE = 256
"""Pixels a side of the centre of each photograph that is looked at."""

STEPS, POINTS = 4, 2
"""Steps from the first level to the last, and points of each where the gradient is taken."""

CERTAINTY = 20.0
"""Weight of the mean sensitivity, in squared quantisation steps: the less the errors of a channel
itself fall, the closer its sensitivity is to the mean."""

SMALLEST = 0.01
"""Sensitivities are not less than this part of their mean."""

PHOTOGRAPHS = 16
"""As many as tell the sensitivities well enough."""


def of(loaded: Loaded, photographs: Sequence[Path]) -> list[int]:
    """The sensitivities of a model, as its weights record them, from PHOTOGRAPHS images, evenly
    spaced.

    Raises:
        UserError: none of the photographs can be read, or planes cannot code with this model.
    """
    few = min(PHOTOGRAPHS, len(photographs))
    used = [photographs[i * len(photographs) // few] for i in range(few)]
    pictures = [picture for _, picture in images.pictures(used)]
    if not pictures:
        raise UserError(f"None of the {len(used)} photographs can be read.")
    return measure(loaded, pictures)


def measure(loaded: Loaded, pictures: Iterable[np.ndarray]) -> list[int]:
    """The sensitivity of each channel of a model's latent.

    Args:
        loaded: the model.
        pictures: photographs (H, W, 3) uint8, none of those that the model is judged by.

    Returns:
        logarithms, to base 2^(1/32), of squared grey levels for a squared quantisation step.

    Raises:
        UserError: the codec cannot code with this model.
    """
    channels = loaded.model.M
    alike = Loaded(loaded.model, loaded.drop, loaded.meta | {"sensitivities": [0] * channels})
    coder = HyperpriorCoder(alike)
    falls = torch.zeros(2, channels, dtype=torch.float64)
    for picture in pictures:
        falls += _falls(coder, centre(picture, SIDE))
    image, latent = falls.numpy()
    mean = image.sum() / max(latent.sum(), 1e-9)
    sensitivities = (image + CERTAINTY * mean) / (latent + CERTAINTY)
    logarithms = OCTAVE * np.log2(np.maximum(sensitivities, max(SMALLEST * mean, 1e-9)))
    return (
        np.clip(np.round(logarithms), -LARGEST_SENSITIVITY, LARGEST_SENSITIVITY)
        .astype(int)
        .tolist()
    )


def _falls(coder: HyperpriorCoder, picture: np.ndarray) -> Tensor:
    """By how much the squared errors of the image and of the latent fall, due to each channel:
    (2, M)."""
    height, width = picture.shape[:2]
    known = [y_hat.to(coder.device) for y_hat in _way(coder, picture)]
    x = to_tensor(picture).to(coder.device)
    image = torch.zeros_like(known[0], dtype=torch.float64)
    for before, after in itertools.pairwise(known):
        for point in range(POINTS):
            share = (point + 0.5) / POINTS
            y_hat = torch.lerp(before, after, share).requires_grad_()
            x_hat = coder.model.g_s(y_hat)[..., :height, :width]
            error = (255 * (x_hat - x)).square().sum()
            image -= torch.autograd.grad(error, y_hat)[0] * (after - before) / POINTS
    latent = (known[0] - known[-1]).double().square()
    return torch.stack([image.sum((0, 2, 3)), latent.sum((0, 2, 3))]).cpu()


def _way(coder: HyperpriorCoder, picture: np.ndarray) -> list[Tensor]:
    """The latent (1, M, H, W) as known at some levels, the first and the last among them."""
    levels = coder.levels(PLANES)
    parameters, payloads = levels.encode(picture)
    height, width = picture.shape[:2]
    header = Header(width, height, coder.fingerprint, PLANES, parameters, len(payloads))
    decoder, known = coder.levels_of(header).decoder(header), []
    for payload in payloads:
        decoder.feed(payload)
        known.append(decoder.y_hat.clone())
    chosen = np.linspace(0, len(known) - 1, STEPS + 1).round().astype(int)
    return [known[level] for level in sorted(set(chosen.tolist()))]
