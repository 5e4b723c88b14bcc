import hashlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from progdtd.codec import entropy
from progdtd.codec.entropy import LARGEST, PRECISION, Decoder, Encoder, payloads
from progdtd.codec.errors import MismatchError

TABLES = entropy.gaussian_tables()
SYMBOLS = st.one_of(st.integers(-3, 3), st.integers(-LARGEST, LARGEST))


@given(st.lists(st.tuples(st.integers(0, 63), st.lists(SYMBOLS, max_size=30)), max_size=12))
def test_round_trip(groups: list[tuple[int, list[int]]]) -> None:
    """Any symbols, likely or far outside the tables, come back, level after level; the coder ends
    where it began."""
    values = [np.array(symbols, dtype=np.int64) for _, symbols in groups]
    tables = [TABLES[index] for index, _ in groups]
    levels = [(values, tables), ([], []), (values[::-1], tables[::-1])]
    encoders = [Encoder() for _ in levels]
    for encoder, level in zip(encoders, levels, strict=True):
        encoder.put(*level)
    decoder = Decoder()
    for number, payload in enumerate(payloads(encoders)):
        groups, of_groups = levels[number]
        decoder.begin(payload)
        got = decoder.take([len(group) for group in groups], of_groups)
        decoder.finish(number == 2)
        for found, expected in zip(got, groups, strict=True):
            np.testing.assert_array_equal(found, expected)


def bin_mass(k: int, scale: float) -> float:
    """Probability that a zero-mean Gaussian rounds to k."""
    return entropy.tail_mass(k - 1, scale) - entropy.tail_mass(k, scale)


@pytest.mark.parametrize("index", [0, 20, 40, 63])
def test_the_code_is_as_long_as_the_distribution_says(index: int) -> None:
    scale = entropy.scales()[index]
    symbols = np.round(np.random.default_rng(0).normal(0, scale, 200_000)).astype(np.int64)
    encoder = Encoder()
    encoder.put([symbols], [TABLES[index]])
    values, counts = np.unique(symbols, return_counts=True)
    centre = 1 - 2 * entropy.tail_mass(0, scale)
    mass = [max(bin_mass(abs(int(k)), scale) if k else centre, 1e-9) for k in values]
    ideal = -(counts * np.log2(mass)).sum()
    assert 8 * size_of(encoder) < ideal * 1.002 + 64


def size_of(*levels: Encoder) -> int:
    return sum(map(len, payloads(levels)))


def test_a_level_costs_no_byte_of_its_own() -> None:
    symbols = np.round(np.random.default_rng(0).normal(0, 3, 5000)).astype(np.int64)
    whole, parts = Encoder(), [Encoder() for _ in range(100)]
    whole.put([symbols], [TABLES[30]])
    for encoder, part in zip(parts, np.split(symbols, 100), strict=True):
        encoder.put([part], [TABLES[30]])
    assert size_of(*parts) == size_of(whole)
    assert payloads(parts)[0] != b""


def test_other_tables_are_noticed() -> None:
    """Decoding with neighbouring classes takes other words: no checksum is needed for that."""
    rng = np.random.default_rng(1)
    symbols = np.round(rng.normal(0, 1.5, 2000)).astype(np.int64)
    encoders = [Encoder(), Encoder()]
    for encoder in encoders:
        encoder.put([symbols], [TABLES[22]])
    for index in (21, 23):
        decoder = Decoder()
        decoder.begin(payloads(encoders)[0])
        decoder.take([2000], [TABLES[index]])
        with pytest.raises(MismatchError):
            decoder.finish(last=False)


def test_a_code_that_goes_on_is_noticed() -> None:
    encoders = [Encoder(), Encoder()]
    encoders[1].put([np.array([3, 1])], [TABLES[22]])
    first, second = payloads(encoders)
    assert not second  # the state holds both symbols
    decoder = Decoder()
    decoder.begin(first)
    decoder.finish(last=False)
    with pytest.raises(MismatchError):
        decoder.finish(last=True)
    decoder.begin(second)
    decoder.take([2], [TABLES[22]])
    decoder.finish(last=True)


@given(st.binary(max_size=200), st.integers(0, 63))
@example(bytes(4), 5)
@example(b"\5\0\0\0" + bytes(4), 5)
def test_no_bytes_but_those_of_an_encoder_pass(code: bytes, index: int) -> None:
    def decode() -> None:
        decoder = Decoder()
        decoder.begin(code)
        decoder.take([500], [TABLES[index]])
        decoder.finish(last=True)

    with pytest.raises(MismatchError):
        decode()


def test_a_check_is_compared() -> None:
    encoder = Encoder()
    encoder.put_check(40_000)
    (code,) = payloads([encoder])
    decoder, other = Decoder(), Decoder()
    decoder.begin(code)
    decoder.check(40_000)
    decoder.finish(last=True)
    other.begin(code)
    with pytest.raises(MismatchError):
        other.check(40_001)


