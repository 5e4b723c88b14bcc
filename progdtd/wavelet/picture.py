"""The picture of what is known of a walk's coefficients."""

from collections.abc import Sequence

import numpy as np

from progdtd.wavelet.network import ZERO, Network
from progdtd.wavelet.transform import SCALES, enlarged, exists, halved, inverse
from progdtd.wavelet.walk import PLANES, STEP


def show(
    network: Network, places: Sequence[np.ndarray], plane: int, height: int, width: int
) -> np.ndarray:
    """The picture (height, width, 3), uint8. While nothing is significant at the finest scales, a
    smaller picture is made and enlarged.

    Args:
        network: the model.
        places: what is known of every coefficient, per scale, (C, H, W) int16 (see `walk.py`).
        plane: that these are places of.
    """
    row, features = min(plane, PLANES - 2), None
    values: list[np.ndarray] = []
    finest = max([1, *(s for s, place in enumerate(places) if place.max() > 1 or place.min() < -1)])
    for scale, place in enumerate(places[: finest + 1]):
        features, numbers = network.trunk("picture", scale, place, features, row)
        value = np.empty(place.shape, np.float32)
        for channel, known, inside in zip(value, place, numbers, strict=True):  # to bound memory
            centre, half = interval(known)
            np.multiply(half, _WITHIN[inside], out=channel)
            channel += centre
        value *= np.float32(STEP * 2.0**plane)
        value *= exists(height, width, scale)
        values.append(value)
    assert features is not None
    pixels = inverse(values, height, width)
    values.clear()
    (rows, columns), (tall, wide) = pixels.shape[1:], places[finest].shape[1:]
    more = (0, 0), (0, 2 * tall - rows), (0, 2 * wide - columns)
    pixels = np.pad(pixels, more, "edge")
    shown = network.corrected(pixels, features[0], row)[:, :rows, :columns]
    for times in reversed(range(SCALES - finest)):
        shown = enlarged(shown, *halved(height, width, times))
    if finest < SCALES:
        shown = shown.round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(shown, 0, 2))


_WITHIN = ((np.arange(256) - ZERO) / 128).astype(np.float32)
"""Of what the picture network says of a value, where it lies: -1 and 1 are its interval's ends."""


def interval(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half the width of what coefficients can be, float32, in thresholds."""
    size = np.abs(place)
    centre = np.where(size > 1, place * np.float32(0.5), np.float32(0))
    half = np.where(size > 1, 1 - (size & 1) * np.float32(0.5), np.float32(2) - size)
    return centre, half
