"""Classical codecs for comparison, with real bytes.

All go through Pillow: JPEG (4:2:0, optimised), JPEG 2000 (irreversible, with its colour transform,
one quality layer for each rate), WebP (method 6), AVIF (speed 4, 4:4:4) and JPEG XL (effort 7, by
pillow-jxl-plugin; from quality 20 on, below which its encoder halves the image first, and is worse
by 1 dB at the same rate). A progressive codec has to beat the prefixes of one stream: of a
progressive JPEG of quality 75, and of a JPEG 2000 codestream with 13 quality layers cut at its
packets. A truncated JPEG XL is left out, since the plugin decodes whole files only and has no
progressive mode.

Other settings were tried by BD-rate (PSNR) on four photographs that scikit-image brings (astronaut,
chelsea, coffee, rocket), never on Kodak. JPEG needs 4 % more bits with 4:4:4, and WebP 3 % more
with method 4. Prefixes of JPEG 2000 need 1, 3 and 9 % more with 26, 50 and 100 layers. AVIF needs
8 % more with speed 6, which takes a seventh of the time, and 16 % more with 4:2:0 too.

Bytes are those that a decoder needs. JPEG 2000 is a bare codestream (no jp2 boxes) without comment
and packet lengths, JPEG XL a bare codestream too; the headers of the other files are part of their
format: 18 bytes of JFIF, 20 of RIFF around WebP, some 275 of boxes around AVIF.
"""

import importlib
import io
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from progdtd.classical_files import jpeg2000, save, set_tile_length
from progdtd.errors import UserError

log = logging.getLogger(__name__)

QUALITIES = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95)
RATES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Target bits per pixel of JPEG 2000; it takes them as ratios to 24."""
LAYERS = (0.05, *RATES)
"""Target bits per pixel of the layers of the codestream whose prefixes are measured."""

FRACTIONS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Baseline:
    """A codec that Pillow can decode, and the settings it is measured at.

    Args:
        name: as tables and figures show it.
        streams: yields `(p, bytes)` for an image; p in (0, 1] is the setting, ascending with the
            rate: quality / 100, target rate / 24 bpp, or the fraction of one stream.
        once: whether all of them are prefixes of one stream, coded once.
        plugin: a module that teaches Pillow the format, and the package that has it.
    """

    name: str
    streams: Callable[[Image.Image], Iterator[tuple[float, bytes]]]
    once: bool = False
    plugin: tuple[str, str] | None = None


def by_quality(
    image: Image.Image, form: str, lowest: int = 0, **options
) -> Iterator[tuple[float, bytes]]:
    """Files of a Pillow format at each of QUALITIES from `lowest` on, with its quality / 100."""
    for quality in QUALITIES:
        if quality >= lowest:
            yield quality / 100, save(image, form, quality=quality, **options)


def by_rate(image: Image.Image) -> Iterator[tuple[float, bytes]]:
    """JPEG 2000 codestreams at each of RATES, each with its rate / 24."""
    for rate in RATES:
        yield rate / 24, jpeg2000(image, [rate])[0]


def jpeg_prefixes(image: Image.Image) -> Iterator[tuple[float, bytes]]:
    """Prefixes of one progressive JPEG, each cut within or after a scan, with an end marker."""
    whole = save(image, "JPEG", quality=75, progressive=True, optimize=True)
    scans = [match.span() for match in JPEG_SCAN.finditer(whole)]
    for fraction in FRACTIONS:
        length = round(fraction * len(whole))
        ends = [min(end, length) for start, end in scans if start < length]
        if ends:
            yield fraction, whole[: ends[-1]].rstrip(b"\xff") + b"\xff\xd9"


JPEG_SCAN = re.compile(
    rb"(?:(?<=\xff\xda\x00\x08.{6})|(?<=\xff\xda\x00\x0c.{10}))(?:[^\xff]|\xff[\x00\xd0-\xd7])+",
    re.DOTALL,
)
"""Entropy-coded data: what follows the header of a scan of one or of three components."""


def jpeg2000_prefixes(image: Image.Image) -> Iterator[tuple[float, bytes]]:
    """Prefixes of one embedded codestream, each cut after a whole packet; a cut codestream needs
    its tile's length corrected and an end marker."""
    whole, ends = jpeg2000(image, LAYERS)
    for fraction in FRACTIONS:
        end = max((end for end in ends if end <= fraction * len(whole)), default=ends[0])
        cut = bytearray(whole[:end] + b"\xff\xd9")
        set_tile_length(cut, end)
        yield fraction, bytes(cut)


JPEG_XL = ("pillow_jxl", "pillow-jxl-plugin")
CODECS = {
    codec.name: codec
    for codec in (
        Baseline("JPEG", partial(by_quality, form="JPEG", optimize=True)),
        Baseline("JPEG 2000", by_rate),
        Baseline("WebP", partial(by_quality, form="WEBP", method=6)),
        Baseline("AVIF", partial(by_quality, form="AVIF", speed=4, subsampling="4:4:4")),
        Baseline("JPEG XL", partial(by_quality, form="JXL", lowest=20, effort=7), plugin=JPEG_XL),
        Baseline("JPEG progressive (prefix)", jpeg_prefixes, once=True),
        Baseline("JPEG 2000 (prefix)", jpeg2000_prefixes, once=True),
    )
}


def available(names: list[str]) -> list[Baseline]:
    """The codecs of these names that can run here; what is missing is said.

    Raises:
        UserError: a name is unknown, or none of the codecs can run here.
    """
    unknown = [name for name in names if name not in CODECS]
    if unknown:
        raise UserError(f"No codec {', '.join(unknown)}; there are {', '.join(CODECS)}.")
    found = []
    for codec in (CODECS[name] for name in names):
        module, package = codec.plugin or ("PIL", "")
        try:
            importlib.import_module(module)
            found.append(codec)
        except ImportError:
            log.warning("%s is left out: pip install %s", codec.name, package)
    if not found:
        raise UserError("None of the codecs asked for can run here.")
    return found


def measure(codec: Baseline, picture: np.ndarray) -> Iterator[dict]:
    """A row of results for each setting of a codec on one image, (H, W, 3) uint8; prefixes that
    are too short to be decoded have none."""
    from progdtd.images import to_tensor
    from progdtd.metrics import Quality

    height, width = picture.shape[:2]
    image, x = Image.fromarray(picture), to_tensor(picture).contiguous()
    quality = Quality(x)
    started = time.perf_counter()
    encode_s = None
    for p, stream in codec.streams(image):
        encoded = time.perf_counter()
        if encode_s is None or not codec.once:
            encode_s = encoded - started
        try:
            decoded = np.asarray(Image.open(io.BytesIO(stream)).convert("RGB"))
        except OSError:
            if not codec.once:
                raise
            continue
        decode_s = time.perf_counter() - encoded
        row = {"codec": codec.name, "protocol": "native", "width": width, "height": height, "p": p}
        row |= {"bytes": len(stream), "bpp": 8 * len(stream) / (width * height)}
        row |= {"encode_s": encode_s, "decode_s": decode_s}
        yield row | quality(to_tensor(decoded).contiguous())
        started = time.perf_counter()
