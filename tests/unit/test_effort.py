import functools
import math

import numpy as np
import pytest
import torch
from conftest import DTD
from conftest import codec_of as codec_without

from progdtd import Codec
from progdtd.codec import hyperprior, latent_refinement, model_store
from progdtd.codec.digits import OCTAVE
from progdtd.codec.tiles import tiles
from progdtd.errors import UserError
from progdtd.evaluation import protocols
from progdtd.images import to_tensor
from progdtd.tail_drop import TailDrop

LAMBDA = 0.05
EFFORT = latent_refinement.Effort(3, LAMBDA, np.full(12, 6 * OCTAVE))
KNOWN = {"lambda": LAMBDA, "sensitivities": EFFORT.sensitivities.tolist()}
codec_of = functools.partial(codec_without, **KNOWN)


@pytest.fixture(scope="module")
def trained() -> Codec:
    """A model that comes with the project: only of a trained one is the synthesis a picture."""
    return Codec.load(model_store.REFERENCE)


def tensors(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]


def cost(codec: Codec, picture: np.ndarray, steps: int, kind: str = "channels") -> float:
    """R + lambda 255^2 MSE of the whole stream, in bits per pixel."""
    stream = codec.encode(picture, kind, effort=steps)
    decoded = to_tensor(np.asarray(codec.decode(stream)))
    mse = (decoded - to_tensor(picture)).square().mean().item()
    return 8 * len(stream) / decoded[0, 0].numel() + 0.1 * 255**2 * mse


@pytest.mark.parametrize("kind", ["channels", "planes"])
def test_effort_lowers_the_loss_of_real_streams(trained, photograph, kind) -> None:
    picture = photograph[:90, :100]
    without, little, more = (cost(trained, picture, steps, kind) for steps in (0, 3, 9))
    assert more < little < 0.97 * without


@pytest.mark.parametrize(
    "drop", [TailDrop(False, False, name="none"), TailDrop(True, True, (0.3, 0.6))]
)
def test_effort_with_other_tail_drops(model, photograph, drop) -> None:
    codec, picture = codec_of(model, drop), photograph[:64, :64]
    x, (y, z) = tensors(picture), codec.coder.analyse(picture)
    fitted = latent_refinement.fit(model, drop, EFFORT, x, y, z, side=40)
    tile = latent_refinement.Tile(model, drop, EFFORT, x, y, z, next(tiles(4, 4, 40)))
    with torch.no_grad():
        assert tile.loss(fitted, drop.range[1]) < tile.loss(y, drop.range[1])


def test_the_loss_is_that_of_training(model, photograph) -> None:
    x = tensors(photograph[:128, :192])
    with torch.no_grad():
        y, z = model.analyse(x / 255)
        tile = latent_refinement.Tile(model, DTD, EFFORT, x, y, z, next(tiles(8, 12, 40)))
        for p in (0.2, 1.0):
            y_hat, likelihoods = model.quantise(y, z, p)
            bits = -likelihoods["y"].log2().sum()
            error = (model.g_s(y_hat) - x / 255).square().mean() * x[0, 0].numel()
            expected = bits + LAMBDA * 255**2 * error
            torch.testing.assert_close(tile.loss(y, p)[0], expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("wider", [{}, {"g_s": 5, "h_s": 3}])
def test_a_tile_knows_all_that_it_has_an_effect_on(model, photograph, monkeypatch, wider) -> None:
    """Fitting one of several tiles changes the whole image's loss as its own; also where a model
    says that it looks further."""
    model.double()
    monkeypatch.setattr(model, "RECEPTIVE_FIELD", model.RECEPTIVE_FIELD | wider)
    x = tensors(photograph[:250, :310]).double() / 255
    with torch.no_grad():
        padded = torch.nn.functional.pad(x, (0, 10, 0, 6), mode="replicate")
        y, z = model.analyse(padded)
        boxes = list(tiles(16, 20, 4))
        assert len(boxes) == 20
        whole = latent_refinement.Tile(model, DTD, EFFORT, x, y, z, next(tiles(16, 20, 100)))
        for box in boxes:
            tile = latent_refinement.Tile(model, DTD, EFFORT, x, y, z, box)
            other = y.clone()
            other[box.slices] += 1.3
            here = tile.loss(other[box.slices], 1.0) - tile.loss(y[box.slices], 1.0)
            there = whole.loss(other, 1.0) - whole.loss(y, 1.0)
            torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-4)


def test_tiles_are_fitted_too(trained, photograph, monkeypatch) -> None:
    picture = photograph[:130, :150]
    without, whole = cost(trained, picture, 0), cost(trained, picture, 4)
    monkeypatch.setattr(hyperprior, "TILE", 64)
    assert cost(trained, picture, 4) - whole < 0.2 * (without - whole)


def test_a_latent_of_which_the_whole_is_worse_is_not_taken(model, photograph, monkeypatch) -> None:
    codec, picture = codec_of(model), photograph[:64, :128]
    monkeypatch.setattr(latent_refinement, "RATE", 50.0)
    assert torch.equal(codec.coder.analyse(picture, 2)[0], codec.coder.analyse(picture)[0])


def test_the_whole_is_all_that_the_model_was_trained_for(model, photograph, monkeypatch) -> None:
    compared, loss = [], latent_refinement.Tile.loss

    def noted(tile, latent, p, *steepness):
        compared.append((p, *steepness))
        return loss(tile, latent, p, *steepness)

    monkeypatch.setattr(latent_refinement.Tile, "loss", noted)
    codec_of(model, TailDrop(True, True, (0.3, 0.6))).coder.analyse(photograph[:64, :64], 1)
    assert compared[1:] == [(0.6,), (0.6,)]


