"""JPEG 2000 and WebP files of about as many bytes as prefixes of a stream have."""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from progdtd.classical_files import jpeg2000 as jpeg2000_file
from progdtd.classical_files import save
from progdtd.images import psnr

STEPS = 40
"""Files of each codec, at sizes evenly spaced in their logarithm."""


@dataclass(frozen=True)
class Other:
    """A file of another codec: its bytes, the same picture in a form that every browser shows, and
    its PSNR in dB."""

    size: int
    shown: bytes
    psnr: float


def sizes(ends: Sequence[int]) -> list[int]:
    """At most STEPS of these numbers of bytes, evenly spaced in their logarithm."""
    low, high = math.log(ends[0]), math.log(ends[-1])
    wanted = np.exp(np.linspace(low, high, STEPS))
    return sorted({min(ends, key=lambda end: abs(end - size)) for size in wanted})


def jpeg2000(picture: np.ndarray, ends: Sequence[int]) -> Iterator[Other]:
    """JPEG 2000 codestreams, each coded for its size; shown as lossless WebP, since few browsers
    show JPEG 2000."""
    image = Image.fromarray(picture)
    for size in sizes(ends):
        file, _ = jpeg2000_file(image, [8 * size / picture[..., 0].size])
        shown = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        if len(file) < 1.1 * size + 100:  # its header alone may be larger than a short prefix
            yield Other(len(file), lossless(shown), psnr(picture, shown))


def webp(picture: np.ndarray, ends: Sequence[int]) -> Iterator[Other]:
    """WebP files of the quality at which each comes nearest to its size."""
    image = Image.fromarray(picture)
    files = [save(image, "WEBP", quality=quality, method=4) for quality in range(0, 101, 2)]
    chosen = {min(files, key=lambda file: abs(math.log(len(file) / size))) for size in sizes(ends)}
    for file in sorted(chosen, key=len):
        if len(file) <= 1.2 * ends[-1]:
            yield Other(len(file), file, psnr(picture, np.asarray(Image.open(io.BytesIO(file)))))


def lossless(picture: np.ndarray) -> bytes:
    """A WebP file of the very same pixels."""
    return save(Image.fromarray(picture), "WEBP", lossless=True, quality=20, method=2, exact=True)


CODECS = {"JPEG 2000": jpeg2000, "WebP": webp}
