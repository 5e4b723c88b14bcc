"""The order of digits: plane after plane, from what is known to what comes next.

A place of a coefficient is the centre of the interval that it is known to lie in, in quarters of 2T
for the plane's threshold T, with its sign. Even places wait for this plane's digit: 0, around zero,
and 4a + 2 for a >= 1. Odd ones have it: 1 stays around zero, 2b + 1 is b >= 1 thresholds away.

A plane goes in two passes, each through the scales from coarse to fine (see `models/wavelet.py`),
of which the second ends with a third round for what is hardly worth its bits. Within a round of a
scale digits go in the order channel, row, column, in units of as many bits that a stream can be cut
often: each unit has its digits, then the signs of those that became significant.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from progdtd.wavelet.network import ZERO, Features, Network
from progdtd.wavelet.transform import COLOURS, SCALES, exists, grid_of

PLANES = 13
"""Thresholds are STEP * 2^t, t = 12 ... 0: from beyond any coefficient down to 47 dB."""

STEP = 4.0
"""The finest threshold, in grey levels of an orthonormal coefficient."""

LIKELY = ZERO - 16
"""The first pass of a plane takes coefficients whose logit of significance is above this: -2."""

USEFUL = ZERO - 32
"""The second first takes those above this and the halves of intervals, then the others."""

UNIT = 1 << 18
"""A unit has at most so many digits."""

SMALLEST_UNIT, UNITS_SHARE = 512, 128
"""A unit ends once its expected bits are so many and a 128th of those of all units before."""

BIT = 256
"""Expected bits are counted in parts of so many."""

ODDS_BITS = 20

CHUNK = 1 << 21
"""Positions that are looked through at a time."""


ONES = 1 / (1 + np.exp((ZERO - np.arange(256)) / 8))
"""The probability of 1 for each logit, 8-bit integers of 1/8 around ZERO."""


def odds() -> np.ndarray:
    """Probabilities of 0 and 1 for each logit, float32: whole numbers of 2^-20."""
    whole = 1 << ODDS_BITS
    ones = np.round(ONES * whole).clip(1, whole - 1)
    return (np.stack([whole - ones, ones], 1) / whole).astype(np.float32)


def expected() -> np.ndarray:
    """Bits of a digit and of the sign that may follow, in 1 / BIT, for each logit."""
    entropy = -ONES * np.log2(ONES) - (1 - ONES) * np.log2(1 - ONES)
    return np.round(BIT * (entropy + ONES)).astype(np.int64)


_EXPECTED = expected()


@dataclass
class Unit:
    """Digits that come next.

    Args:
        scale: of their coefficients.
        where: these, as positions in the scale's grid (C, H, W), flat.
        new: which were not significant before.
        event, sign: rows of `odds` for each: that it becomes significant or lies in the upper half;
            that it is positive.
    """

    scale: int
    where: np.ndarray
    new: np.ndarray
    event: np.ndarray
    sign: np.ndarray


Answer = tuple[np.ndarray, np.ndarray]
"""Of a unit: its digits, and the signs (1 is positive) of those that became significant."""

Units = Generator[Unit, Answer, None]


class Walk:
    """What is known of a picture's coefficients, and which digits come next.

    Args:
        network: the model.
        height, width: of the picture.
        first: (SCALES + 1, COLOURS), the plane of the first digit that is not zero; -1: none.

    `places` are per scale (C, H, W), int16, of `plane`.
    """

    def __init__(self, network: Network, height: int, width: int, first: np.ndarray) -> None:
        self.network, self.first = network, first
        self.places = [
            np.zeros((COLOURS * (3 if scale else 1), *grid_of(height, width, scale)), np.int16)
            for scale in range(SCALES + 1)
        ]
        self._there = [exists(height, width, scale) for scale in range(SCALES + 1)]
        self.plane = int(first.max())
        self._bits = 0

    def units(self) -> Units:
        """Every unit in order; takes the answer to each."""
        while self.plane >= 0:
            yield from self._first_pass()
            yield from self._second_pass()
            if self.plane == 0:
                return
            for place in self.places:
                np.multiply(place, 2, out=place, where=np.abs(place) > 1)
                place[np.abs(place) == 1] = 0
            self.plane -= 1

    def _first_pass(self) -> Units:
        features = None
        for scale in self._scales(self.plane + 1):
            features, event, sign = self._logits(scale, features, 0)
            likely = self._open(scale) & (self.places[scale] == 0) & (event > LIKELY)
            yield from self._round(scale, likely, event, sign)

    def _second_pass(self) -> Units:
        features, late = None, []
        for scale in self._scales(self.plane):
            features, event, sign = self._logits(scale, features, 1)
            useful = self._open(scale) & ((self.places[scale] != 0) | (event > USEFUL))
            yield from self._round(scale, useful, event, sign)
            late.append((event, sign))
        for scale, (event, sign) in enumerate(late):
            yield from self._round(scale, self._open(scale), event, sign)

    def _scales(self, plane: int) -> range:
        """Those up to the finest with a digit other than zero down to a plane."""
        return range(int(np.flatnonzero((self.first >= plane).any(1)).max(initial=-1)) + 1)

    def _open(self, scale: int) -> np.ndarray:
        """Which coefficients wait for a digit (C, H, W)."""
        live = np.repeat(self.first[scale] >= self.plane, len(self.places[scale]) // COLOURS)
        return (self.places[scale] & 1 == 0) & self._there[scale] & live[:, None, None]

    def _logits(
        self, scale: int, coarser: Features | None, second: int
    ) -> tuple[Features | None, np.ndarray, np.ndarray]:
        row = 2 * min(self.plane, PLANES - 2) + second
        coarser, out = self.network.trunk("digits", scale, self.places[scale], coarser, row)
        event, sign = np.split(out, 2)
        return coarser, event, sign

    def _round(self, scale: int, chosen: np.ndarray, event: np.ndarray, sign: np.ndarray) -> Units:
        place, event, sign = (x.reshape(-1) for x in (self.places[scale], event, sign))
        for where in self._positions(chosen, event):
            before = place[where]
            new = before == 0
            digits, signs = yield Unit(scale, where, new, event[where], sign[where])
            after = before + (2 * digits - 1) * np.sign(before)
            after[new] = 1
            after[new & (digits > 0)] = 6 * signs - 3
            place[where] = after

    def _positions(self, chosen: np.ndarray, event: np.ndarray) -> Iterator[np.ndarray]:
        """The flat positions of what is chosen, unit after unit; never all at once, which would
        take more memory than all else."""
        chosen, waiting = chosen.reshape(-1), np.empty(0, np.int64)
        for start in range(0, len(chosen), CHUNK):
            more = np.flatnonzero(chosen[start : start + CHUNK]) + start
            waiting = np.concatenate([waiting, more])
            bits = np.cumsum(_EXPECTED[event[waiting]])
            at, before = 0, 0
            while (end := self._end(bits, at, before)) <= len(waiting):
                yield waiting[at:end]
                self._bits += int(bits[end - 1]) - before
                at, before = end, int(bits[end - 1])
            waiting = waiting[at:]
        if len(waiting):
            yield waiting
            self._bits += int(bits[-1]) - before

    def _end(self, bits: np.ndarray, at: int, before: int) -> int:
        """Where the unit ends that begins at a digit, before which the running sum of expected bits
        is `before`; beyond what is there if it goes on."""
        enough = BIT * max(SMALLEST_UNIT, self._bits // (BIT * UNITS_SHARE))
        return min(at + UNIT, int(np.searchsorted(bits, before + enough)) + 1)


def answer(unit: Unit, index: np.ndarray, plane: int) -> Answer:
    """The answer to a unit, of a scale whose whole steps (C, H, W) are known."""
    values = index.reshape(-1)[unit.where]
    digits = np.abs(values) >> plane
    digits = np.where(unit.new, digits, digits & 1)
    return digits, (values[unit.new & (digits > 0)] > 0).astype(digits.dtype)


def first_planes(indices: list[np.ndarray]) -> np.ndarray:
    """`Walk.first` of whole steps per scale."""
    largest = [np.abs(index).reshape(COLOURS, -1).max(1) for index in indices]
    return np.array([[int(m).bit_length() - 1 for m in row] for row in largest])
