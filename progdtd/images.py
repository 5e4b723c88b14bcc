"""Pictures of any kind as arrays and tensors: read, turned upright, converted to RGB of 8 bits.

PyTorch is not imported before a tensor is asked for.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import struct
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from progdtd.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

SUFFIXES = {".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Of the files of a folder that are images."""

with contextlib.suppress(ImportError):
    import pillow_jxl  # noqa: F401, teaches Pillow JPEG XL, where it is installed

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
"""Pillow refuses a PNG for a long text beside its pixels: what all texts may take, one may take."""

UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    RuntimeError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for damaged files."""


Picture: TypeAlias = "Image.Image | np.ndarray | Tensor"


def read_image(path: Path | BinaryIO) -> np.ndarray:
    """Read an image of any mode as (H, W, 3) uint8, upright.

    EXIF orientation is applied, grey becomes RGB, 16-bit grey is scaled to 8 bits, CMYK and
    palettes are converted, and transparent pixels are shown on white. Pixels of 32 bits, whose
    range no file states, count as in [0, 1], [0, 255] or [0, 65535] by the largest of them.

    Raises:
        one of UNREADABLE: Pillow cannot read it, or its largest pixel is of none of these ranges.
    """
    with Image.open(path) as file:
        return rgb(file)


def rgb(image: Image.Image) -> np.ndarray:
    """A Pillow image of any mode as (H, W, 3) uint8, as `read_image` describes."""
    image = upright(image)
    with quiet():
        if image.mode.startswith(("I", "F")):
            image = _eight_bit(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB"))


def upright(image: Image.Image) -> Image.Image:
    """A Pillow image, loaded and turned as its EXIF data say."""
    with quiet():
        if isinstance(image, ImageFile.ImageFile):
            name, image.filename = image.filename, ""  # else Pillow maps plain TIFFs, as if turned
            try:
                image.load()
            finally:
                image.filename = name
        with contextlib.suppress(Exception):  # damaged EXIF data: whatever Pillow makes of them
            image = ImageOps.exif_transpose(image)
    return image


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings, such as Pillow's remarks on odd metadata. In the main thread alone: filters
    are the whole process's, and of threads that set and reset them at once some would stay set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _eight_bit(image: Image.Image) -> Image.Image:
    """An image of one channel of 16 or 32 bits in 8, transparent where it was."""
    values = np.asarray(image, dtype=np.float64)
    largest = values.max(initial=0, where=np.isfinite(values))
    scaled = np.nan_to_num(values) * (255 / _peak(image.mode, largest))
    grey = Image.fromarray(np.clip(scaled + 0.5, 0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _peak(mode: str, largest: float) -> float:
    """The value that is white.

    Raises:
        ValueError: nothing tells.
    """
    if mode == "F" and largest <= 1.5:  # resampling overshoots
        return 1
    if largest > 65535 or (mode == "F" and largest < 16):  # bright lights, or a dark image?
        ranges = "[0, 1], [0, 255] or [0, 65535]"
        raise ValueError(f"its pixels reach {largest:g}: scale them to {ranges}")
    return 65535 if mode.startswith("I;16") or largest > 255 else 255


def to_rgb(image: Picture) -> np.ndarray:
    """(H, W, 3) uint8 of whatever `Codec.encode` takes.

    Raises:
        UserError: it is not an image.
    """
    torch = sys.modules.get("torch")  # without which nobody has a tensor
    if torch and isinstance(image, torch.Tensor):
        return _of_tensor(image)
    if isinstance(image, Image.Image):
        try:
            return rgb(in_srgb(upright(image)))
        except UNREADABLE as error:
            raise UserError(f"The image cannot be read ({error}).") from error
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"{type(image).__name__} is no image: give an image that Image.open() returns, or an "
            "array."
        )
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    if not shaped or image.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise UserError(
            f"An array of shape {image.shape} and {image.dtype} is no image: give (H, W), "
            "(H, W, 3) or (H, W, 4) of uint8 or uint16."
        )
    if image.dtype.itemsize == 2:
        image = (image / 257 + 0.5).astype(np.uint8)
    return rgb(Image.fromarray(image))


def in_srgb(image: Image.Image) -> Image.Image:
    """An image in sRGB instead of its colour profile, since streams keep none; a profile that
    Pillow cannot apply changes nothing."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return image
        mode = "RGBA" if image.has_transparency_data else "RGB"
        if image.mode == "P" or mode == "RGBA":
            image = image.convert(mode)
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, profile, srgb, outputMode=mode) or image
    except (KeyError, OSError, TypeError, ImageCms.PyCMSError):
        return image


def _of_tensor(image: Tensor) -> np.ndarray:
    import torch

    pixels = image[0] if image.ndim == 4 and len(image) == 1 else image
    if pixels.ndim != 3 or len(pixels) != 3 or not pixels.is_floating_point():
        raise UserError(
            f"A tensor of shape {tuple(image.shape)} and {image.dtype} is no image: "
            "give (3, H, W) of floats in [0, 1]."
        )
    pixels = pixels.detach().float()
    if pixels.numel() and not (pixels.min() >= -0.5 and pixels.max() <= 1.5):  # nor NaN
        raise UserError(
            f"A tensor of values from {pixels.min():g} to {pixels.max():g} is no image: give "
            "floats in [0, 1]; those a little outside are clipped."
        )
    eight_bit = (pixels.clamp(0, 1) * 255).round()
    return eight_bit.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def to_tensor(picture: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) float32 in [0, 1]."""
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def psnr(picture: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of one (H, W, 3) uint8 to another; inf if they are equal."""
    mse = np.square(picture.astype(np.float32) - other).mean(dtype=np.float64)
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def centre(picture: np.ndarray, side: int) -> np.ndarray:
    """The central `side` rows and columns of (H, W, 3), all where there are fewer."""
    top, left = (max(0, size - side) // 2 for size in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + side, left : left + side])


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Read here an image that a user has named.

    Raises:
        UserError: it cannot be read.
    """
    try:
        yield
    except UNREADABLE as error:
        why = "of no kind that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{name} cannot be read as an image ({why}).") from error


def pictures(paths: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    """Each image that can be read, with its path; the others are named in a warning."""
    for path in paths:
        try:
            yield path, read_image(path)
        except UNREADABLE as error:
            log.warning("Skipped %s: %s.", path, error)
