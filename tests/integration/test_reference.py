"""Checkpoints of the published code, written as it writes them and used as it uses them."""

import math
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.layers import GDN
from conftest import refused, succeeded
from PIL import Image
from pytorch_msssim import ms_ssim, ssim
from torch import nn

from progdtd.errors import UserError
from progdtd.evaluation.published_function import ProgDTD
from progdtd.images import to_tensor
from progdtd.metrics import psnr
from progdtd.models import published, weights

N, M = 8, 12


class LightningModule(nn.Module):
    pass


class ScaleHyperpriorLightning(LightningModule):
    pass


class ScaleHyperprior(nn.Module):
    pass


class Block(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)


class Absolute(nn.Module):
    def forward(self, y):
        return y.abs()


class OldBottleneck(nn.Module):
    """The entropy bottleneck with the parameter names of earlier CompressAI."""

    def __init__(self, new: EntropyBottleneck) -> None:
        super().__init__()
        for name, value in new.named_parameters():
            for plural, one in (
                ("matrices.", "_matrix"),
                ("biases.", "_bias"),
                ("factors.", "_factor"),
            ):
                name = name.replace(plural, one)
            self.register_parameter(name, value)


class AttributeDict(dict):
    pass


FOREIGN = {
    "pytorch_lightning": [LightningModule, AttributeDict],
    "ProgDTD": [ScaleHyperpriorLightning, ScaleHyperprior],
    "blocks": [Block, Absolute, OldBottleneck],
}
for module, classes in FOREIGN.items():
    for each in classes:
        each.__module__ = module


