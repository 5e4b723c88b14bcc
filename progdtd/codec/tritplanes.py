"""Levels of planes: each makes the symbols of the latent known more closely, where it pays most.

The first level carries the hyper-latent whole, so everything is known of the latent's prior from
then on. The latent's symbols, those of `channels.py`, are refined in ternary digits (`digits.py`).
The digits of all elements are sent in the order of their urgency, which is that of the digit in the
state of its element plus the sensitivity of the element's channel; an element in which little is
known, or nothing, is shown as the mean of what it can be.

Levels end at thresholds of the urgency that both sides derive from the classes of scale, once the
hyper-latent is known. Let n be the number of levels in the header's parameters and E(u) the
expected bits of all digits with an urgency of at least u. Level i of 1 ... n - 1 ends at the
largest u with E(u) >= E(all) * ((8i + n) / (9n))^2, the last takes all that is left, and levels
that would bring nothing are left out.

A payload is ANS code (`entropy.py`): in the first level of the hyper-latent's channels and a check
of the latent's classes and means, both as in a level of channels (`channels.py`); then in every
level of passes until no digit of the level is left. A pass takes, in the order channel, row,
column, every element whose next digit has at least the level's urgency: one digit of each, then of
those that it brought to a symbol that stands for all beyond it, by how much they exceed it, plus 1,
coded as the values of escaped symbols are.

Probabilities learn. Before each level, those of every state whose digits were seen are made anew:
of its three masses m_d 2^20 / sum(m), rounded as `digits.shares` does, and the counts c_d of
its digits in all levels before, the new ones are the shares of the masses m_d + 2^11 c_d.

The parameters of the levels, in the container's header, are the number of levels as a varint, then
4 bytes of the BLAKE2b hash of the sensitivities, each 2 bytes, little-endian, and, of a model that
was not trained for all of its channels, as varints how many channels of the latent and of the
hyper-latent the stream holds; the rest are zero. A sensitivity is the logarithm, to base 2^(1/32),
of the image's squared error, in grey levels, for each unit of squared error in the channel;
`sensitivities.py` measures it.

Source: Lee, Jeon, Choi, Park, Kim, "DPICT: Deep progressive image compression using trit-planes",
CVPR 2022. From there are the ternary digits of the latent, their probabilities given what is known,
the means of intervals as values, and the order by the fall of the error for each bit. Ours are the
order over all digits at once instead of within a plane, by the Gittins index (`digits.py`), the
channels' sensitivities in it (`sensitivities.py`), and the probabilities that learn.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from progdtd.codec import container, entropy
from progdtd.codec.channels import Counts, LatentDecoder, Predictor, Prior, Show, symbols_of
from progdtd.codec.container import PLANES, Header
from progdtd.codec.digits import HIGHEST, LOWEST, OCTAVE, ODDS_BITS, refinement, shares
from progdtd.codec.entropy import Encoder
from progdtd.codec.errors import DamagedError, MismatchError
from progdtd.errors import UserError

LEVEL_BYTES, FEWEST_LEVELS, MOST_LEVELS = 400, 16, 128
"""One level for each LEVEL_BYTES expected, within bounds: a level's framing costs 3 or 4."""

USUAL_LEVEL_BYTES, USUAL_LEVELS = 160, 66
"""Up to USUAL_LEVELS may be as small as that, so that photographs of low rate have many too."""

TRUST = 9
"""The tables' probabilities count as much as 2^9 digits that were seen."""

LARGEST_SENSITIVITY = 32 * OCTAVE
"""Sensitivities are within +-LARGEST_SENSITIVITY."""

DIGEST_SIZE = 4


def pack(levels: int, sensitivities: np.ndarray, carried: Counts, channels: Counts) -> bytes:
    """The container's parameters.

    Args:
        levels: how many, if all of them bring anything.
        sensitivities: of all channels of the latent.
        carried: channels of the latent and of the hyper-latent that the stream holds.
        channels: those that the model has.
    """
    fewer = b"" if carried == channels else b"".join(map(container.varint, carried))
    return container.varint(levels) + digest(sensitivities) + fewer


