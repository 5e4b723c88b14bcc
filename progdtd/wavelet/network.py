"""Runs a model's file with onnxruntime: one call for each scale and pass."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from progdtd.wavelet.transform import SCALES

PARTS = (
    "digits low",
    "digits low message",
    "digits detail",
    "digits detail message",
    "picture low",
    "picture low message",
    "picture detail",
    "picture detail message",
    "pixels",
)
"""What the graph's input `part` counts."""

INPUTS = {
    "seen": np.uint8,  # (1, 2C, H, W)
    "integers": np.uint8,  # (1, H, W, width)
    "pixels": np.float32,  # (1, 3, H, W)
}
"""What a part may take, besides `part` and `row`."""

OUTPUTS = ("integers out", "numbers out")
"""What parts give, uint8: (1, H, W, width), and (1, C, H, W)."""

_NOTHING = np.zeros((1, 1, 1, 1))

ROWS = {"digits": 24, "picture": 12}
"""Learned vectors of a scale: one a plane and, of digits, a pass."""

CARD = "card"
"""Under which name the file keeps what it says of itself, as JSON."""

_METADATA = 14 << 3 | 2
"""The key of a model's metadata in its file."""

LARGEST_PLACE = 1023
"""Places beyond this look alike to the networks."""

ZERO = 128
"""The 8-bit integer that stands for 0, of what the networks see and say."""

POSITIONS = 1 << 17
"""Scales of more positions are computed in bands of rows, to bound the memory."""

HALO = 3
"""How far around a position a trunk looks."""


def tables() -> np.ndarray:
    """What the networks see of a place, (2, 65536) uint8: with its sign, and its size alone. A
    place is an index: int16, or the uint16 of the same bits."""
    place = np.arange(1 << 16, dtype=np.uint16).view(np.int16).clip(-LARGEST_PLACE, LARGEST_PLACE)
    signed = np.round(20 * np.arcsinh(place / 4))
    one = np.abs(place) == 1
    tables = np.where(one, 0, signed), np.where(one, -10, np.abs(signed))
    return (np.stack(tables) + ZERO).astype(np.uint8)


_TABLES = tables()


def seen(place: np.ndarray) -> np.ndarray:
    """What the networks see (2C, H, W) of places (C, H, W), int16."""
    found = np.empty((2, *place.shape), np.uint8)
    for table, into in zip(_TABLES, found, strict=True):
        np.take(table, place.view(np.uint16), out=into, mode="wrap")
    return found.reshape(-1, *place.shape[1:])