def test_frequencies_are_the_same_on_every_machine() -> None:
    """No entry lies near a rounding boundary, so an error of 1e-12 in `erfc` changes none."""
    for scale in entropy.scales():
        frequencies = entropy.gaussian_frequencies(scale)
        assert frequencies.sum() == 2**PRECISION
        reach = (len(frequencies) - 2) // 2
        exact = [bin_mass(k, scale) * 2**PRECISION for k in range(1, reach + 1)]
        exact.append(2 * entropy.tail_mass(reach, scale) * 2**PRECISION)
        assert abs(5 * scale - 1e-6 - round(5 * scale - 1e-6)) > 1e-8  # where the table ends
        margins = [abs(value - math.floor(value) - 0.5) for value in exact]
        assert min(margins) > 1e-12 * 2**PRECISION


def test_thresholds_are_the_same_on_every_machine() -> None:
    table = entropy.scales()
    exact = [math.sqrt(a * b) * 4096 for a, b in itertools.pairwise(table)]
    assert min(abs(value - math.floor(value) - 0.5) for value in exact) > 1e-8
    assert len(entropy.thresholds(4096)) == 63


class WrittenDown:
    """A decoder made from the description in the module's docstring, in plain Python integers."""

    def __init__(self, first: bytes) -> None:
        self.begin(first)
        high, low = self.words.pop(), self.words.pop()
        self.state = high << 32 | low

    def begin(self, code: bytes) -> None:
        self.words = [int.from_bytes(code[i : i + 4], "little") for i in range(0, len(code), 4)]

    def take(self, edges: list[int]) -> int:
        q = self.state % 2**24
        symbol = next(i for i in range(len(edges) - 1) if edges[i] <= q < edges[i + 1])
        left, right = edges[symbol], edges[symbol + 1]
        self.state = (self.state >> 24) * (right - left) + q - left
        if self.state < 1 << 32:
            self.state = self.state << 32 | self.words.pop()
        return symbol

    def group(self, frequencies: np.ndarray, count: int) -> list[int]:
        sums = [0, *np.cumsum(frequencies).tolist()]
        n, total = len(frequencies), sums[-1]
        edges = [s * (2**24 - n) // total + i for i, s in enumerate(sums[:-1])] + [2**24]
        return [self.take(edges) for _ in range(count)]

    def uniform(self, size: int) -> int:
        return self.take([i * (2**24 // size) for i in range(size)] + [2**24])


def test_the_code_is_what_its_description_says() -> None:
    frequencies = [entropy.gaussian_frequencies(entropy.scales()[i]) for i in (0, 25, 40)]
    bottleneck = np.array([1, 700, 64000, 834, 1])
    assert bottleneck.sum() == 2**16
    tables = [*(TABLES[i] for i in (0, 25, 40)), entropy.Table(-2, bottleneck)]
    rng = np.random.default_rng(5)
    values = [np.round(rng.normal(0, s, 60)).astype(np.int64) for s in (0.3, 1.8, 12, 1.2)]
    values[1][:3] = (70, -1000, 2**20)
    values[2][:2] = (-LARGEST, LARGEST)
    encoders = [Encoder(), Encoder()]
    encoders[0].put(values, tables)
    encoders[1].put([values[0]], [tables[0]])
    first, second = payloads(encoders)
    decoder = WrittenDown(first)
    groups = [decoder.group(f, 60) for f in [*frequencies, bottleneck]]
    escaped = [
        (g, i)
        for g, group in enumerate(groups)
        for i, symbol in enumerate(group)
        if symbol == tables[g].escape
    ]
    lengths = [decoder.uniform(23) + 1 for _ in escaped]
    numbers = dict(zip(escaped, [1] * len(escaped), strict=True))
    for bits in range(2, 24):
        for at, length in zip(escaped, lengths, strict=True):
            if length == bits:
                numbers[at] = (1 << (bits - 1)) + decoder.uniform(1 << (bits - 1))
    for (g, i), v in numbers.items():
        groups[g][i] = v // 2 + tables[g].escape if v % 2 else -(v // 2)
    assert len(escaped) >= 5
    assert not decoder.words
    decoder.begin(second)
    again = decoder.group(frequencies[0], 60)
    assert not decoder.words
    assert decoder.state == 1 << 32
    for got, expected, table in zip(
        [*groups, again], [*values, values[0]], [*tables, tables[0]], strict=True
    ):
        assert [symbol + table.low for symbol in got] == expected.tolist()


def test_tables_never_change() -> None:
    """A stream written today has to decode for ever: everything it is decoded with is pinned."""
    digest = hashlib.sha256(entropy.thresholds(4096).astype("<i8").tobytes())
    for scale in entropy.scales():
        digest.update(entropy.gaussian_frequencies(scale).astype("<i8").tobytes())
    assert digest.hexdigest() == "b4aacd8e3fb26ff36c99215997b4d5ebcf8d0b2c3fda3df41f23599be1d523e7"


def test_digits_of_many_states_and_chunks_come_back(monkeypatch) -> None:
    monkeypatch.setattr(entropy, "CHUNK", 100)
    odds = np.tile(np.array([0.5, 0.25, 0.25]), (300, 1))
    odds[256:] = [0.25, 0.25, 0.5]
    rows = np.arange(300)
    digits = (rows % 3).astype(np.uint8)
    encoder, decoder = entropy.Encoder(), entropy.Decoder()
    encoder.put_digits(digits, odds, rows)
    (payload,) = entropy.payloads([encoder])
    monkeypatch.setattr(entropy, "CHUNK", 70)
    decoder.begin(payload)
    assert decoder.take_digits(odds, rows).tolist() == digits.tolist()
    decoder.finish(True)
