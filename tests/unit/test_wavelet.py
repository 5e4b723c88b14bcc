"""The wavelet, the digits and the networks, in PyTorch and by the model's file."""

import copy
from collections.abc import Iterator

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from progdtd.models import wavelet as networks
from progdtd.models.wavelet import FEATURE, PIXEL, SEEN, SIGNED, Wavelet
from progdtd.models.wavelet_file import save
from progdtd.wavelet import network, picture, transform, walk
from progdtd.wavelet.network import ZERO, Network, card_in

SIDES = st.integers(1, 150)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(SIDES, SIDES)
@settings(max_examples=25, deadline=None)
def test_the_transform_inverts_and_has_a_coefficient_for_every_sample(height, width) -> None:
    pixels = noise(height, width)
    coefficients = transform.forward(pixels)
    there = [transform.exists(height, width, scale) for scale in range(transform.SCALES + 1)]
    assert sum(map(np.sum, there)) == 3 * height * width
    for scale, (c, exists) in enumerate(zip(coefficients, there, strict=True)):
        assert c.shape == exists.shape
        assert c.shape[1:] == transform.grid_of(height, width, scale)
        assert not c[~exists].any()
    back = np.moveaxis(transform.inverse(coefficients, height, width), 0, 2)
    np.testing.assert_allclose(back, pixels, atol=2e-3)


def test_the_transform_is_nearly_orthonormal(photograph) -> None:
    """So that a threshold means as many grey levels everywhere."""
    picture = photograph[:192, :256]
    energy = sum(np.square(c, dtype=np.float64).sum() for c in transform.forward(picture))
    assert energy == pytest.approx(np.square(picture - transform.GREY).sum(), rel=0.1)


def test_the_transform_of_batches_is_the_same(photograph) -> None:
    batch = np.stack([photograph[:128, :192], photograph[100:228, 200:392]])
    pixels = torch.from_numpy(batch.copy()).permute(0, 3, 1, 2).float()
    in_torch = networks.forward(pixels)
    for number, one in enumerate(batch):
        for ours, theirs in zip(transform.forward(one), in_torch, strict=True):
            np.testing.assert_allclose(ours, theirs[number], atol=1e-2)
    torch.testing.assert_close(networks.inverse(in_torch), pixels, atol=2e-3, rtol=0)


class Guessing:
    """A network that knows nothing."""

    def trunk(self, network, scale, place, coarser, row) -> tuple[tuple, np.ndarray]:
        rng = np.random.default_rng([scale, row])
        shape = (2 * len(place), *place.shape[1:])
        return (), rng.integers(0, 256, shape, np.uint8)


def walked(a_walk: walk.Walk, steps: list[np.ndarray]) -> Iterator[walk.Unit]:
    """Every unit, before it is answered."""
    units = a_walk.units()
    unit = next(units, None)
    while unit is not None:
        yield unit
        try:
            unit = units.send(walk.answer(unit, steps[unit.scale], a_walk.plane))
        except StopIteration:
            return