class Network:
    """A model, ready to run.

    Args:
        content: the file's.
        threads: that compute; 0 leaves it to onnxruntime.

    Raises:
        ValueError: the file is none of these models.
    """

    def __init__(self, content: bytes, threads: int = 0) -> None:
        import onnxruntime  # which takes a moment, and reading a card does not

        card = card_in(content)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # wastes cores
        try:
            self.fingerprint = bytes.fromhex(card["fingerprint"])
            self._session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many, which have nothing else in common
            raise ValueError(f"it is no wavelet model ({error})") from error
        if {*OUTPUTS} != {output.name for output in self._session.get_outputs()}:
            raise ValueError("it is of an older kind, which only the ProgDTD that made it runs")
        self._halo = int(card["halo"])
        self.card = card

    def trunk(
        self, network: str, scale: int, place: np.ndarray, coarser: "Features | None", row: int
    ) -> tuple["Features | None", np.ndarray]:
        """What a network makes of one scale.

        Args:
            network: digits or picture.
            scale: 0 for the low band.
            place: what is known of its coefficients, (C, H, W), int16.
            coarser: the features of the scale before, with what is known there.
            row: which of the scale's learned vectors.

        Returns:
            Features, but of the finest digits, which nothing needs; and uint8 numbers around ZERO:
            of digits logits (2C, H, W) in eighths, of the picture where values lie in their
            intervals (C, H, W), in 128ths of half an interval.
        """
        part = f"{network} {'detail' if scale else 'low'}"
        times = 2 if scale > 1 else 1
        offset = max(scale - 1, 0) * ROWS[network]
        last = network == "digits" and scale == SCALES

        def run(rows: slice) -> list[np.ndarray]:
            given = {"seen": seen(place[:, rows])}
            if coarser is not None:
                above = slice(rows.start // times, rows.stop // times)
                given["integers"] = self._message(network, scale - 1, coarser, above)
            h, out = self._run(part, row + offset, **given)
            return [out] if last else [out, h]

        out, *features = _in_bands(run, place.shape[1:], HALO, 1)
        return ((features[0], place) if features else None), out

    def _message(self, network: str, scale: int, coarser: "Features", rows: slice) -> np.ndarray:
        """What some rows of a scale tell the next finer one, on its grid."""
        h, place = (part[:, rows] for part in coarser)
        part = f"{network} {'detail' if scale else 'low'} message"
        message, _ = self._run(part, 0, seen=seen(place), integers=h)
        times = 2 if scale else 1
        height, width = place.shape[1:]
        return message.reshape(1, times * height, times * width, -1)

    def corrected(self, pixels: np.ndarray, h: np.ndarray, row: int) -> np.ndarray:
        """Pixels (3, 2H, 2W), float32, corrected by the finest features (1, H, W, width), as
        uint8."""

        def run(rows: slice) -> list[np.ndarray]:
            part = pixels[:, 2 * rows.start : 2 * rows.stop]
            return [self._run("pixels", row, integers=h[:, rows], pixels=part)[1]]

        return _in_bands(run, h.shape[1:3], self._halo, 2)[0]

    def _run(self, part: str, row: int, **given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (1, H, W, width), and the numbers (C, H, W)."""
        feeds = {"part": np.array(PARTS.index(part)), "row": np.array([row])}
        for name, kind in INPUTS.items():
            array = np.ascontiguousarray(given.get(name, _NOTHING), kind)
            feeds[name] = array if array.ndim == 4 else array[None]
        h, out = self._session.run(OUTPUTS, feeds)
        return h, out[0]


Features = tuple[np.ndarray, np.ndarray]
"""Of a scale (1, H, W, width), uint8; and what is known there (C, H, W)."""


def _in_bands(
    run: Callable[[slice], Sequence[np.ndarray]], grid: Sequence[int], halo: int, times: int
) -> list[np.ndarray]:
    """`run` over bands of rows that overlap by `halo`; its outputs have `times` as many rows."""
    height, width = grid
    rows = max(2, POSITIONS // width // 2 * 2)
    halo += halo % 2
    if height <= rows + 2 * halo:
        return list(run(slice(0, height)))
    outputs: list[np.ndarray] = []
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        first, last = max(0, start - halo), min(height, stop + halo)
        kept = slice(times * (start - first), times * (stop - first))
        parts = run(slice(first, last))
        if not outputs:
            outputs = [np.empty((len(p), times * height, *p.shape[2:]), p.dtype) for p in parts]
        for output, part in zip(outputs, parts, strict=True):
            output[:, times * start : times * stop] = part[:, kept]
    return outputs


def fingerprint(constants: Mapping[str, np.ndarray]) -> str:
    """8 bytes, in hexadecimal, that name a digit network by all its numbers."""
    digest = hashlib.blake2b(digest_size=8)
    for name, array in sorted(constants.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def card_in(content: bytes) -> dict[str, Any]:
    """What a model's file says of itself: the metadata of its Protocol Buffers message, whose other
    fields are skipped.

    Raises:
        ValueError: it is no such file.
    """
    at, end = 0, len(content)
    while at < end:
        key, at = _varint(content, at)
        if key & 7 == 0:
            _, at = _varint(content, at)
            continue
        size, at = _varint(content, at)
        field = content[at : at + size]
        at += size
        if key == _METADATA and CARD.encode() in field[:16]:
            try:
                return json.loads(field[field.index(b"{") :])
            except ValueError as error:
                raise ValueError("it is no wavelet model: its card cannot be read") from error
    raise ValueError("it is no wavelet model: it has no card")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 63, 7):
        if at >= len(content):
            break
        value |= (content[at] & 0x7F) << shift
        at += 1
        if content[at - 1] < 0x80:
            return value, at
    raise ValueError("it is no wavelet model: its fields cannot be read")
