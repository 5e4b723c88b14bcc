"""A contact sheet: what a picture looks like at the levels of its stream."""

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from progdtd.codec import container
from progdtd.codec.codec import Codec
from progdtd.images import psnr

MOST = 16
"""Levels on one sheet, if none are chosen."""

DPI = 250


def contact_sheet(
    codec: Codec, stream: bytes, picture: np.ndarray, levels: Iterable[int] = ()
) -> Figure:
    """Levels of a stream, with rate and PSNR, and the original.

    Args:
        codec: of the model that made the stream.
        stream: of the picture.
        picture: (H, W, 3) uint8.
        levels: which; if none is named all, or MOST of them evenly spaced.
    """
    height, width = picture.shape[:2]
    shown = []
    decoder, last = codec.decoder(), len(container.ends(stream))
    chosen = {*levels} or {*np.linspace(1, last, min(last, MOST)).round()}
    for level in decoder.levels_of(stream):
        if level not in chosen:
            continue
        decoded = decoder.picture()
        bpp = 8 * decoder.position / (height * width)
        quality = f"{bpp:.3f} bpp, {psnr(picture, decoded):.2f} dB"
        caption = f"level {level}: {decoder.position} bytes\n{quality}"
        shown.append((decoded, caption))
    shown.append((picture, "original"))
    columns = min(4 if len(shown) > 9 else 3, len(shown))
    rows = -(-len(shown) // columns)
    size = (7.0, rows * (7.0 / columns * height / width + 0.4))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (image, caption) in zip(axes.flat, shown, strict=False):
        axis.imshow(image)
        axis.set_title(caption, fontsize=7)
    return figure
