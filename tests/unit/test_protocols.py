import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import lively
from PIL import Image
from pytorch_msssim import ms_ssim, ssim
from torch.nn import functional

from progdtd import Codec
from progdtd.codec import container
from progdtd.codec.channels import ChannelDecoder, default_plan
from progdtd.codec.hyperprior import HyperpriorCoder
from progdtd.codec.tritplanes import PlaneDecoder
from progdtd.evaluation import protocols
from progdtd.images import to_tensor
from progdtd.metrics import Quality, psnr, to_db
from progdtd.models import ProgressiveHyperprior
from progdtd.models.weights import Loaded
from progdtd.tail_drop import P_LEVELS, TailDrop, fraction, kept

DTD = TailDrop(latent=True, hyper=True)
PAUSE = 0.05


def codec(model, drop: TailDrop = DTD, **meta: object) -> Codec:
    return Codec(HyperpriorCoder(Loaded(model, drop, {"model": {}} | meta)))


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 130), (17, 300)])
def test_native_takes_any_size(model, photograph, size) -> None:
    first, last = protocols.native(codec(model).coder, photograph[: size[0], : size[1]], [0.1, 1.0])
    assert (first["height"], first["width"]) == size
    assert 0 < first["bytes"] < last["bytes"]
    assert first["bpp"] == 8 * first["bytes"] / (size[0] * size[1])


def test_native_measures_what_decodes(model, photograph) -> None:
    picture = photograph[:192, :256]
    stream = codec(model).encode(picture)
    rows = list(protocols.native(codec(model).coder, picture, P_LEVELS))
    assert [row["p"] for row in rows] == list(P_LEVELS)
    assert rows[-1]["bytes"] == len(stream)
    x = to_tensor(picture)
    for row in rows[::5]:
        decoded = to_tensor(np.asarray(codec(model).decode(stream[: row["bytes"]])))
        assert row["psnr"] == pytest.approx(psnr(x, decoded), rel=1e-9)
        assert row["decode_s"] > 0


@pytest.mark.parametrize("kind", ["channels", "planes"])
def test_native_counts_all_the_time_that_it_takes(photograph, monkeypatch, kind) -> None:
    model = lively(ProgressiveHyperprior(8, 12))
    coder = codec(model, sensitivities=[0] * 12).coder
    for owner, name in (
        (HyperpriorCoder, "analyse"),
        (HyperpriorCoder, "encode_latents"),
        (HyperpriorCoder, "synthesise"),
        (ChannelDecoder, "feed"),
        (PlaneDecoder, "feed"),
    ):
        monkeypatch.setattr(owner, name, slowed(getattr(owner, name)))
    first, last = protocols.native(coder, photograph[:64, :64], [0.1, 1.0], [kind])
    assert first["encode_s"] == last["encode_s"] > 2 * PAUSE
    assert first["decode_s"] > 2 * PAUSE
    assert last["decode_s"] > 3 * PAUSE


def slowed(function: Callable[..., object]) -> Callable[..., object]:
    def slow(*arguments: object) -> object:
        time.sleep(PAUSE)
        return function(*arguments)

    return slow


def test_where_a_stream_has_one_level_all_its_rows_are_of_that(model, photograph) -> None:
    hyper_only = codec(model, TailDrop(latent=False, hyper=True))
    rows = list(protocols.native(hyper_only.coder, photograph[:64, :64], [0.1, 1.0]))
    for name in ("bytes", "latent_channels", "hyper_channels", "bpp_estimated", "psnr"):
        assert rows[0][name] == rows[1][name]
    assert rows[0]["hyper_channels"] == 8


def test_planes_are_measured_at_fractions_of_the_bytes(model, photograph) -> None:
    picture, p_levels = photograph[:192, :256], (0.01, 0.3, 0.31, 1.0)
    planes = codec(model, sensitivities=[0] * 12)
    stream = planes.encode(picture, "planes")
    rows = list(protocols.native(planes.coder, picture, p_levels, ["planes"]))
    ends = container.ends(stream)
    assert [row["p"] for row in rows] == list(p_levels)
    assert [row["bytes"] for row in rows] == [
        max(ends[0], *(end for end in ends if end <= p * len(stream)), 0) for p in p_levels
    ]
    for row in rows[:2]:
        decoded = to_tensor(np.asarray(planes.decode(stream[: row["bytes"]])))
        assert row["psnr"] == pytest.approx(psnr(to_tensor(picture), decoded), rel=1e-9)
        assert (row["latent_channels"], row["hyper_channels"]) == (12, 8)
    (whole,) = protocols.native(codec(model).coder, picture, [1.0])
    assert rows[-1]["psnr"] == whole["psnr"]