def conv(*channels: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    return nn.Conv2d(*channels, kernel, stride, kernel // 2)


def deconv(*channels: int, kernel: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(*channels, kernel, stride, kernel // 2, stride - 1)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A published model with random weights and latents that are far from zero."""
    torch.manual_seed(0)
    model = ScaleHyperprior()
    model.image_analysis = Block(
        conv(3, N), GDN(N), conv(N, N), GDN(N), conv(N, N), GDN(N), conv(N, M)
    )
    model.hyper_analysis = Block(
        Absolute(), conv(M, N, kernel=3, stride=1), nn.ReLU(), conv(N, N), nn.ReLU(), conv(N, N)
    )
    up = [deconv(N, N), nn.ReLU(), deconv(N, N), nn.ReLU()]
    model.hyper_synthesis = Block(*up, deconv(N, M, kernel=3, stride=1), nn.ReLU())
    up = [layer for inner in (M, N, N) for layer in (deconv(inner, N), GDN(N, inverse=True))]
    model.image_synthesis = Block(*up, deconv(N, 3), nn.Sigmoid())
    model.hyper_bottleneck = EntropyBottleneck(N)
    model.image_bottleneck = GaussianConditional(scale_table=None)
    with torch.no_grad():
        model.image_analysis.model[6].weight *= 100
        model.hyper_analysis.model[5].weight *= 20
        model.hyper_synthesis.model[4].weight *= 5
    model.progressiveness_range = [0.3, 1.0]
    model.p_latent = None
    model.save_p = [np.float64(0.5)]  # as a training step leaves it, and the next two likewise
    model.latent = model.image_analysis.model(torch.rand(1, 3, 64, 64))
    model.device_of = torch.device("cuda", 0)
    return model.eval()


@pytest.fixture(params=["new", "old"])
def address(request, trained, tmp_path) -> Path:
    """What the published code saves on a GPU, with CompressAI's parameter names of then or now."""
    wrapper = ScaleHyperpriorLightning()
    wrapper.model, wrapper.distortion_lambda = trained, 0.1
    wrapper._hparams, wrapper._dtype = AttributeDict(lr=1e-4), torch.float32
    current = trained.hyper_bottleneck
    if request.param == "old":
        trained.hyper_bottleneck = OldBottleneck(current)
    with pytest.MonkeyPatch.context() as patch:
        for module, classes in FOREIGN.items():
            foreign = types.ModuleType(module)
            vars(foreign).update({each.__name__: each for each in classes})
            patch.setitem(sys.modules, module, foreign)
        torch.save(wrapper, tmp_path / "saved.pt")
    trained.hyper_bottleneck = current
    path = tmp_path / "Lambda=0.1 - range=[0.3-1.0]"
    with zipfile.ZipFile(tmp_path / "saved.pt") as cpu, zipfile.ZipFile(path, "w") as cuda:
        for name in cpu.namelist():
            content = cpu.read(name)
            if name.endswith("data.pkl"):
                assert b"X\3\0\0\0cpu" in content
                content = content.replace(b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:0")
            cuda.writestr(name, content)
    return path


def published_forward(model: nn.Module, x: torch.Tensor, p: float) -> tuple:
    """The published evaluation: cut before quantising, and what is zero by then costs nothing."""
    y = model.image_analysis.model(x)
    z = model.hyper_analysis.model(y)
    if p < 1:
        y = torch.cat([y[:, : int(p * M) + 1], torch.zeros_like(y[:, int(p * M) + 1 :])], 1)
        z = torch.cat([z[:, : int(p * N) + 1], torch.zeros_like(z[:, int(p * N) + 1 :])], 1)
    z_hat, z_likelihoods = model.hyper_bottleneck(z)
    y_hat, y_likelihoods = model.image_bottleneck(y, model.hyper_synthesis.model(z_hat))
    bits = [
        -likelihoods[latent != 0].double().log2().sum()
        for latent, likelihoods in ((y, y_likelihoods), (z, z_likelihoods))
    ]
    return model.image_synthesis.model(y_hat), *bits, z_hat


@torch.inference_mode()
@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.93, 1.0])
def test_the_converted_model_is_the_published_model(address, trained, photograph, p) -> None:
    loaded = weights.load_model(address)
    x = to_tensor(photograph[:128, :192])
    x_hat, y_bits, z_bits, z_hat = published_forward(trained, x, p)
    ours = loaded.model(x, p)
    assert z_hat[:, 0].abs().max() >= 2
    torch.testing.assert_close(ours["x_hat"], x_hat, atol=1e-5, rtol=1e-5)
    for name, bits in (("y", y_bits), ("z", z_bits)):
        total = -ours["likelihoods"][name].double().log2().sum()
        torch.testing.assert_close(total, bits, atol=0.01, rtol=1e-5)
    assert loaded.drop.range == (0.3, 1.0)
    assert loaded.meta["lambda"] == 0.1
    assert not loaded.model.training
    assert not sys.modules.keys() & {"ProgDTD", "blocks"}


@torch.inference_mode()
def test_the_published_function_gives_the_published_numbers(address, trained, images) -> None:
    expected = []
    for path in (images / "a.png", images / "c.webp"):
        picture = Image.open(path).convert("RGB").resize((512, 512), Image.Resampling.BILINEAR)
        x, whole = to_tensor(np.asarray(picture)), torch.zeros(1, 3, 512, 512)
        for rows in (slice(0, 256), slice(256, 512)):
            for columns in (slice(0, 256), slice(256, 512)):
                patch = x[:, :, rows, columns]
                whole[:, :, rows, columns], *bits, _ = published_forward(trained, patch, 0.4)
        similarities = ms_ssim(whole, x, data_range=1), ssim(whole, x, data_range=1)
        errors = nn.functional.mse_loss(whole, x), *(1 - similarity for similarity in similarities)
        decibels = (-10 * math.log10(error) for error in errors)
        expected.append([sum(bits).item() / 256**2, *decibels])
    result = ProgDTD(str(address), 0.4, 0.1, str(images / "[ac].*"))
    assert result == pytest.approx(np.mean(expected, axis=0), rel=1e-4)


def test_the_published_function_says_what_is_wrong(address, images) -> None:
    with pytest.warns(UserWarning, match=r"trained with lambda=0\.1: Lambda=1\.0 is ignored"):
        ProgDTD(address, 1, 1.0, images / "a.png")
    with pytest.warns(UserWarning, match="Lambda=None is ignored"):
        ProgDTD(address, np.float32(0.5), None, images / "a.png")
    for p in (0, -0.1, 1.5, math.nan, "0.5", True):
        with pytest.raises(UserError, match="give 0 < p <= 1"):
            ProgDTD(address, p, 0.1, images)
    with pytest.raises(UserError, match="matches no file"):
        ProgDTD(address, 1, 0.1, "nowhere/*.png")
    for nothing in ("", None, ["a.png"]):
        with pytest.raises(UserError, match="is not a folder and matches no file"):
            ProgDTD(address, 1, 0.1, nothing)
    (images / "broken.png").write_text("no image")
    with pytest.raises(UserError, match=r"broken\.png cannot be read"):
        ProgDTD(address, 1, 0.1, images / "b*.png")


def test_the_script_converts(address, trained, photograph, tmp_path, script) -> None:
    destination = tmp_path / "new" / "weights.safetensors"
    assert f"N={N}, M={M}" in succeeded(script, "convert_published.py", address, destination)
    direct, converted = weights.load_model(address), weights.load_model(destination)
    assert converted.meta == direct.meta
    x = to_tensor(photograph[:64, :64])
    assert psnr(direct.model(x, 0.5)["x_hat"], converted.model(x, 0.5)["x_hat"]) > 200

    options = ("--lambda", 1, "--range", 0, 0.5)
    succeeded(script, "convert_published.py", address, destination, *options)
    changed = weights.load_model(destination)
    assert (changed.meta["lambda"], changed.drop.range) == (1.0, (0.0, 0.5))


@pytest.mark.parametrize(
    ("destination", "extra", "message"),
    [("w.pt", (), "must end in .safetensors"), ("w.safetensors", ("--range", 1, 0), "not a range")],
)
def test_the_script_refuses(address, destination, extra, message, script, tmp_path) -> None:
    output = refused(script, "convert_published.py", address, tmp_path / destination, *extra)
    assert message in output
    assert not (tmp_path / destination).exists()


def test_damage_is_told(address, tmp_path) -> None:
    content = address.read_bytes()
    broken = tmp_path / "broken"
    for length in (0, 3, 100, len(content) // 2, len(content) - 30, len(content) - 1):
        broken.write_bytes(content[:length])
        with pytest.raises(UserError, match="broken"):
            weights.load_model(broken)
        with pytest.raises(UserError, match="broken"):
            published.read_published(broken)
    with zipfile.ZipFile(address) as archive:
        record = max(archive.infolist(), key=lambda record: record.file_size)
    middle = record.header_offset + record.file_size // 2
    flipped = bytes([content[middle] ^ 1])
    broken.write_bytes(content[:middle] + flipped + content[middle + 1 :])
    with pytest.raises(UserError, match=r"broken.*CRC"):
        weights.load_model(broken)