@given(SIDES, SIDES, st.integers(0, 2**32 - 1), st.integers(0, walk.PLANES))
@settings(max_examples=12, deadline=None)
def test_a_walk_ends_where_all_is_known(height, width, seed, bits) -> None:
    """And it asks once for every digit, of coefficients that there are."""
    rng = np.random.default_rng(seed)
    steps = []
    for scale in range(transform.SCALES + 1):
        there = transform.exists(height, width, scale)
        most = (1 << int(rng.integers(0, bits + 1))) - 1
        steps.append((rng.integers(-most, most + 1, there.shape) * there).astype(np.int16))
    first = walk.first_planes(steps)
    a_walk = walk.Walk(Guessing(), height, width, first)
    asked = [np.zeros(step.shape, int) for step in steps]
    for unit in walked(a_walk, steps):
        asked[unit.scale].reshape(-1)[unit.where] += 1
    for scale, (place, step) in enumerate(zip(a_walk.places, steps, strict=True)):
        size = np.maximum(abs(place) - 1, 0) >> 1
        np.testing.assert_array_equal(size * np.sign(place), step)
        planes = np.repeat(first[scale] + 1, len(step) // 3)[:, None, None]
        np.testing.assert_array_equal(asked[scale], planes * transform.exists(height, width, scale))


def test_what_is_known_contains_what_is(photograph) -> None:
    """At every place that a prefix can end at."""
    pixels = photograph[:70, :90]
    exact = [c / walk.STEP for c in transform.forward(pixels)]
    steps = [np.trunc(c).astype(np.int16) for c in exact]
    a_walk = walk.Walk(Guessing(), 70, 90, walk.first_planes(steps))
    for _ in walked(a_walk, steps):
        for place, value in zip(a_walk.places, exact, strict=True):
            centre, half = picture.interval(place)
            assert (abs(value / 2.0**a_walk.plane - centre) <= half).all()


def round_biases(model: networks.Scales | networks.Picture) -> None:
    """To what the file has of them, of which training knows nothing: sums near half an integer are
    rounded alike by both only then."""
    scales = getattr(model, "scales", model)
    layers = [(scales.low_message, None, FEATURE), (scales.message, None, FEATURE)]
    for trunk in (scales.low, scales.detail):
        layers += [(trunk.known, trunk.at_start, SEEN), (trunk.first, trunk.at_first, SIGNED)]
        layers += [(trunk.second, None, SIGNED), (trunk.head, trunk.at_head, FEATURE)]
    if isinstance(model, networks.Picture):
        layers += [(model.pixels, None, SEEN), (model.correction, None, PIXEL)]
        layers += [(model.features, model.at_pixels, FEATURE)]
        layers += [(block.first, None, PIXEL) for block in model.blocks]
        layers += [(block.second, None, FEATURE) for block in model.blocks]
    for layer, table, step in layers:
        unit = layer.steps().flatten() * step
        for numbers in [layer.bias, *([] if table is None else [table.weight])]:
            numbers.copy_((numbers / unit).round() * unit)


@torch.no_grad()
@pytest.mark.parametrize("name", ["digits", "picture"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_file_computes_what_training_does(wavelet, tmp_path, name, dtype, threads) -> None:
    """Bit for bit: its sums are integers, however they are ordered and whatever holds them."""
    model = copy.deepcopy(wavelet)
    scales = model.digits if name == "digits" else model.picture.scales
    round_biases(scales)
    save(model, tmp_path / "a.onnx", {})
    file, scales = Network((tmp_path / "a.onnx").read_bytes(), threads), scales.to(dtype)
    rng = np.random.default_rng(0)
    features = message = None
    for scale in range(4):
        times = 1 << max(scale - 1, 0)
        shape = (9 if scale else 3, 6 * times, 10 * times)
        size = np.exp(rng.uniform(0, 8, shape)).astype(np.int16) - 1
        place = size * rng.choice((-1, 1), shape).astype(np.int16)
        features, out = file.trunk(name, scale, place, features, 5)
        seen = scales.see(torch.from_numpy(place)[None].int())
        h, numbers = scales.trunk(scale, seen, message, torch.tensor([5]))
        np.testing.assert_array_equal(features[0] * FEATURE, h.permute(0, 2, 3, 1).numpy())
        step = scales.low.step
        np.testing.assert_array_equal((out.astype(int) - ZERO) * step, numbers[0].numpy())
        assert out.std() > 8
        message = scales.pass_on(scale, h, seen)


@torch.no_grad()
def test_the_file_shows_the_picture(wavelet, tmp_path, photograph) -> None:
    """That the networks in PyTorch show, but where floats of pixels are rounded another way."""
    wavelet = copy.deepcopy(wavelet)
    round_biases(wavelet.picture)
    save(wavelet, tmp_path / "a.onnx", {})
    file = Network((tmp_path / "a.onnx").read_bytes())
    pixels = torch.from_numpy(photograph[:128, :192].copy()).permute(2, 0, 1)[None].float()
    steps = networks.indices(pixels)
    for plane in (0, 3, 8):
        places = [networks.Plane(step, plane).after for step in steps]
        in_torch = wavelet.picture(places, torch.tensor([plane])).clamp(0, 255)[0]
        known = [place[0].numpy().astype(np.int16) for place in places]
        shown = picture.show(file, known, plane, 128, 192)
        difference = np.abs(shown - in_torch.permute(1, 2, 0).numpy())
        assert difference.max() < 2
        assert (difference > (1.2 if plane == 8 else 0.51)).mean() < 0.001  # 8 is enlarged


@pytest.mark.parametrize("blocks", [1, 8])
def test_bands_of_rows_give_the_same_numbers(
    wavelet, tmp_path, photograph, monkeypatch, blocks
) -> None:
    model = copy.deepcopy(wavelet)
    for _ in range(1, blocks):
        block = networks.Block(8)
        torch.nn.init.normal_(block.first.weight, std=0.25)
        torch.nn.init.normal_(block.second.weight, std=0.25)
        model.picture.blocks.append(block)
    save(model, tmp_path / "a.onnx", {})
    file = Network((tmp_path / "a.onnx").read_bytes())
    pixels = photograph[:, :200]
    steps = [np.trunc(c / 16).astype(np.int16) for c in transform.forward(pixels)]
    places = [np.where(step, (2 * abs(step) + 1) * np.sign(step), 1) for step in steps]

    def computed() -> tuple[list[np.ndarray], np.ndarray]:
        features, numbers = None, []
        for scale, place in enumerate(places):
            features, out = file.trunk("digits", scale, place, features, 4)
            numbers.append(out)
        return numbers, picture.show(file, places, 2, *pixels.shape[:2])

    whole, shown = computed()
    monkeypatch.setattr(network, "POSITIONS", 700)
    banded, shown_banded = computed()
    for one, other in zip(whole, banded, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(shown.astype(int) - shown_banded).max() <= 1


def test_odds_are_whole_numbers_that_sum_to_one() -> None:
    odds = walk.odds().astype(np.float64) * (1 << walk.ODDS_BITS)
    assert (odds == odds.round()).all()
    assert (odds.sum(1) == 1 << walk.ODDS_BITS).all()
    assert odds.min() >= 1
    np.testing.assert_array_equal(odds[1:], odds[:0:-1, ::-1])


def test_the_card_is_read_without_the_model(wavelet_file, monkeypatch) -> None:
    card = card_in(wavelet_file.read_bytes())
    assert card["made"] == "at random"
    assert card["width"] == 8
    metadata = onnxruntime.InferenceSession(wavelet_file).get_modelmeta().custom_metadata_map
    assert set(metadata) == {network.CARD}


@pytest.mark.parametrize("content", [b"", b"\x08", b"no model", bytes(100), b"\xff" * 50])
def test_what_is_no_model_is_refused(content) -> None:
    for read in (card_in, Network):
        with pytest.raises(ValueError, match="no wavelet model"):
            read(content)


def test_models_of_another_time_are_refused_by_a_sentence(wavelet_file, monkeypatch) -> None:
    monkeypatch.setattr(network, "OUTPUTS", ("some that the file lacks",))
    with pytest.raises(ValueError, match="of an older kind"):
        Network(wavelet_file.read_bytes())


def test_damaged_models_are_refused(wavelet_file) -> None:
    content = wavelet_file.read_bytes()
    for size in range(0, len(content), len(content) // 40):
        with pytest.raises(ValueError, match="no wavelet model"):
            Network(content[:size])


def test_the_fingerprint_names_the_digit_network_alone(tmp_path) -> None:
    prints = []
    model = Wavelet(width=8, pixel_width=8, blocks=1)
    for part in (None, model.picture.correction.bias, model.digits.low.known.weight):
        with torch.no_grad():
            if part is not None:
                part += 1
        save(model, tmp_path / "a.onnx", {})
        prints.append(card_in((tmp_path / "a.onnx").read_bytes())["fingerprint"])
    assert prints[0] == prints[1] != prints[2]