def unpack(parameters: bytes, channels: Counts) -> tuple[int, bytes, Counts]:
    """The inverse of `pack`: number of levels, the digest of the sensitivities, and the channels
    carried.

    Raises:
        DamagedError: the parameters do not suit the model.
        IncompleteError: they end within a number.
    """
    levels, at = container.read_varint(parameters, 0)
    made_with, rest = parameters[at : at + DIGEST_SIZE], parameters[at + DIGEST_SIZE :]
    carried = container.varints(rest) or [*channels]
    fits = len(carried) == 2 and 0 < carried[0] <= channels[0] and 0 < carried[1] <= channels[1]
    if not (0 < levels <= container.MAX_LEVELS and len(made_with) == DIGEST_SIZE and fits):
        raise DamagedError("the levels in the header cannot be")
    return levels, made_with, (carried[0], carried[1])


def digest(sensitivities: np.ndarray) -> bytes:
    """4 bytes that name the sensitivities."""
    return hashlib.blake2b(sensitivities.astype("<i2").tobytes(), digest_size=DIGEST_SIZE).digest()


def require_sensitivities(sensitivities: np.ndarray | None, who: str) -> np.ndarray:
    """The sensitivities, which `who` needs, as "Planes need".

    Raises:
        UserError: no sensitivities were measured.
    """
    if sensitivities is None:
        raise UserError(
            f"{who} the sensitivities of the model's channels, and none were measured: run "
            "python scripts/measure_sensitivities.py with the run or the weights file."
        )
    return sensitivities


def expected_bits(classes: np.ndarray, sensitivities: np.ndarray) -> np.ndarray:
    """Expected bits of all digits at each urgency, from LOWEST - LARGEST_SENSITIVITY upwards.

    Args:
        classes: (C, H, W) of scale.
        sensitivities: (C,).
    """
    tables = refinement()
    counts = np.stack([np.bincount(c.ravel(), minlength=len(tables.roots)) for c in classes])
    bits = np.zeros(HIGHEST - LOWEST + 2 * LARGEST_SENSITIVITY)
    for spent, own in zip(counts.astype(np.float64) @ tables.spent, sensitivities, strict=True):
        bits[own + LARGEST_SENSITIVITY :][: len(spent)] += spent
    return bits / 2**16


def levels_for(size: float) -> int:
    """How many levels a latent of `size` expected bytes gets."""
    many = min(size / LEVEL_BYTES, MOST_LEVELS)
    usual = min(size / USUAL_LEVEL_BYTES, USUAL_LEVELS)
    return int(max(many, usual, FEWEST_LEVELS))


def thresholds(bits: np.ndarray, levels: int) -> list[int]:
    """The least urgency in each level, falling; the last level's is below all.

    Args:
        bits: from `expected_bits`.
        levels: how many, if all of them bring anything.
    """
    lowest = LOWEST - LARGEST_SENSITIVITY
    known = np.cumsum(bits[::-1])
    share = np.square((8.0 * np.arange(1, levels) + levels) / (9.0 * levels))
    ends = len(bits) - 1 - np.searchsorted(known, share * known[-1])
    return [*sorted({int(end) + lowest for end in ends if end > 0}, reverse=True), lowest]


