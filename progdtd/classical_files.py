"""Files of other codecs in memory, written by Pillow, of the bytes that a decoder needs."""

import io
import struct
from collections.abc import Sequence
from itertools import accumulate

from PIL import Image


def save(image: Image.Image, form: str, **options) -> bytes:
    """The image as a file in memory."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def jpeg2000(image: Image.Image, rates: Sequence[float]) -> tuple[bytes, list[int]]:
    """A bare JPEG 2000 codestream with a quality layer for each rate, in bits per pixel, and where
    its header and its packets end.

    It has no marker that a decoder does not need: OpenJPEG's comment (COM) is cut out, and so are
    the packets' lengths (PLT) once they have told where packets end; the tile's length (Psot) is
    corrected (ISO/IEC 15444-1, annex A).
    """
    layers = [24 / rate for rate in rates]
    quality = {"quality_mode": "rates", "quality_layers": layers, "irreversible": True, "mct": 1}
    whole = save(image, "JPEG2000", **quality, no_jp2=True, progression="LRCP", plt=True)
    stream, lengths, value, position = bytearray(whole[:2]), list[int](), 0, 2
    while (marker := whole[position : position + 2]) != SOD:
        segment = whole[position : position + 2 + int.from_bytes(whole[position + 2 :][:2])]
        position += len(segment)
        for byte in segment[5:] if marker == PLT else b"":
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                lengths.append(value)
                value = 0
        stream += segment if marker not in (PLT, COM) else b""
    header = len(stream) + 2
    stream += whole[position:]
    end = len(stream) - 2
    set_tile_length(stream, end)
    return bytes(stream), list(accumulate(lengths, initial=header))


SOT, SOD, PLT, COM = b"\xff\x90", b"\xff\x93", b"\xff\x58", b"\xff\x64"
"""Markers of JPEG 2000: of a tile's header, of its packets, and of what no decoder needs."""


def set_tile_length(stream: bytearray, end: int) -> None:
    """Say in a codestream of one tile where that ends."""
    tile = stream.index(SOT)
    struct.pack_into(">I", stream, tile + 6, end - tile)
