"""Writes what the tests of the page compare with: streams, what Python decodes of them and says of
wrong ones, and a page.

    python tests/page/prepare.py FOLDER [MODEL]
"""

import base64
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from progdtd import Codec
from progdtd.codec import container
from progdtd.codec.errors import CodecError
from progdtd.codec.wavelet import WaveletCoder
from progdtd.images import psnr
from progdtd.page import writer

SIZES = {"photo": (130, 100), "odd": (75, 41), "wide": (3, 130), "one": (1, 1)}
EVERY = 6
"""Pixels are compared at every sixth level, and at the last."""


def pictures() -> dict[str, np.ndarray]:
    """Pictures of waves, edges and noise, of several sizes; one of them grey, one flat."""
    rng = np.random.default_rng(0)
    made = {}
    for name, (height, width) in SIZES.items():
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x / (5 + 9 * c) + y / 17) + ((x // 31 + y // 23 + c) % 2) for c in range(3)]
        noise = rng.normal(0, 5, (height, width, 3))
        made[name] = (80 + 50 * np.stack(waves, 2) + noise).clip(0, 255).astype(np.uint8)
    made["grey"] = np.repeat(made["photo"][:90, :70, :1], 3, 2)
    made["flat"] = np.full((40, 30, 3), 127, np.uint8)
    return made


def decoded(codec: Codec, stream: bytes, picture: np.ndarray) -> tuple[list[dict[str, Any]], bytes]:
    """Of each level its end, its plane, a checksum of all places and, of some, the PSNR; and the
    pixels of these."""
    decoder, levels, pixels = codec.decoder(), list[dict[str, Any]](), bytearray()
    ends = container.ends(stream)
    for level, (start, end) in enumerate(itertools.pairwise([0, *ends]), 1):
        decoder.feed(stream[start:end])
        walk = decoder.known._walk  # type: ignore[union-attr]
        places = b"".join(place.astype("<i2").tobytes() for place in walk.places)
        facts = {"end": end, "plane": max(walk.plane, 0)}
        facts["places"] = hashlib.sha256(places).hexdigest()
        if level % EVERY == 1 or level == len(ends):
            facts["psnr"] = min(psnr(picture, decoder.picture()), 99.0)  # JSON has no infinity
            pixels += decoder.picture().tobytes()
        levels.append(facts)
    return levels, bytes(pixels)


def wrong(stream: bytes) -> Iterator[tuple[str, bytes]]:
    """Streams that do not decode, or not to their end."""

    def changed(at: int, byte: int | None = None) -> bytes:
        there = bytearray(stream)
        there[at] = there[at] ^ 1 if byte is None else byte
        return bytes(there)

    header, start = container.read_header(stream)
    payloads, ends = list(container.Reader().feed(stream)), container.ends(stream)
    yield "nothing", b""
    yield "a part of the header", stream[: start - 3]
    yield "a part of the first level", stream[: ends[0] - 1]
    yield "another file", b"\x89PNG\r\n\x1a\n" + stream
    yield "a later version", changed(4, 9)
    yield "an earlier version", changed(4, 1)
    yield "no version", changed(4, 0)
    yield "a damaged header", changed(6)
    yield "a number without an end", stream[:6] + b"\xff" * 20
    yield "a damaged first level", changed(ends[0] - 1)
    yield "a damaged second level", changed(ends[1] - 1)
    yield "a damaged last level", changed(len(stream) - 1)
    yield (
        "a level that claims too much",
        stream[: ends[0]] + b"\xff\xff\x7f" + stream[ends[0] + 3 :],
    )
    yield "a damage after a cut", changed(ends[2] - 1)[: ends[3] - 2]
    yield "another model", container.write(replace(header, fingerprint=bytes(8)), payloads)
    yield "levels of another kind", container.write(replace(header, kind="planes"), payloads)
    yield "a later kind of levels", _sealed(stream[:5] + b"\x09" + stream[6 : start - 4])
    yield "no such planes", container.write(replace(header, parameters=b"\xff" * 11), payloads)
    yield "too few planes", container.write(replace(header, parameters=bytes(10)), payloads)
    yield (
        "too many pixels",
        container.write(replace(header, width=1 << 20, height=1 << 10), payloads),
    )
    yield "no words", container.write(header, [b"", *payloads[1:]])
    yield "no state", container.write(header, [bytes(8) + payloads[0], *payloads[1:]])
    yield "words too many", container.write(header, [payloads[0], payloads[1] + b"1234" * 3])
    yield "other words", container.write(header, [*payloads[:2], payloads[0], payloads[1]])
    yield "another end", container.write(header, [*payloads[:-1], payloads[-1][:-4] + b"1234"])


def _sealed(header: bytes) -> bytes:
    """A header with its checksum."""
    return header + container.zlib.crc32(header).to_bytes(4, "little")


def refused(codec: Codec, stream: bytes) -> dict[str, Any]:
    """What Python says of a stream, and how many levels of it it decodes."""
    decoder = codec.decoder()
    try:
        decoder.feed(stream)
    except CodecError as error:
        facts = {"error": type(error).__name__, "said": str(error)}
        return facts | {"level": getattr(error, "level", 0), "decoded": decoder.level}
    return {"error": "", "decoded": decoder.level}  # as noise may, with some models


def main(folder: Path, model: str | None = None) -> None:
    """Write everything."""
    codec = Codec.load(model)
    assert isinstance(codec.coder, WaveletCoder), "pages are of the wavelet model: name one"
    writer.write(folder / "page", [], codec.coder.content)
    (folder / "wrong").mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        stream = codec.encode(picture)
        levels, pixels = decoded(codec, stream, picture)
        height, width = picture.shape[:2]
        facts = {"height": height, "width": width, "levels": levels}
        Image.fromarray(picture).save(folder / f"{name}.png")
        (folder / f"{name}.pdtd").write_bytes(stream)
        (folder / f"{name}.rgb").write_bytes(pixels)
        (folder / f"{name}.json").write_text(json.dumps(facts))
        if name == "odd":
            cases = [
                {"what": what, "stream": base64.b64encode(case).decode()} | refused(codec, case)
                for what, case in wrong(stream)
            ]
            (folder / "wrong" / "cases.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