class Front:
    """How far the symbols of a latent are known, and which digits come next.

    Args:
        classes: (C, H, W) of scale.
        sensitivities: (C,).
        thresholds: of the levels.

    `state` has the state of each element, in the order channel, row, column.
    """

    def __init__(
        self, classes: np.ndarray, sensitivities: np.ndarray, thresholds: Sequence[int]
    ) -> None:
        self.tables = refinement()
        self.state = self.tables.roots[classes.ravel()]
        self.odds = self.tables.odds.copy()
        self._new = np.zeros(self.odds.size, np.int64)
        self._seen = np.zeros(self.odds.shape, np.int64)
        self._plane = classes[0].size
        self._sensitivities = sensitivities.astype(np.int32)
        steps = np.arange(LOWEST - LARGEST_SENSITIVITY, HIGHEST + LARGEST_SENSITIVITY)
        falling = -np.array(thresholds)
        self._level_of = np.searchsorted(falling, -steps).astype(np.int16)
        self.levels = len(thresholds)
        self._waiting: list[list[np.ndarray]] = [[] for _ in thresholds]
        for elements in np.arange(classes.size, dtype=np.int32).reshape(len(classes), -1):
            self._wait(elements)

    def passes(self, level: int) -> Iterator[np.ndarray]:
        """The elements of each pass of a level; `advance` must be called for each."""
        self._learn()
        while self._waiting[level]:
            elements = np.concatenate(self._waiting[level])
            self._waiting[level] = []
            elements.sort()
            yield elements

    def advance(self, elements: np.ndarray, digits: np.ndarray) -> np.ndarray:
        """Take the digits of a pass; returns the states that they lead to."""
        states = self.state[elements]
        counts = np.bincount(3 * states + digits)
        self._new[: len(counts)] += counts
        reached = self.tables.first[states] + digits
        self.state[elements] = reached
        unknown = self.tables.width[reached] > 0
        self._wait(elements[unknown])
        return reached

    def _learn(self) -> None:
        """Let the digits seen so far count beside the tables' own."""
        rows = np.unique(np.flatnonzero(self._new) // 3)
        self._seen[rows] += self._new.reshape(-1, 3)[rows]
        self._new[:] = 0
        masses = (self.tables.odds[rows] * (1 << ODDS_BITS)).astype(np.int64)
        self.odds[rows] = shares(masses + (self._seen[rows] << (ODDS_BITS - TRUST)))

    def _wait(self, elements: np.ndarray) -> None:
        """Put off elements to the level of their next digit, which is none that has ended: no digit
        is more urgent than the one before it."""
        urgency = self.tables.urgency[self.state[elements]]
        urgency += self._sensitivities[elements // self._plane]
        levels = self._level_of[urgency - (LOWEST - LARGEST_SENSITIVITY)]
        elements = elements[np.argsort(levels, kind="stable")]
        counts = np.bincount(levels)
        ends = np.cumsum(counts)
        for number in np.flatnonzero(counts).tolist():
            self._waiting[number].append(elements[ends[number] - counts[number] : ends[number]])


@dataclass(frozen=True)
class Planes:
    """The levels of planes of a latent.

    Args:
        prior: of the model.
        sensitivities: (M,) of the latent's channels.
        carried: leading channels of the latent and of the hyper-latent that a stream holds.
        levels: how many, if all of them bring anything; 0, to encode, for as many as suit the
            latent.
    """

    prior: Prior
    sensitivities: np.ndarray
    carried: Counts
    levels: int = 0
    kind: ClassVar = PLANES

    def encode(self, y: Tensor, z: Tensor) -> tuple[bytes, list[bytes]]:
        """The parameters of the levels, and the payload of each.

        Args:
            y: latent (1, M, H, W), not quantised, on the CPU.
            z: hyper-latent (1, N, H/4, W/4), not quantised, on the CPU.
        """
        encoders = [Encoder()]
        predictor, symbols = Predictor(self.prior, *z.shape[-2:]), self.prior.hyper_symbols(z)
        classes, means = predictor.put(encoders[0], symbols, (0, 0), self.carried)
        latent, _ = self.carried
        bits = expected_bits(classes, self.sensitivities[:latent])
        levels = self.levels or levels_for(bits.sum() / 8)
        front = Front(classes, self.sensitivities[:latent], thresholds(bits, levels))
        digits_of = _Digits(symbols_of(y[0, :latent] - means), classes)
        encoders += [Encoder() for _ in range(front.levels - 1)]
        for level, encoder in enumerate(encoders):
            for elements in front.passes(level):
                states = front.state[elements]
                digits = digits_of.take(elements, states)
                encoder.put_digits(digits, front.odds, states)
                reached = front.advance(elements, digits)
                encoder.put_numbers(digits_of.excess(elements[front.tables.escape[reached] != 0]))
        parameters = pack(levels, self.sensitivities, self.carried, self.prior.channels)
        return parameters, entropy.payloads(encoders)

    def decoder(self, height: int, width: int, show: Show) -> "PlaneDecoder":
        """Returns a decoder of a latent of this size."""
        return PlaneDecoder(self, height, width, show)

    def known(self, level: int) -> Counts:
        """How many channels of the latent and of the hyper-latent are known at a level: all that
        the stream holds."""
        return self.carried

    def level_at(self, header: Header, ends: Sequence[int], p: float) -> int:
        """How many levels hold no more than the fraction p of the bytes of the whole stream, at
        least one."""
        return header.levels_within(p, ends)


class _Digits:
    """The digits of known symbols (C, H, W) of these classes."""

    def __init__(self, symbols: np.ndarray, classes: np.ndarray) -> None:
        tables = refinement()
        self._width = tables.width
        largest = tables.largest[classes.ravel()]
        symbols = symbols.ravel().astype(np.int32)
        self._rest = np.clip(symbols, -largest, largest)
        self._excess = np.abs(symbols) - largest + 1
        self._rest += 3 * self._width[tables.roots[classes.ravel()]] // 2

    def take(self, elements: np.ndarray, states: np.ndarray) -> np.ndarray:
        digits, self._rest[elements] = np.divmod(self._rest[elements], self._width[states])
        return digits

    def excess(self, elements: np.ndarray) -> np.ndarray:
        return self._excess[elements]


class PlaneDecoder(LatentDecoder):
    """Decodes levels of planes; `y_hat` is the mean of what each element can be."""

    levels: Planes
    _front: Front | None = None
    _means: np.ndarray | float = 0.0

    def _feed(self) -> None:
        front = self._front = self._front or self._begin()
        self.changed = self.level == 0
        if self.level >= front.levels:
            raise MismatchError
        taken = [(elements, self._take(front, elements)) for elements in front.passes(self.level)]
        self._decoder.finish(self.level + 1 == front.levels)
        y_hat = self.y_hat.view(-1).numpy()
        for elements, values in taken:
            self.changed = self.changed or bool((y_hat[elements] != values).any())
            y_hat[elements] = values

    def _begin(self) -> Front:
        """Decode the hyper-latent, and know all elements as their prior does."""
        classes, means = self._predictor.take(self._decoder, (0, 0), self.levels.carried)
        latent, _ = self.levels.carried
        if isinstance(means, Tensor):
            self.y_hat[0, :latent] = means
            self._means = means.ravel().numpy()
        sensitivities = self.levels.sensitivities[:latent]
        bits = expected_bits(classes, sensitivities)
        return Front(classes, sensitivities, thresholds(bits, self.levels.levels))

    def _take(self, front: Front, elements: np.ndarray) -> np.ndarray:
        """Decode a pass; returns what its elements are now known to be."""
        tables, states = front.tables, front.state[elements]
        digits = self._decoder.take_digits(front.odds, states)
        if (front.odds[states, digits] == 0).any():
            raise MismatchError
        reached = front.advance(elements, digits)
        values, escapes = tables.value[reached], tables.escape[reached]
        beyond = np.flatnonzero(escapes)
        values[beyond] += escapes[beyond] * (self._decoder.take_numbers(len(beyond)) - 1)
        if isinstance(self._means, np.ndarray):
            values += self._means[elements]
        return values