def test_images_of_a_batch_are_fitted_each_by_itself(model, photograph) -> None:
    x = torch.cat([tensors(photograph[:64, a : a + 64]) for a in (0, 100)])
    with torch.no_grad():
        y, z = model.analyse(x / 255)
    both = latent_refinement.fit(model, DTD, EFFORT, x, y, z, side=4)
    for i in range(2):
        one = latent_refinement.fit(
            model, DTD, EFFORT, x[i : i + 1], y[i : i + 1], z[i : i + 1], side=4
        )
        torch.testing.assert_close(both[i : i + 1], one, rtol=1e-3, atol=1e-3)


def test_soft_rounding_hardens() -> None:
    values = torch.linspace(-3, 3, 241, requires_grad=True)
    apart = (values.detach() % 1 - 0.5).abs() > 0.1
    for steepness, error in ((2, 0.45), (10, 0.12), (60, 1e-4)):
        soft = latent_refinement.soft_round(values, steepness)
        (slope,) = torch.autograd.grad(soft.sum(), values)
        assert (slope > 0).all() or steepness == 60
        assert (soft - values.round())[apart].abs().max() < error
        assert (soft.diff() > -1e-6).all()
    assert torch.equal(latent_refinement.soft_round(values, math.inf), values.round())


def test_fractions_are_spread_over_the_range() -> None:
    found = list(latent_refinement.fractions(TailDrop(True, True, (0.3, 0.9)), 40))
    assert found[::2] == [0.9] * 20
    drawn = sorted(found[1::2])
    assert 0.3 <= drawn[0] < 0.35
    assert 0.85 < drawn[-1] <= 0.9
    assert max(np.diff(drawn)) < 0.06


def test_both_protocols_measure_with_effort(trained, photograph) -> None:
    coder, picture, losses = trained.coder, photograph[100:164, 100:164], {}
    for steps in (0, 2):
        native = protocols.native(coder, picture, [1.0], ["channels", "planes"], steps)
        chosen = latent_refinement.effort_of(steps, coder.loaded.lmbda, coder.sensitivities)
        reference = protocols.reference(coder.model, coder.drop, picture, [1.0], effort=chosen)
        rows = [*native, *reference]
        assert rows[0]["psnr"] == rows[1]["psnr"]
        losses[steps] = [row["bpp"] + 0.1 * 255**2 * 10 ** (-row["psnr"] / 10) for row in rows]
    assert np.less(losses[2], losses[0])[[0, 1, 3]].all()


def test_a_model_that_was_loaded_in_inference_mode_can_be_fitted_to(trained, photograph) -> None:
    with torch.inference_mode():
        codec = Codec.load(model_store.REFERENCE)
        stream = codec.encode(photograph[:64, :64], effort=np.int64(1))
    assert stream == trained.encode(photograph[:64, :64], effort=1)


@pytest.mark.parametrize("wrong", [-1, 1.5, True, np.True_, np.int32(-2), "10", None])
def test_what_is_no_effort_says_so(model, photograph, wrong) -> None:
    with pytest.raises(UserError, match="not a number of steps"):
        codec_of(model).encode(photograph[:64, :64], effort=wrong)


@pytest.mark.parametrize("meta", [{}, {"lambda": None}, {"lambda": 0.0}, {"lambda": "much"}])
def test_effort_needs_lambda(model, photograph, meta) -> None:
    with pytest.raises(UserError, match="record none above 0"):
        codec_without(model, **meta).encode(photograph[:64, :64], effort=1)


def test_effort_needs_sensitivities(model, photograph) -> None:
    with pytest.raises(UserError, match=r"measure_sensitivities\.py"):
        codec_of(model, sensitivities=None).encode(photograph[:64, :64], effort=1)
    codec_of(model, sensitivities=None).encode(photograph[:64, :64], effort=0)


def test_two_steps_bring_most(trained, photograph) -> None:
    """What the sensitivities and scales tell of the loss is right enough for that."""
    picture = photograph[:128, :128]
    without, few, many = (cost(trained, picture, steps) for steps in (0, 2, 10))
    assert without - few > 0.6 * (without - many)


def test_the_curvature_is_that_of_the_loss(model, photograph) -> None:
    """Where the synthesis is linear, and scales are so wide that bins do not matter."""
    model.double()
    model.g_s = torch.nn.ConvTranspose2d(12, 3, 16, 16, bias=False).double()
    with torch.no_grad():
        sensitivities = 255**2 * model.g_s.weight.square().sum((1, 2, 3))
        known = latent_refinement.Effort(1, LAMBDA, (OCTAVE * sensitivities.log2()).numpy())
        y, z = torch.zeros(1, 12, 4, 4).double(), torch.zeros(1, 8, 1, 1).double()
        x = tensors(photograph[:64, :64]).double() / 255
        tile = latent_refinement.Tile(model, DTD, known, x, y, z, next(tiles(4, 4, 40)))
        scales = torch.full_like(y, 8.0)
        tile.prior = lambda p: (scales, torch.zeros_like(y))
        for channel in (0, 7):
            step = torch.zeros_like(y)
            step[0, channel, 1, 2] = 1
            losses = [tile.loss(latent, 1.0) for latent in (-step, 0 * step, step)]
            expected = known.curvature(scales)[0, channel, 1, 2]
            second = (losses[0] - 2 * losses[1] + losses[2])[0]
            torch.testing.assert_close(second, expected, rtol=1e-2, atol=0)
