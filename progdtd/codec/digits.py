"""How a Gaussian symbol is made known in ternary digits, what each costs and what it brings.

What is known of a symbol is an interval: at first everything, in the end one integer. A digit picks
a third of the interval: steps of 3^t nest exactly, because round(round(k / 3) / 3) = round(k / 9).
A digit's probability is that of its third given the interval, so that by the chain rule all digits
together cost what the symbol costs.

The order in which digits are sent follows from what is known alone. A digit's *urgency* is the fall
of the expected squared error for each expected bit, of this digit and of those that follow it with
at least the same urgency: the first digits of a narrow Gaussian bring nothing by themselves and
take the urgency of what they lead to. (This is the Gittins index of the symbol's tree.) It is found
from the known symbols upwards: at a slope s, the best of all ways to go on from a state gains
G(s) = max(0, fall - s * bits + the mean of G(s) over the three states that its digit leads to), and
the digit's urgency is the largest u with G(2^(u / 32)) > 0.

Everything is a table over the 64 classes of scale, made once, of integers and of float64 sums,
products and comparisons in a fixed order, which are the same on every machine.

Sources: Lee, Jeon, Choi, Park, Kim, "DPICT: Deep progressive image compression using trit-planes",
CVPR 2022, for ternary digits, their conditional probabilities and means, and an order by the fall
of the error for each bit; Gittins, "Bandit processes and dynamic allocation indices", Journal of
the Royal Statistical Society B, 1979, for the index. That the index orders the digits is ours.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from progdtd.codec.entropy import gaussian_frequencies, scales

OCTAVE = 32
"""Urgencies and sensitivities are logarithms to base 2^(1/32)."""

LOWEST, HIGHEST = -6 * OCTAVE, 17 * OCTAVE
"""Urgencies of digits lie within."""

ODDS_BITS = 20


@dataclass(frozen=True)
class Refinement:
    """The states in which a symbol can be, over all classes.

    Args:
        roots: (64,) state of a symbol of which only the class is known.
        first: (S,) the state after digit 0; digits 1 and 2 lead to the next two. -1 once known.
        width: (S,) how many integers each third of the interval has; 0 once known.
        odds: (S, 3) probabilities of the digits, float64, multiples of 2^-20; 0 leads nowhere.
        value: (S,) mean of the interval, float32: how a symbol is reconstructed.
        urgency: (S,) of the next digit.
        escape: (S,) -1 or 1 where a known symbol stands for all those below or above, else 0.
        largest: (64,) magnitude of the symbols that stand for all beyond.
        spent: (64, HIGHEST - LOWEST) bits of 1/65536 that a symbol of a class is expected to cost
            at each urgency, counted from LOWEST; float64, whole numbers.
    """

    roots: np.ndarray
    first: np.ndarray
    width: np.ndarray
    odds: np.ndarray
    value: np.ndarray
    urgency: np.ndarray
    escape: np.ndarray
    largest: np.ndarray
    spent: np.ndarray


@dataclass
class _Plane:
    """The intervals of one width of one class, from the lowest to the highest.

    Of each of n: `mass`, `mean` and `square` are the sums of weights, of weighted symbols and of
    weighted squares, `error` the weighted squared error if the symbol stays as known as it is,
    `gain` (n, HIGHEST - LOWEST) is G at each of `_slopes()`, and `odds` (n, 3), `urgency` and
    `bits` (expected) are the next digit's.
    """

    mass: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    error: np.ndarray
    gain: np.ndarray
    odds: np.ndarray
    urgency: np.ndarray
    bits: np.ndarray


@functools.cache
def refinement() -> Refinement:
    """The tables, made once a process."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in Refinement.__dataclass_fields__}
    base = 0
    for scale in scales():
        frequencies = gaussian_frequencies(scale)
        largest = len(frequencies) // 2
        weights = np.array([frequencies[-1], *2 * frequencies[:-1], frequencies[-1]], np.float64)
        planes = _planes(weights, largest)
        parts["roots"].append(np.array([base]))
        parts["largest"].append(np.array([largest]))
        parts["spent"].append(_spent(planes)[None])
        for number, plane in enumerate(planes):
            size = len(plane.mass)
            known = number == len(planes) - 1
            first = np.full(size, -1) if known else base + size + 3 * np.arange(size)
            symbols = np.arange(size) - size // 2
            mean = plane.mean / np.maximum(plane.mass, 1)
            parts["first"].append(first)
            parts["width"].append(np.full(size, 0 if known else len(planes[-1].mass) // size // 3))
            parts["odds"].append(plane.odds)
            parts["value"].append((symbols if known else mean).astype(np.float32))
            parts["urgency"].append(plane.urgency)
            parts["escape"].append(np.where(known & (abs(symbols) == largest), np.sign(symbols), 0))
            base += size
    whole = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    integers = {name: array for name, array in whole.items() if array.dtype == np.int64}
    return Refinement(**whole | {name: array.astype(np.int32) for name, array in integers.items()})


def _planes(weights: np.ndarray, largest: int) -> list[_Plane]:
    """The planes of a class from the root down.

    Args:
        weights: of the symbols -largest ... largest, whole numbers.
    """
    depth = next(d for d in range(20) if 3**d > 2 * largest)
    mass = np.pad(weights, (3**depth // 2) - largest)
    symbols = np.arange(len(mass)) - len(mass) // 2.0
    none, odds = np.zeros(len(mass)), np.zeros((len(mass), 3))
    sums, urgency = (mass, mass * symbols, mass * symbols**2), np.full(len(mass), LOWEST)
    planes = [_Plane(*sums, none, none[:, None], odds, urgency, none)]
    for _ in range(depth):
        planes.append(_joined(planes[-1]))
    return planes[::-1]


def _joined(finer: _Plane) -> _Plane:
    """The plane of intervals three times as wide."""

    def thirds(values: np.ndarray) -> list[np.ndarray]:
        return [values[i::3] for i in range(3)]

    def sum_of(values: np.ndarray) -> np.ndarray:
        a, b, c = thirds(values)
        return a + b + c

    mass, mean, square = map(sum_of, (finer.mass, finer.mean, finer.square))
    there = np.maximum(mass, 1)
    error = square - mean * mean / there
    chances = [third / there for third in thirds(finer.mass)]
    fall = (error - sum_of(finer.error)) / there
    a, b, c = map(_cost, chances)
    bits = a + b + c
    pairs = zip(chances, thirds(finer.gain), strict=True)
    a, b, c = (chance[:, None] * gain for chance, gain in pairs)
    gain = np.maximum(fall[:, None] - bits[:, None] * _slopes() + (a + b + c), 0)
    urgency = np.maximum(LOWEST + (gain > 0).sum(1) - 1, LOWEST)
    odds = shares(finer.mass.astype(np.int64).reshape(-1, 3))
    return _Plane(mass, mean, square, error, gain, odds, urgency, bits)


@functools.cache
def _slopes() -> np.ndarray:
    """2^(u / OCTAVE) for u in LOWEST ... HIGHEST - 1, each the same on every machine."""
    fine = [round(2 ** (i / OCTAVE) * 2**30) / 2**30 for i in range(OCTAVE)]
    return np.array([math.ldexp(fine[u % OCTAVE], u // OCTAVE) for u in range(LOWEST, HIGHEST)])


def _cost(chance: np.ndarray) -> np.ndarray:
    """Probability times bits of a digit; the bits are rounded to 2^-20."""
    bits = np.round(-np.log2(np.where(chance > 0, chance, 1)) * 2**20) / 2**20
    return chance * bits


def shares(masses: np.ndarray) -> np.ndarray:
    """Probabilities (n, 3) of masses (n, 3), int64 below 2^40, as multiples of 2^-20: rounded down,
    at least one where there is any mass, and the rest to the largest."""
    total = masses.sum(1)
    counts = np.maximum((masses << ODDS_BITS) // np.maximum(total, 1)[:, None], masses > 0)
    counts[np.arange(len(counts)), masses.argmax(1)] += (1 << ODDS_BITS) - counts.sum(1)
    return counts / (1 << ODDS_BITS)


def _spent(planes: list[_Plane]) -> np.ndarray:
    """Expected bits of a class at each urgency."""
    spent = np.zeros(HIGHEST - LOWEST)
    for plane in planes[:-1]:
        np.add.at(spent, plane.urgency - LOWEST, plane.mass / planes[0].mass[0] * plane.bits)
    return np.round(spent * 2**16)
