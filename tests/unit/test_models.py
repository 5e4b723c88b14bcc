import pytest
import torch
from compressai.models.google import MeanScaleHyperprior, ScaleHyperprior
from conftest import lively

from progdtd.models import ProgressiveHyperprior, ProgressiveMeanScaleHyperprior
from progdtd.tail_drop import P_LEVELS, kept
from progdtd.training.losses import RateDistortion

PAIRS = [
    (ProgressiveHyperprior, ScaleHyperprior),
    (ProgressiveMeanScaleHyperprior, MeanScaleHyperprior),
]


def x(side: int = 128) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(3))


def images() -> torch.Tensor:
    return (x() * 255).round().to(torch.uint8)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_without_drop_equals_compressai(ours: type, theirs: type) -> None:
    model = lively(ours(8, 12))
    plain = theirs.from_state_dict(model.state_dict()).eval()
    mine, other = model(x()), plain(x())
    assert torch.equal(mine["x_hat"], other["x_hat"])
    for name in ("y", "z"):
        assert torch.equal(mine["likelihoods"][name], other["likelihoods"][name])
    assert mine["likelihoods"]["y"].min() < 0.9, "the test needs latents that cost something"


@pytest.mark.parametrize(("training", "rounded"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("p", [0.0, 0.3, torch.tensor([0.1, 0.8])])
def test_dropped_channels_are_exactly_zero_and_free(model, training, rounded, p) -> None:
    """Also with trained medians, where masking before quantisation would not give zeros."""
    with torch.no_grad():
        model.entropy_bottleneck.quantiles[:, 0, 1] = 0.37
    seen = {}
    model.h_s.register_forward_pre_hook(lambda _, inputs: seen.update(z_hat=inputs[0]))
    model.g_s.register_forward_pre_hook(lambda _, inputs: seen.update(y_hat=inputs[0]))
    out = model.train(training)(x(), p, rounded=rounded)
    for i in range(2):
        fraction = float(p[i]) if isinstance(p, torch.Tensor) else p
        for name, channels in (("y", 12), ("z", 8)):
            tail = kept(fraction, channels)
            assert not seen[f"{name}_hat"][i, tail:].any()
            assert seen[f"{name}_hat"][i, :tail].any()
            assert (out["likelihoods"][name][i, tail:] == 1).all()


def test_hyper_latent_comes_from_the_undropped_latent(model) -> None:
    cut, whole = model(x(), 0.2, p_hyper=1.0), model(x())
    assert not torch.equal(cut["x_hat"], whole["x_hat"])
    assert torch.equal(cut["likelihoods"]["z"], whole["likelihoods"]["z"])


def test_each_image_of_a_batch_has_its_own_p(model) -> None:
    together = model(x(), torch.tensor([0.2, 0.9]))["x_hat"]
    for i, p in enumerate((0.2, 0.9)):
        torch.testing.assert_close(together[i : i + 1], model(x()[i : i + 1], p)["x_hat"])


def test_rate_never_falls_with_the_latent(model) -> None:
    """With the hyper-latent whole the scales stay, so every channel can only add bits."""
    y, z = model.analyse(x())
    rates = [-model.quantise(y, z, p, p_hyper=1.0)[1]["y"].log2().sum().item() for p in P_LEVELS]
    assert rates == sorted(rates)
    assert rates[-1] > rates[0]


def test_bfloat16_touches_the_convolutions_alone(model) -> None:
    """Entropy models, bits and quantiles stay in float32 under autocast."""
    objective, all_of = RateDistortion(model, 0.1), [1.0, 1.0]
    exact = objective(images(), all_of, all_of)
    seen = {}
    model.g_a[2].register_forward_hook(lambda *call: seen.update(dtype=call[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, out = objective(images(), all_of, all_of), model(x())
    assert seen["dtype"] == torch.bfloat16
    assert all(values.dtype == torch.float32 for values in out["likelihoods"].values())
    assert out["x_hat"].dtype == torch.float32
    assert mixed["aux"].item() == exact["aux"].item()
    assert mixed["bpp"].item() == pytest.approx(exact["bpp"].item(), rel=0.05)


def test_rounded_the_syntheses_see_in_training_what_they_see_in_use(model) -> None:
    """The likelihoods are those of noise all the same."""
    with torch.no_grad():
        model.entropy_bottleneck.quantiles[:, 0, 1] = 0.37
    in_use, training = model(x(), 0.5), model.train()(x(), 0.5, rounded=True)
    assert torch.equal(training["x_hat"], in_use["x_hat"])
    for name in ("y", "z"):
        assert not torch.equal(training["likelihoods"][name], in_use["likelihoods"][name])
    assert not torch.equal(model(x(), 0.5)["x_hat"], in_use["x_hat"])


@pytest.mark.parametrize("rounded", [True, False])
def test_the_loss_is_that_of_the_model_with_these_tails(model, rounded: bool) -> None:
    with torch.no_grad():
        model.g_s[-1].weight *= 30  # so that values leave [0, 1]
    batch, p, p_hyper = images(), [0.2, 0.9], [0.7, 0.3]
    torch.manual_seed(1)
    out = RateDistortion(model.train(), 0.1, rounded)(batch, p, p_hyper)
    torch.manual_seed(1)
    x, fractions = batch / 255, (torch.tensor(of).double() for of in (p, p_hyper))
    plain = model(x, *fractions, rounded)
    assert not 0 <= plain["x_hat"].min() <= plain["x_hat"].max() <= 1
    bits = -sum(values.log2().sum() for values in plain["likelihoods"].values())
    assert out["bpp"].item() == pytest.approx(bits.item() / x[:, 0].numel(), rel=1e-4)
    mse = (plain["x_hat"] - x).square().mean()
    assert out["mse"].item() == pytest.approx(mse.item(), rel=1e-4)


def test_rounding_lets_gradients_through(model) -> None:
    out = model.train()(x(), rounded=True)
    (of_picture,) = torch.autograd.grad(out["x_hat"].sum(), model.g_a[0].weight, retain_graph=True)
    likelihoods = out["likelihoods"]["y"]
    (of_scales,) = torch.autograd.grad(likelihoods.log().sum(), model.h_a[0].weight)
    assert of_picture.any()
    assert of_scales.any()


@pytest.mark.parametrize("rounded", [True, False])
def test_gradients_reach_every_parameter(model, rounded: bool) -> None:
    out = RateDistortion(model.train(), 0.1, rounded)(images(), [1.0, 1.0], [1.0, 1.0])
    (out["loss"] + out["aux"]).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert out["loss"].item() == pytest.approx(
        out["bpp"].item() + 0.1 * 255**2 * out["mse"].item(), rel=1e-5
    )
