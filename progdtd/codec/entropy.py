"""Entropy coding of integers with tables of integer frequencies, on constriction's ANS coder.

Everything that decides a symbol's interval is an integer or an exact float, so encoder and decoder
agree on any machine; a check in the code, of 16 bits, tells where they should not. All levels of a
stream are one code, cut where a level has taken its last word: a level costs no byte of its own.

The code, for whoever writes another decoder. A streaming ANS coder (Duda, "Asymmetric numeral
systems", 2013) has a state of 64 bits, words of 32 and probabilities of 24. The symbol of the
interval [l, r) is decoded when q = state mod 2^24 lies in it; then the state becomes
(state >> 24) * (r - l) + q - l, and if that is below 2^32, a word comes in below it, the last of
the level's that is left. After a level none is left, and after the last of a stream that was not
cut the state is 2^32. The first level's words end with the state to begin with, low before high;
all are little-endian. A table of n frequencies f_i of sum 2^b gives its symbol i the interval from
l_i to l_{i+1}, with l_i = floor((f_0 + ... + f_{i-1}) * (2^24 - n) / 2^b) + i, and l_n = 2^24; of n
values that are uniform, l_i = i * floor(2^24 / n). A check is uniform in 0 ... 2^16 - 1.

A symbol outside its table is coded as the escape. After all the groups of a `put`, which are the
hyper-latent's of a level and then the latent's, come the escaped symbols' values, v = 2k + 1 for a
symbol k >= 0 above the table's end and v = 2k for one k > 0 below its start: first each one's
number of bits, less 1, uniform in 0 ... 22, then, of all those with 2 bits, then with 3 and so on,
the bits under the leading one, uniform.

Ternary digits have each a table of its own, without an escape: three frequencies of sum 2^20.

The library: Bamler, "Understanding entropy coding with asymmetric numeral systems (ANS): a
statistician's perspective", arXiv 2201.01741, 2022.
"""

import functools
import itertools
import math
import zlib
from collections.abc import Sequence

import constriction
import numpy as np

from progdtd.codec.errors import MismatchError

AnsCoder = constriction.stream.stack.AnsCoder
Categorical = constriction.stream.model.Categorical
Uniform = constriction.stream.model.Uniform

PRECISION = 20
"""Frequencies of the Gaussian tables sum to 2^20."""

CLASSES = 64
SCALE_MIN, SCALE_MAX = 0.11, 256.0
"""Scales are coded as the nearest of 64 classes, CompressAI's scale table (Ballé et al. 2018)."""

LARGEST = (1 << 21) - 1
"""Symbols are within +-LARGEST."""

_BITS = Uniform(23)
_CHECK = Uniform(1 << 16)
_ANY = Categorical(perfect=False)

CHUNK = 1 << 19
"""Digits whose probabilities are looked up at a time, to bound the memory."""

_BEGIN = np.array([0, 1], np.uint32)
"""The coder's first state, 2^32, in words."""

LARGE = 1 << 17
"""So many digits at once, as large pictures have, are kept compressed until all are there."""

Packed = tuple[bytes, np.dtype]

Kept = np.ndarray | Packed

Rows = tuple[np.ndarray, Kept]
"""A table and, for each symbol, the row of it that has the symbol's probabilities."""


class Table:
    """The distribution of one kind of symbol: `low`, `low + 1`, ..., and an escape.

    Args:
        low: the smallest symbol with a frequency of its own.
        frequencies: positive integers, one a symbol; the last is the escape's, which stands for
            every other symbol. Their sum is a power of two.
    """

    def __init__(self, low: int, frequencies: np.ndarray) -> None:
        self.low, self.escape = low, len(frequencies) - 1
        self.model = Categorical(frequencies / frequencies.sum(), perfect=False)


