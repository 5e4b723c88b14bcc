from fractions import Fraction

import pytest
import torch
from compressai.models.google import MeanScaleHyperprior, ScaleHyperprior
from torch import nn

from progdtd.codec import integer_network
from progdtd.codec.integer_network import LIMIT, UNIT, IntegerSynthesis
from progdtd.codec.tiles import tiled


def synthesis(
    model_class=ScaleHyperprior, n: int = 8, m: int = 12
) -> tuple[nn.Module, IntegerSynthesis]:
    torch.manual_seed(0)
    h_s = model_class(n, m).h_s
    return h_s, IntegerSynthesis(h_s)


@pytest.mark.parametrize("model_class", [ScaleHyperprior, MeanScaleHyperprior])
def test_it_is_the_hyper_synthesis(model_class) -> None:
    h_s, integers = synthesis(model_class)
    z_hat = torch.randint(-20, 21, (1, 8, 3, 4)).double()
    sums = integers.begin(3, 4)
    integers.extend(sums, z_hat * UNIT, 0)
    outputs = list(range(len(integers.layers[-1].weight)))
    with torch.no_grad():
        torch.testing.assert_close(
            integers.predict(sums, outputs).double() / UNIT, h_s.double()(z_hat), atol=2e-3, rtol=0
        )


def test_channels_may_come_in_any_portions() -> None:
    _, integers = synthesis()
    z_hat = torch.randint(-99999, 99999, (1, 8, 2, 2)).double()
    whole, parts = integers.begin(2, 2), integers.begin(2, 2)
    integers.extend(whole, z_hat, 0)
    for first, last in ((0, 1), (1, 1), (1, 6), (6, 8)):
        integers.extend(parts, z_hat[:, first:last], first)
    assert torch.equal(whole, parts)
    assert torch.equal(
        integers.predict(whole, range(12))[:, 3:7], integers.predict(parts, range(3, 7))
    )


def test_tiles_change_nothing(monkeypatch) -> None:
    _, integers = synthesis()
    z_hat = torch.randint(-99999, 99999, (1, 8, 9, 14)).double()
    sums = integers.begin(9, 14)
    integers.extend(sums, z_hat, 0)
    whole = integers.predict(sums, range(12))
    monkeypatch.setattr(integer_network, "TILE", 8)
    assert torch.equal(integers.predict(sums, range(12)), whole)


def test_no_sum_can_leave_the_exact_integers() -> None:
    """Even the worst activations, at the limit with the weights' signs, stay below 2^53."""
    h_s, _ = synthesis()
    with torch.no_grad():
        for module in h_s:
            if hasattr(module, "weight"):
                module.weight *= 50
    for layer in IntegerSynthesis(h_s).layers:
        worst = layer.weight.abs().flatten(1).sum(1).max() * LIMIT + layer.bias.abs().max()
        assert worst + 2.0**layer.shift < 2**53


def test_orders_of_summation_agree() -> None:
    """The property that makes it exact, on the real layers: permuted channels give equal sums."""
    _, integers = synthesis(n=64, m=96)
    layer = integers.layers[1]
    x = torch.randint(-LIMIT, LIMIT, (1, 64, 5, 7)).double()
    order = torch.randperm(64)
    expected = layer.sums(x)
    layer.weight = layer.weight[:, order]
    assert torch.equal(layer.sums(x[:, order]), expected)


@pytest.mark.parametrize(
    ("h_s", "why"),
    [
        (nn.Sequential(nn.Conv2d(8, 8, 3, dilation=2), nn.Conv2d(8, 8, 3)), "another dilation"),
        (nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3)), "another groups"),
        (
            nn.Sequential(nn.Conv2d(8, 8, 3, padding_mode="reflect"), nn.Conv2d(8, 8, 3)),
            "another padding_mode",
        ),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)), "ReLU cannot"),
        (nn.Sequential(nn.Conv2d(8, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3)), "GELU cannot"),
        (nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()), "fewer than two"),
        (nn.ModuleList([nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)]), "ModuleList"),
    ],
)
def test_what_has_no_exact_form_is_refused(h_s, why) -> None:
    """It would be another prior than the one that was trained."""
    with pytest.raises(TypeError, match=why):
        IntegerSynthesis(h_s)


def test_a_halo_of_any_size_does() -> None:
    def pooled(part: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(part, 4)

    source = torch.randn(1, 1, 40, 48)
    for halo in (0, 3, 4, 6):
        found = tiled(pooled, source, Fraction(1, 4), 16, halo)
        torch.testing.assert_close(found, pooled(source))
