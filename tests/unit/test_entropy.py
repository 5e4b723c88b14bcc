import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progdtd.codec import entropy
from progdtd.codec.entropy import LARGEST, PRECISION, Decoder, Encoder, MismatchError

TABLES = entropy.gaussian_tables()
SYMBOLS = st.one_of(st.integers(-3, 3), st.integers(-LARGEST, LARGEST))


@given(
    st.lists(st.tuples(st.integers(0, 63), st.lists(SYMBOLS, max_size=30)), max_size=12),
)
def test_round_trip(groups: list[tuple[int, list[int]]]) -> None:
    """Any symbols, likely or far outside the tables, come back; the coder ends where it began."""
    values = [np.array(symbols, dtype=np.int64) for _, symbols in groups]
    tables = [TABLES[index] for index, _ in groups]
    encoder = Encoder()
    encoder.put(values, tables)
    encoder.put(values[::-1], tables[::-1])
    decoder = Decoder(encoder.to_bytes())
    first = decoder.take([len(v) for v in values], tables)
    second = decoder.take([len(v) for v in values[::-1]], tables[::-1])
    decoder.finish()
    for got, expected in zip([*first, *second], [*values, *values[::-1]], strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("index", [0, 20, 40, 63])
def test_the_code_is_as_long_as_the_distribution_says(index: int) -> None:
    scale = entropy.scales()[index]
    symbols = np.round(np.random.default_rng(0).normal(0, scale, 200_000)).astype(np.int64)
    encoder = Encoder()
    encoder.put([symbols], [TABLES[index]])
    values, counts = np.unique(symbols, return_counts=True)
    mass = [max(entropy.bin_mass(abs(int(k)), scale) if k else
                1 - 2 * entropy.tail_mass(0, scale), 1e-9) for k in values]  # fmt: skip
    ideal = -(counts * np.log2(mass)).sum()
    assert 8 * len(encoder.to_bytes()) < ideal * 1.002 + 64


def test_other_tables_are_noticed() -> None:
    """Decoding with neighbouring classes ends in another state: no checksum is needed for that."""
    rng = np.random.default_rng(1)
    symbols = np.round(rng.normal(0, 1.5, 2000)).astype(np.int64)
    encoder = Encoder()
    encoder.put([symbols], [TABLES[22]])
    for index in (21, 23):
        decoder = Decoder(encoder.to_bytes())
        decoder.take([2000], [TABLES[index]])
        with pytest.raises(MismatchError):
            decoder.finish()


@given(st.binary(max_size=200), st.integers(0, 63))
def test_any_bytes_decode_or_mismatch(code: bytes, index: int) -> None:
    try:
        decoder = Decoder(code)
        (symbols,) = decoder.take([500], [TABLES[index]])
        decoder.finish()
    except MismatchError:
        return
    encoder = Encoder()
    encoder.put([symbols], [TABLES[index]])
    assert encoder.to_bytes() == code


def test_frequencies_are_the_same_on_every_machine() -> None:
    """No entry lies near a rounding boundary, so an error of 1e-12 in `erfc` changes none."""
    for scale in entropy.scales():
        frequencies = entropy.gaussian_frequencies(scale)
        assert frequencies.sum() == 2**PRECISION
        reach = (len(frequencies) - 2) // 2
        exact = [entropy.bin_mass(k, scale) * 2**PRECISION for k in range(1, reach + 1)]
        exact.append(2 * entropy.tail_mass(reach, scale) * 2**PRECISION)
        margins = [abs(value - math.floor(value) - 0.5) for value in exact]
        assert min(margins) > 1e-12 * 2**PRECISION


def test_thresholds_are_the_same_on_every_machine() -> None:
    table = entropy.scales()
    exact = [math.sqrt(a * b) * 4096 for a, b in itertools.pairwise(table)]
    assert min(abs(value - math.floor(value) - 0.5) for value in exact) > 1e-8
    assert len(entropy.thresholds(4096)) == 63