def test_estimate_equals_a_full_forward_for_every_level(model, photograph) -> None:
    """Analysing once must change nothing; at multiples of 64 there is no padding either."""
    picture = photograph[:192, :256]
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
    whole = {row["p"]: row for row in protocols.native(codec(model).coder, picture, P_LEVELS)}
    for row, x_hat in protocols.estimate(model, DTD, picture, P_LEVELS):
        out = model(x, row["p"])
        decoded = (out["x_hat"].clamp(0, 1) * 255).round() / 255
        bits = -sum(values.log2().sum().item() for values in out["likelihoods"].values())
        assert row["bpp"] == pytest.approx(bits / (192 * 256), rel=1e-5)
        found = whole[row["p"]]
        assert (found["latent_channels"], found["hyper_channels"]) in default_plan(12, 8)
        assert found["hyper_channels"] >= kept(row["p"], 8)
        _, likelihoods = model.quantise(
            *model.analyse(x), row["p"], fraction(found["hyper_channels"], 8)
        )
        estimated = protocols.bits(likelihoods).item() / (192 * 256)
        assert found["bpp_estimated"] == pytest.approx(estimated, rel=1e-5)
        assert row["psnr"] == pytest.approx(psnr(x, decoded), abs=1e-3)
        assert row["ms_ssim"] == pytest.approx(ms_ssim(x, decoded, data_range=1).item(), abs=1e-5)
        assert (x_hat - decoded[0]).abs().max() <= 1 / 255 + 1e-6


def test_estimate_pads_by_repeating_the_edge(model, photograph) -> None:
    picture = photograph[:100, :130]
    padded = functional.pad(to_tensor(picture), (0, 62, 0, 28), mode="replicate")
    with torch.no_grad():
        out = model(padded, 0.5)
    bits = -sum(values.log2().sum().item() for values in out["likelihoods"].values())
    ((row, x_hat),) = protocols.estimate(model, DTD, picture, [0.5])
    assert row["bpp"] == pytest.approx(bits / (100 * 130), rel=1e-4)
    assert (x_hat - out["x_hat"][0, :, :100, :130].clamp(0, 1)).abs().max() < 0.51 / 255


def test_reference_equals_a_plain_restatement(model, photograph) -> None:
    """One patch after another, as published; the rate is that of the last, bottom-right one."""
    squashed = Image.fromarray(photograph).resize((512, 512), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(squashed)).permute(2, 0, 1)[None] / 255
    decoded, rates = torch.zeros_like(x), []
    for top in (0, 256):
        for left in (0, 256):
            patch = x[..., top : top + 256, left : left + 256]
            with torch.no_grad():
                out = model(patch, 0.4)
            decoded[..., top : top + 256, left : left + 256] = out["x_hat"].clamp(0, 1)
            nats = -sum(values.log().sum().item() for values in out["likelihoods"].values())
            rates.append(nats / np.log(2) / 256**2)
    last, every = protocols.reference(model, DTD, photograph, [0.4])
    assert (last["protocol"], every["protocol"]) == ("reference", "reference-all-patches")
    assert last["bpp"] == pytest.approx(rates[-1], rel=1e-5)
    assert every["bpp"] == pytest.approx(np.mean(rates), rel=1e-5)
    assert last["psnr"] == every["psnr"] == pytest.approx(psnr(x, decoded), abs=1e-4)


def test_results_do_not_depend_on_threads(model, photograph) -> None:
    def values(threads: int) -> list[float]:
        torch.set_num_threads(threads)
        rows = protocols.native(codec(model).coder, photograph, [0.2, 1.0])
        return [row[key] for row in rows for key in ("bytes", "psnr", "ms_ssim", "ssim")]

    threads = torch.get_num_threads()
    try:
        assert values(1) == pytest.approx(values(2), rel=1e-5)
    finally:
        torch.set_num_threads(threads)


def test_quality_of_small_and_identical_pictures() -> None:
    x = torch.rand(1, 3, 40, 40)
    same = Quality(x)(x)
    assert same["psnr"] == float("inf")
    assert same["ssim"] == pytest.approx(1)
    assert np.isnan(same["ms_ssim"])
    assert np.isnan(same["ms_ssim_db"])
    assert to_db(0.99) == pytest.approx(20)
    assert Quality(x)(x + 0.1)["psnr"] == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize("size", [(300, 451), (161, 200), (163, 162), (100, 300), (11, 12)])
def test_similarities_are_those_of_pytorch_msssim(photograph, size) -> None:
    x = to_tensor(photograph[: size[0], : size[1]]).contiguous()
    for strength in (0.01, 0.1, 1.0):
        y = (x + strength * torch.randn(x.shape)).clamp(0, 1)
        ours = Quality(x)(y)
        assert ours["ssim"] == pytest.approx(ssim(x, y, data_range=1.0).item(), abs=2e-5)
        if min(size) > 160:
            expected = ms_ssim(x, y, data_range=1.0).item()
            assert ours["ms_ssim"] == pytest.approx(expected, abs=2e-5)
        else:
            assert np.isnan(ours["ms_ssim"])


def test_a_negative_has_a_similarity(photograph) -> None:
    x = to_tensor(photograph).contiguous()
    expected = ms_ssim(x, 1 - x, data_range=1.0).item()
    assert Quality(x)(1 - x)["ms_ssim"] == pytest.approx(expected, abs=2e-5)
