"""What the levels of a stream cost and bring, whichever model made it."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from progdtd.codec import Codec, container
from progdtd.codec.coder import Coder
from progdtd.images import to_tensor
from progdtd.metrics import Quality

Row = dict[str, Any]


def native(
    coder: Coder, picture: np.ndarray, levels: Sequence[float], effort: int = 0
) -> Iterator[Row]:
    """Code a whole image at its own size in its model's usual levels, and decode prefixes.

    Args:
        coder: of the model.
        picture: (H, W, 3) uint8, any size.
        levels: fractions p of the stream, by the measure of its kind of levels.
        effort: as the model takes it.

    Yields:
        for each fraction a row of results, as `levels_at` does.

    Raises:
        UserError: effort is refused.
    """
    start = time.perf_counter()
    stream = Codec(coder).encode(picture, effort=effort)
    encode_s = time.perf_counter() - start
    for _, row in levels_at(coder, stream, picture, levels):
        yield row | {"encode_s": encode_s}


def levels_at(
    coder: Coder, stream: bytes, picture: np.ndarray, levels: Sequence[float], device: Any = "cpu"
) -> Iterator[tuple[int, Row]]:
    """What the last level within each fraction of a stream, or the first, costs and brings.

    Args:
        coder: of the model that made the stream.
        stream: of the picture, whole.
        picture: (H, W, 3) uint8.
        levels: fractions p.
        device: where the pictures are compared.

    Yields:
        for each fraction its level and a row of results: the bytes of the prefix that holds this
        level, header and all, the quality of the decoded 8-bit picture, and the seconds to decode
        the prefix.
    """
    header, ends = container.read_header(stream)[0], container.ends(stream)
    of_kind = coder.levels_of(header)
    chosen = {p: of_kind.level_at(header, ends, p) for p in levels}
    wanted = {*chosen.values()}
    quality = Quality(to_tensor(picture).to(device).contiguous())
    clock, decoder = time.perf_counter, Codec(coder).decoder()
    found: dict[int, Row] = {}
    levels_s, picture_s, scores, start = 0.0, 0.0, Row(), clock()
    for level in decoder.levels_of(stream):
        levels_s += clock() - start
        if level in wanted:
            if decoder.changed:  # tails that carry nothing are common
                start = clock()
                x_hat = to_tensor(decoder.picture())
                picture_s = clock() - start
                scores = quality(x_hat.to(device).contiguous())
            size = decoder.position
            found[level] = scores | {
                "bytes": size,
                "bpp": 8 * size / (header.width * header.height),
                "decode_s": levels_s + picture_s,
            }
        if len(found) == len(wanted):
            break
        start = clock()
    shared: Row = {"protocol": "native", "kind": header.kind}
    shared |= {"width": header.width, "height": header.height}
    for p, level in chosen.items():
        yield level, shared | {"p": p} | found[level]
