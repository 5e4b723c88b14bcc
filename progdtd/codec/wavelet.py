"""Levels of the wavelet model: each holds the next units of digits (`wavelet/walk.py`).

The parameters in the container's header are 11 bytes: for each of the 7 scales, coarse to fine, and
in it for each of the 3 colours, 4 bits, the lower half of a byte first: 1 more than the plane of
the first digit that is not zero, 0 if there is none; the last 4 bits are zero.

All units are one ANS code (`entropy.py`), in which a unit's digits come in their order and then
its signs, each with the probabilities that `walk.odds` has for its logit. The payload of a level is
the words that its units take, in the order in which they are taken; the first level's begin with
the state, high before low. A level holds as many units as its words and those before suffice for:
a decoder goes on until the next unit would need a word that is not there.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from progdtd.codec.coder import Wanted
from progdtd.codec.container import WAVELET, WORD, Header
from progdtd.codec.entropy import Decoder, Encoder, payloads
from progdtd.codec.errors import DamagedError
from progdtd.errors import UserError
from progdtd.wavelet import transform, walk
from progdtd.wavelet.network import Network
from progdtd.wavelet.picture import show

SMALLEST_LEVEL, LEVELS_SHARE = 256, 64
"""A level has at least 256 bytes, and at least a 64th of those before it: its framing takes 3."""

_ODDS = walk.odds()
_BANDS = (transform.SCALES + 1, transform.COLOURS)


class WaveletCoder:
    """The wavelet model as a coder, and its one kind of levels.

    Args:
        content: of the model's file.

    Raises:
        UserError: it is none.
    """

    kind = WAVELET

    def __init__(self, content: bytes) -> None:
        try:
            self.network = Network(content)
        except ValueError as error:
            raise UserError(f"The model cannot be used: {error}.") from error
        self.fingerprint = self.network.fingerprint
        self.content = content

    def __reduce__(self) -> tuple[type["WaveletCoder"], tuple[bytes]]:
        return WaveletCoder, (self.content,)

    @classmethod
    def load(cls, path: Path) -> "WaveletCoder":
        """The model in a file.

        Raises:
            UserError: it cannot be read, or is none.
        """
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}).") from error

    def levels(self, wanted: Wanted = None) -> "WaveletCoder":
        """Its levels, which are of one kind.

        Raises:
            UserError: others are wanted.
        """
        if wanted not in (None, WAVELET):
            raise UserError(f"levels={wanted!r}: the wavelet model has {WAVELET!r} levels only.")
        return self

    def levels_of(self, header: Header) -> "WaveletCoder":
        """Its levels.

        Raises:
            DamagedError: the header speaks of others.
        """
        if header.kind != WAVELET:
            raise DamagedError(f"its model has no levels of {header.kind}")
        unpack(header.parameters)
        return self

    def encode(self, picture: np.ndarray, effort: int = 0) -> tuple[bytes, list[bytes]]:
        """The header's parameters and the payloads of all levels, of pixels (H, W, 3) uint8.

        Raises:
            UserError: effort, which this model does not take.
        """
        if effort:
            raise UserError(f"effort={effort}: the wavelet model takes none.")
        indices = [
            np.trunc(c / np.float32(walk.STEP)).astype(np.int16) for c in transform.forward(picture)
        ]
        first, (height, width) = walk.first_planes(indices), picture.shape[:2]
        steps = walk.Walk(self.network, height, width, first)
        units, encoders = steps.units(), []
        unit = next(units, None)
        while unit is not None:
            digits, signs = walk.answer(unit, indices[unit.scale], steps.plane)
            encoders.append(encoder := Encoder())
            encoder.put_digits(digits, _ODDS, unit.event)
            encoder.put_digits(signs, _ODDS, unit.sign[unit.new & (digits > 0)])
            unit = _next(units, (digits, signs))
        return pack(first), grouped(payloads(encoders or [Encoder()]))

    def decoder(self, header: Header) -> "WaveletDecoder":
        """A decoder of one stream."""
        return WaveletDecoder(self.network, header)

    def level_at(self, header: Header, ends: Sequence[int], p: float) -> int:
        """How many levels hold no more than a fraction p of the bytes of the whole stream."""
        return header.levels_within(p, ends)


class WaveletDecoder:
    """Decodes level after level; nothing is decoded twice.

    Args:
        network: the model.
        header: of the stream.
    """

    def __init__(self, network: Network, header: Header) -> None:
        self.level, self.changed = 0, True
        self._size = header.height, header.width
        self._walk = walk.Walk(network, *self._size, unpack(header.parameters))
        self._network, self._decoder = network, Decoder()
        self._units = self._walk.units()
        self._unit = next(self._units, None)

    def feed(self, payload: bytes) -> None:
        """Decode the next level.

        Raises:
            MismatchError: the payload is not one that this model's encoder makes.
        """
        self._decoder.begin(turned(payload))
        self.changed = self.level == 0
        while self._unit is not None and (answer := self._answer(self._unit)):
            self.changed = True
            self._unit = _next(self._units, answer)
        self._decoder.finish(self._unit is None)
        self.level += 1

    def _answer(self, unit: walk.Unit) -> walk.Answer | None:
        """The answer to a unit; None if it needs more words than there are."""
        ahead = self._decoder.copy()
        digits = ahead.take_digits(_ODDS, unit.event).astype(np.int16)
        signs = ahead.take_digits(_ODDS, unit.sign[unit.new & (digits > 0)])
        if ahead.lacks_words():
            return None
        self._decoder = ahead
        return digits, signs.astype(np.int16)

    def picture(self) -> np.ndarray:
        """The picture (H, W, 3), uint8."""
        return show(self._network, self._walk.places, max(self._walk.plane, 0), *self._size)


def _next(units: walk.Units, answer: walk.Answer) -> walk.Unit | None:
    try:
        return units.send(answer)
    except StopIteration:
        return None


def grouped(units: Sequence[bytes]) -> list[bytes]:
    """The payloads of levels, of what the units take."""
    levels, level, before = [], bytearray(), 0
    for unit in map(turned, units):
        level += unit
        if len(level) >= max(SMALLEST_LEVEL, before // LEVELS_SHARE):
            levels.append(bytes(level))
            before += len(level)
            level.clear()
    return levels + ([bytes(level)] if level or not levels else [])


def turned(words: bytes) -> bytes:
    """Words in the opposite order."""
    return np.frombuffer(words, "<u4")[::-1].tobytes() if len(words) % WORD == 0 else words


def pack(first: np.ndarray) -> bytes:
    """The parameters: 4 bits for each scale and colour, of planes (7, 3) from -1."""
    numbers = [*(first.ravel() + 1).tolist(), 0]
    return bytes(low | high << 4 for low, high in zip(numbers[::2], numbers[1::2], strict=True))


def unpack(parameters: bytes) -> np.ndarray:
    """The inverse of `pack`.

    Raises:
        DamagedError: these are no such parameters.
    """
    numbers = [half for byte in parameters for half in (byte & 15, byte >> 4)]
    count = _BANDS[0] * _BANDS[1]
    if len(numbers) != count + 1 or numbers[-1] or max(numbers) > walk.PLANES:
        raise DamagedError("the planes in the header cannot be")
    return np.array(numbers[:count]).reshape(_BANDS) - 1
