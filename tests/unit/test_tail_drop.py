import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from progdtd.errors import UserError
from progdtd.tail_drop import P_LEVELS, TailDrop, fraction, kept, mask


@given(st.floats(0, 1), st.integers(1, 400))
def test_kept_as_published(p: float, channels: int) -> None:
    """The published code zeroes the last `C - int(p*C) - 1` channels, none at p = 1."""
    published = channels if p == 1.0 else channels - max(0, channels - int(p * channels) - 1)
    assert kept(p, channels) == published
    assert 1 <= kept(p, channels) <= channels


@pytest.mark.parametrize("channels", [1, 7, 128, 192])
def test_a_fraction_keeps_what_it_was_made_for(channels: int) -> None:
    for count in range(1, channels + 1):
        assert kept(fraction(count, channels), channels) == count


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(1, 200))
def test_mask_keeps_the_leading_channels(ps: list[float], channels: int) -> None:
    masks = mask(torch.tensor(ps, dtype=torch.float64), channels)
    assert masks.shape == (len(ps), channels, 1, 1)
    for p, row in zip(ps, masks.flatten(1), strict=True):
        assert row.tolist() == [1.0] * kept(p, channels) + [0.0] * (channels - kept(p, channels))


def test_mask_of_a_number_and_of_a_tensor_agree() -> None:
    for p in P_LEVELS:
        for channels in (128, 192, 320):
            single = mask(p, channels)
            assert torch.equal(single, mask(torch.tensor([p], dtype=torch.float64), channels))
            assert single.sum() == kept(p, channels)


@given(st.floats(0, 0.5), st.floats(0.5, 1), st.floats(0.2, 3))
def test_draw_stays_in_range_and_repeats_under_a_seed(
    low: float, high: float, power: float
) -> None:
    drop = TailDrop(latent=True, hyper=True, range=(low, high), power=power)
    first = drop.draw(50, torch.Generator().manual_seed(1))
    assert torch.equal(first, drop.draw(50, torch.Generator().manual_seed(1)))
    assert first.min() >= low - 1e-12
    assert first.max() <= high + 1e-12


def test_draw_is_uniform_and_full_keeps_all() -> None:
    generator = torch.Generator().manual_seed(0)
    drop = TailDrop(latent=True, hyper=True, range=(0.3, 1.0))
    assert drop.draw(20000, generator).mean() == pytest.approx(0.65, abs=0.01)
    half = TailDrop(latent=True, hyper=True, full=0.5).draw(20000, generator)
    assert (half == 1).double().mean() == pytest.approx(0.5, abs=0.02)


def test_full_is_drawn_apart_from_p() -> None:
    drop = TailDrop(latent=True, hyper=True, full=0.5)
    p = drop.draw(20000, torch.Generator().manual_seed(0))
    rest = p[p < 1]
    assert rest.mean() == pytest.approx(0.5, abs=0.01)
    assert rest.min() < 0.01


def test_a_power_favours_short_prefixes_and_full_is_the_end_of_the_range() -> None:
    generator = torch.Generator().manual_seed(0)
    squared = TailDrop(latent=True, hyper=True, power=2.0).draw(20000, generator)
    assert squared.mean() == pytest.approx(1 / 3, abs=0.01)
    ends = TailDrop(latent=True, hyper=True, range=(0.3, 0.6), full=1.0).draw(50, generator)
    assert ends.tolist() == [0.6] * 50


def test_fractions_keep_the_tail_that_is_not_dropped() -> None:
    p = torch.tensor([0.2, 0.7])
    assert TailDrop(latent=True, hyper=True).fractions(0.2) == (0.2, 0.2)
    assert TailDrop(latent=True, hyper=False).fractions(0.2) == (0.2, 1.0)
    latent, hyper = TailDrop(latent=False, hyper=True).fractions(p)
    assert latent.tolist() == [1.0, 1.0]
    assert torch.equal(hyper, p)


@pytest.mark.parametrize("bounds", [(-0.1, 1), (0.5, 0.4), (0, 1.1), (0.5,), (0, 0.5, 1)])
def test_bad_range(bounds: tuple) -> None:
    with pytest.raises(UserError, match=r"drop\.range"):
        TailDrop(latent=True, hyper=True, range=bounds)