def gaussian_tables() -> list[Table]:
    """One table for each of the 64 classes of scale, for zero-mean Gaussians on unit bins."""
    return [Table(-((len(f) - 2) // 2), f) for f in map(gaussian_frequencies, scales())]


def scales() -> list[float]:
    """The scales of the 64 classes, evenly spaced in their logarithm."""
    step = math.log(SCALE_MAX / SCALE_MIN) / (CLASSES - 1)
    return [SCALE_MIN * math.exp(step * i) for i in range(CLASSES)]


def thresholds(unit: int) -> np.ndarray:
    """Scales where one class gives way to the next (geometric means), as integers of 1/unit."""
    table = scales()
    means = [math.sqrt(a * b) for a, b in itertools.pairwise(table)]
    return np.array([round(mean * unit) for mean in means], dtype=np.int64)


@functools.cache
def gaussian_frequencies(scale: float) -> np.ndarray:
    """Integer frequencies of -L ... L and the escape, with L about five times the scale."""
    largest = max(1, math.ceil(5 * scale - 1e-6))
    tails = [tail_mass(k, scale) for k in range(largest + 1)]
    bins = (upper - beyond for upper, beyond in itertools.pairwise(tails))
    half = np.array([max(1, round(mass * 2**PRECISION)) for mass in bins], dtype=np.int64)
    escape = max(1, round(2 * tails[-1] * 2**PRECISION))
    centre = 2**PRECISION - 2 * int(half.sum()) - escape
    return np.concatenate([half[::-1], [centre], half, [escape]])


def tail_mass(k: int, scale: float) -> float:
    """Probability that a zero-mean Gaussian is above k + 1/2."""
    return 0.5 * math.erfc((k + 0.5) / (scale * math.sqrt(2)))


class Encoder:
    """Collects the symbols of one level in the order in which they will be decoded."""

    def __init__(self) -> None:
        self.steps: list[tuple[Kept, object, Rows | None]] = []

    def put(self, groups: Sequence[np.ndarray], tables: Sequence[Table]) -> None:
        """Append groups of symbols (int64, any shape), each with its table."""
        outside = []
        for symbols, table in zip(groups, tables, strict=True):
            index = symbols.ravel() - table.low
            escaped = (index < 0) | (index >= table.escape)
            if escaped.any():
                outside.append(_fold(index[escaped], table.escape))
                index = np.where(escaped, table.escape, index)
            self._push(index.astype(np.int32), table.model)
        if outside:
            self.put_numbers(np.concatenate(outside))

    def put_numbers(self, values: np.ndarray) -> None:
        """Append integers within 1 ... 2^23 - 1, of which nothing is known."""
        if not len(values):
            return
        lengths = np.frexp(values)[1]
        self._push((lengths - 1).astype(np.int32), _BITS)
        for bits in range(2, 24):
            rest = values[lengths == bits] - (1 << (bits - 1))
            self._push(rest.astype(np.int32), Uniform(1 << (bits - 1)))

    def put_check(self, check: int) -> None:
        """Append a number within 0 ... 2^16 - 1 that the decoder must find to be its own."""
        self._push(np.array([check], np.int32), _CHECK)

    def put_digits(self, digits: np.ndarray, odds: np.ndarray, rows: np.ndarray) -> None:
        """Append digits 0, 1, ... with their probabilities `odds[rows]`, of which those are kept
        that are needed: `odds` may change afterwards.

        Args:
            digits: (n,).
            odds: (S, number of digits), floats, multiples of 2^-20.
            rows: (n,), integers.
        """
        if len(odds) > 256:
            seen = np.zeros(len(odds), bool)
            seen[rows] = True
            number = np.cumsum(seen) - 1
            odds, rows = odds[seen], number.astype(np.min_scalar_type(number[-1]))[rows]
        odds, kind = odds.copy(), np.min_scalar_type(len(odds) - 1)
        keep = _packed if len(digits) >= LARGE else np.asarray
        for start in range(0, len(digits), CHUNK):
            part = slice(start, start + CHUNK)
            kept_rows = keep(rows[part].astype(kind))
            self._push(keep(digits[part].astype(np.uint8)), _ANY, (odds, kept_rows))

    def _push(self, values: Kept, model: object, rows: Rows | None = None) -> None:
        if len(values):
            self.steps.append((values, model, rows))


def payloads(levels: Sequence[Encoder]) -> list[bytes]:
    """The code of all levels, in the pieces that each of them takes."""
    coder, edges = AnsCoder(_BEGIN), []
    for level in reversed(levels):
        edges.append(coder.pos()[0])
        for values, model, rows in reversed(level.steps):
            looked_up = () if rows is None else (rows[0][_array(rows[1])],)
            coder.encode_reverse(_array(values).astype(np.int32), model, *looked_up)
    words = coder.get_compressed().astype("<u4")
    edges.append(len(words))
    return [words[a:b].tobytes() for a, b in itertools.pairwise(edges)][::-1]


class Decoder:
    """Takes symbols from the levels of `payloads`, in the order in which they were put: `begin`s
    each level, and `finish`es it."""

    def __init__(self) -> None:
        self._coder = AnsCoder()

    def begin(self, payload: bytes) -> None:
        """Take the next level's words.

        Raises:
            MismatchError: no encoder made these bytes.
        """
        if len(payload) % 4:
            raise MismatchError
        words = np.frombuffer(payload, "<u4").astype(np.uint32)
        words = np.concatenate([words, self._coder.get_compressed()])
        if not words[-1:].any():
            raise MismatchError
        self._coder = AnsCoder(words)

    def take(self, counts: Sequence[int], tables: Sequence[Table]) -> list[np.ndarray]:
        """Groups of symbols, int64, of these sizes."""
        groups = [
            self._pop(count, table.model) for count, table in zip(counts, tables, strict=True)
        ]
        escaped = [group == table.escape for group, table in zip(groups, tables, strict=True)]
        sizes = [int(mask.sum()) for mask in escaped]
        values = self.take_numbers(sum(sizes))
        for group, mask, size, table in zip(groups, escaped, sizes, tables, strict=True):
            group[mask], values = _unfold(values[:size], table.escape), values[size:]
            group += table.low
        return groups

    def check(self, check: int) -> None:
        """Compare a number with the one that `Encoder.put_check` took.

        Raises:
            MismatchError: they differ.
        """
        if self._pop(1, _CHECK)[0] != check:
            raise MismatchError

    def take_numbers(self, number: int) -> np.ndarray:
        """Integers as `Encoder.put_numbers` takes them, int64."""
        values = np.ones(number, np.int64)
        if not number:
            return values
        lengths = self._pop(number, _BITS) + 1
        for bits in range(2, 24):
            which = lengths == bits
            rest = self._pop(int(which.sum()), Uniform(1 << (bits - 1)))
            values[which] = rest + (1 << (bits - 1))
        return values

    def take_digits(self, odds: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Digits as `Encoder.put_digits` takes them, int32."""
        parts = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        digits = [self._coder.decode(_ANY, odds[part]) for part in parts]
        return np.concatenate([np.empty(0, np.int32), *digits])

    def _pop(self, count: int, model: object) -> np.ndarray:
        if not count:
            return np.empty(0, np.int64)
        return self._coder.decode(model, count).astype(np.int64)

    def copy(self) -> "Decoder":
        """One that goes on from here by itself."""
        other = Decoder()
        other._coder = self._coder.clone()
        return other

    def lacks_words(self) -> bool:
        """Whether what was taken needed more words than there are."""
        return bool(self._coder.num_words() < len(_BEGIN))

    def finish(self, last: bool) -> None:
        """Check that nothing of the level is left, nor, of the last, of the code.

        Raises:
            MismatchError: symbols were taken with other tables than they were put with.
        """
        left = self._coder.get_compressed()
        if len(left) != len(_BEGIN) or (last and not np.array_equal(left, _BEGIN)):
            raise MismatchError


def _packed(array: np.ndarray) -> Packed:
    return zlib.compress(array.tobytes(), 1), array.dtype


def _array(kept: Kept) -> np.ndarray:
    """What was packed, if it was."""
    if isinstance(kept, np.ndarray):
        return kept
    return np.frombuffer(zlib.decompress(kept[0]), kept[1])


def _fold(index: np.ndarray, escape: int) -> np.ndarray:
    """Indices outside [0, escape) to 1, 2, 3, ...: odd ones above the table, even ones below."""
    return np.where(index >= escape, 2 * (index - escape) + 1, -2 * index)


def _unfold(values: np.ndarray, escape: int) -> np.ndarray:
    return np.where(values % 2 == 1, (values - 1) // 2 + escape, -(values // 2))
