import copy
import hashlib
import io
import itertools
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DTD, META, codec_of, fed, lively
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from progdtd import Codec
from progdtd.codec import channels, container, hyperprior, model_store
from progdtd.codec.errors import DamagedError, IncompleteError, OtherModelError
from progdtd.errors import UserError
from progdtd.evaluation import protocols
from progdtd.images import to_rgb, to_tensor
from progdtd.models import Progressive, ProgressiveHyperprior, ProgressiveMeanScaleHyperprior
from progdtd.models.weights import load_state, save_weights
from progdtd.tail_drop import P_LEVELS, TailDrop, kept

DROPS = {
    "dtd": DTD,
    "latent_only": TailDrop(latent=True, hyper=False),
    "hyper_only": TailDrop(latent=False, hyper=True),
    "none": TailDrop(latent=False, hyper=False),
}
SENSITIVITIES = [*range(0, 240, 20)]
SLOW_IS_FINE = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


CODEC = codec_of(lively(ProgressiveHyperprior(8, 12)))
MEANS = codec_of(lively(ProgressiveMeanScaleHyperprior(8, 12)))
PLANES = [codec_of(codec.coder.model, sensitivities=SENSITIVITIES) for codec in (CODEC, MEANS)]


@pytest.fixture
def codec(model) -> Codec:
    return codec_of(model)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)


@pytest.mark.parametrize("drop", DROPS)
def test_the_whole_stream_decodes_to_the_models_own_reconstruction(model, photograph, drop) -> None:
    """With any drop schedule; within the rounding of one grey level."""
    codec = codec_of(model, DROPS[drop])
    picture = photograph[:128, :192].copy()
    symbols, _ = model.quantise(*codec.coder.analyse(picture))
    with torch.no_grad():
        x_hat = model(to_tensor(picture))["x_hat"]
    decoder = fed(codec, codec.encode(picture))
    if isinstance(model, ProgressiveHyperprior):
        assert torch.equal(decoder.known.y_hat, symbols)
    elif drop in ("none", "hyper_only"):  # one level: else means come from prefixes as well
        torch.testing.assert_close(decoder.known.y_hat, symbols, atol=2e-3, rtol=0)
        expected = (x_hat[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
        assert np.abs(decoder.picture() - expected).max() <= 1.5


@given(
    st.integers(1, 150), st.integers(1, 150), st.integers(0, 2**32 - 1), st.sampled_from(range(4))
)
@SLOW_IS_FINE
def test_prefixes_of_any_picture_decode(height, width, seed, which) -> None:
    """For random sizes and contents: every prefix is the picture of its whole levels, and the whole
    stream the latent of one level of all channels."""
    codec = (CODEC, MEANS, *PLANES)[which]
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = low if seed % 2 else np.full_like(low, seed % 256)
    stream = codec.encode(picture)
    ends = container.ends(stream)
    assert ends[-1] == len(stream)
    if codec in PLANES:
        at_once = fed(codec, codec.encode(picture, [1.0]))
        assert torch.equal(fed(codec, stream).known.y_hat, at_once.known.y_hat)
    with pytest.raises(IncompleteError):
        codec.decode(stream[: int(rng.integers(ends[0]))])
    size = int(rng.integers(ends[0], len(stream) + 1))
    level = sum(end <= size for end in ends)
    shown = codec.decode(stream[:size])
    assert shown.size == (width, height)
    np.testing.assert_array_equal(pixels(shown), pixels(codec.decode(stream, levels=level)))


def test_truncation_at_every_byte(codec, photograph) -> None:
    stream = codec.encode(photograph[:60, :64])
    ends = container.ends(stream)
    known = {level: pixels(codec.decode(stream, levels=level)) for level in range(1, len(ends) + 1)}
    for size in range(len(stream) + 1):
        level = sum(end <= size for end in ends)
        if level == 0:
            with pytest.raises(IncompleteError):
                codec.decode(stream[:size])
        else:
            decoder = fed(codec, stream[:size])
            assert decoder.level == level
            if size in ends:
                np.testing.assert_array_equal(decoder.picture(), known[level])


@pytest.mark.parametrize("piece", [1, 7, 10**6])
def test_progressive_yields_a_picture_a_level(codec, photograph, piece) -> None:
    stream = codec.encode(photograph[:90, :70])
    chunks = (stream[i : i + piece] for i in range(0, len(stream), piece))
    pictures = list(codec.progressive(chunks if piece > 1 else bytearray(stream)))
    for level, picture in enumerate(pictures, 1):
        np.testing.assert_array_equal(pixels(picture), pixels(codec.decode(stream, levels=level)))
    assert len(pictures) == container.read_header(stream)[0].levels
    with pytest.raises(IncompleteError):
        list(codec.progressive([stream[:10], stream[10:20]]))


def test_no_symbol_is_decoded_twice(codec, photograph, monkeypatch) -> None:
    from progdtd.codec.entropy import Decoder

    counted = []
    take = Decoder.take
    monkeypatch.setattr(
        Decoder, "take", lambda self, c, t: counted.append(sum(c)) or take(self, c, t)
    )
    stream = codec.encode(photograph[:128, :128])
    list(codec.progressive(stream[i : i + 50] for i in range(0, len(stream), 50)))
    assert sum(counted) == 12 * 8 * 8 + 8 * 2 * 2


def test_p_and_levels_choose_prefixes(codec, photograph) -> None:
    stream = codec.encode(photograph[:64, :64], levels=[0.2, 0.5, 1.0])
    by_p = [pixels(codec.decode(stream, p=p)) for p in (0.0, 0.2, 0.49, 0.5, 0.9, 1.0)]
    by_level = [pixels(codec.decode(stream, levels=k)) for k in (1, 1, 1, 2, 2, 3)]
    for one, other in zip(by_p, by_level, strict=True):
        np.testing.assert_array_equal(one, other)
    for levels, p, fewer in ((1, 1.0, 1), (2, 0.9, 2), (3, 0.2, 1), (3, 0.5, 2), (9, 1.0, 3)):
        both, expected = codec.decode(stream, levels, p), codec.decode(stream, fewer)
        np.testing.assert_array_equal(pixels(both), pixels(expected))
    with pytest.raises(UserError, match=r"levels=\[1.5\]: give fractions"):
        codec.encode(photograph, levels=[1.5])
    same = codec.encode(photograph[:64, :64], levels=(k / 10 for k in (2, 5, 10)))
    assert same == stream, "any iterable will do"
    with pytest.raises(UserError, match="give fractions"):
        codec.encode(photograph, levels=[])
    for wrong in ({"p": 1.5}, {"p": float("nan")}, {"levels": 0}):
        with pytest.raises(UserError, match=r"within|levels count"):
            codec.decode(stream, **wrong)


def test_limits(codec, photograph) -> None:
    picture = photograph[:128, :128]
    whole = codec.encode(picture)
    for most in (len(whole) // 4, len(whole) // 2, len(whole)):
        assert len(codec.encode(picture, max_bytes=most)) <= most
    with pytest.raises(UserError, match="first level"):
        codec.encode(picture, max_bytes=30)
    qualities = {}
    decoder = codec.decoder()
    for level in decoder.levels_of(whole):
        error = np.square(decoder.picture().astype(float) - picture).mean()
        qualities[level] = -10 * np.log10(error / 255**2)
    target = qualities[5] - 1e-6
    expected = next(level for level, psnr in qualities.items() if psnr >= target)
    cut = codec.encode(picture, target_psnr=target)
    assert container.read_header(cut)[0].levels == expected
    assert codec.encode(picture, target_psnr=99) == whole


MODES = "1 L LA P PA RGB RGBA CMYK YCbCr LAB HSV I;16 I F"


@pytest.mark.parametrize("mode", MODES.split())
def test_every_mode_is_coded(codec, photograph, mode) -> None:
    image = Image.fromarray(photograph[:40, :50])
    if mode in ("I;16", "PA"):
        image = image.convert("L")
    image = image.convert(mode) if mode != "LAB" else Image.new("LAB", (50, 40), (128, 10, 20))
    assert codec.decode(codec.encode(image)).size == (50, 40)


def test_images_arrays_of_eight_or_sixteen_bits_and_tensors_mean_the_same(photograph) -> None:
    picture = np.ascontiguousarray(photograph[:6, :5])
    deep, tensor = picture.astype(np.uint16) * 257, to_tensor(picture)
    arrays = (picture, deep, deep.astype(">u2"), np.dstack([deep, np.full((6, 5), 65535, "u2")]))
    for same in (Image.fromarray(picture), *arrays, tensor, tensor[0], tensor.double()):
        np.testing.assert_array_equal(to_rgb(same), picture)
    grey = picture[..., 0]
    for array in (grey, grey.astype(np.uint16) * 257):
        np.testing.assert_array_equal(to_rgb(array), grey[..., None].repeat(3, 2))
    for wrong in (grey[0], deep[..., :2], grey[..., None], grey > 9, grey.astype(int), grey / 255):
        with pytest.raises(UserError, match=r"is no image: give \(H, W\), \(H, W, 3\) or"):
            to_rgb(wrong)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (63, 65), (3, 2000)])
def test_odd_sizes(codec, size) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert pixels(codec.decode(codec.encode(picture))).shape == (*size, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((4, 4, 3), np.complex64),
        np.zeros((0, 4, 3), np.uint8),
        torch.zeros(2, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.int32),
        "photo.png",
        None,
        torch.full((3, 8, 8), torch.nan),
        torch.zeros(3, 8, 8) - torch.inf,
        torch.linspace(0, 255, 192).view(3, 8, 8),
        torch.linspace(-1, 1, 192).view(3, 8, 8),
    ],
)
def test_what_is_no_image_says_so(codec, wrong) -> None:
    with pytest.raises(UserError, match=r"no image|cannot be coded"):
        codec.encode(wrong)


@pytest.mark.parametrize(
    "compute", [torch.abs, torch.exp, torch.nn.functional.softplus, lambda p: p / 2]
)
def test_a_split_that_computes_is_refused(compute) -> None:
    class Computing(ProgressiveHyperprior):
        def split(self, prediction: torch.Tensor) -> tuple[torch.Tensor, None]:
            return compute(prediction), None

    with pytest.raises(UserError, match="does more than choose channels"):
        codec_of(Computing(8, 12))


def test_tiles_leave_no_seams(model, photograph, monkeypatch) -> None:
    """In tiles as in one piece; the analysis may round a symbol on a boundary the other way."""
    codec = codec_of(model)
    whole_y, whole_z = codec.coder.analyse(photograph)
    decoder = fed(codec, codec.encode(photograph))
    whole = decoder.picture()
    monkeypatch.setattr(hyperprior, "TILE", 64)
    y, z = codec.coder.analyse(photograph)
    torch.testing.assert_close(y, whole_y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(z, whole_z, atol=1e-3, rtol=1e-3)
    tiles = codec.coder.synthesise(decoder.known.y_hat, *photograph.shape[:2])
    assert np.abs(tiles.astype(int) - whole).max() <= 1


def test_no_pixel_is_made_of_what_is_no_number(model, monkeypatch) -> None:
    """Of which each machine may make another."""
    with torch.no_grad():
        model.g_s[0].weight *= 1e38
    to = torch.Tensor.to

    def checked(self: torch.Tensor, *how: object) -> torch.Tensor:
        assert torch.uint8 not in how or not self.isnan().any()
        return to(self, *how)

    codec, y_hat = codec_of(model), torch.full((1, 12, 4, 4), 9.0)
    assert model.g_s(y_hat).isnan().any()
    monkeypatch.setattr(torch.Tensor, "to", checked)
    assert codec.coder.synthesise(y_hat, 64, 64).shape == (64, 64, 3)


def test_errors_say_what_is_wrong(codec, photograph) -> None:
    stream = codec.encode(photograph[:64, :64])
    other = codec_of(lively(ProgressiveHyperprior(8, 16)))
    with pytest.raises(OtherModelError) as caught:
        other.decode(stream)
    assert codec.fingerprint.hex() in str(caught.value)
    assert other.fingerprint.hex() in str(caught.value)
    header = container.read_header(stream)[0]
    payloads = list(container.Reader().feed(stream))

    def forged(**changed: object) -> bytes:
        return container.write(replace(header, **changed), payloads)

    assert codec.decode(forged()).size == (64, 64)
    for parameters in (b"\x00\x01", b"\x01", b"\x7f\x7f", b"\x01\x81", b"\x05\x05" * 900):
        with pytest.raises(DamagedError):
            codec.decode(forged(parameters=parameters))
    with pytest.raises(DamagedError, match="does not decode to what was encoded"):
        codec.decode(forged(width=65))
    with pytest.raises(DamagedError, match="more than can be"):
        codec.decode(forged(width=1 << 14, height=1 + (1 << 13)))


def test_what_cannot_be_decoded_is_refused_at_its_header(codec, photograph) -> None:
    stream = codec.encode(photograph[:64, :64])
    header = container.read_header(stream)[0]
    decoder = codec.decoder()
    assert list(decoder.levels_of(bytes(header))) == []
    assert list(decoder.levels_of(stream[len(bytes(header)) :])) == [*range(1, header.levels + 1)]
    for changed, error in (
        ({"fingerprint": bytes(8)}, OtherModelError),
        ({"width": 1 << 20, "height": 1 << 20}, DamagedError),
        ({"parameters": b"\x01"}, DamagedError),
    ):
        *begun, last = bytes(replace(header, **changed))
        decoder = codec.decoder()
        assert list(decoder.levels_of(bytes(begun))) == []
        for chunk in (bytes([last]), b""):
            with pytest.raises(error):
                list(decoder.levels_of(chunk))
        with pytest.raises(error):
            next(codec.progressive([bytes(begun), bytes([last])]))


def test_the_levels_before_the_damage_decode(codec, photograph) -> None:
    stream = codec.encode(photograph[:64, :64])
    ends = container.ends(stream)
    damaged = bytearray(stream)
    damaged[ends[3] - 1] ^= 1
    with pytest.raises(DamagedError, match=r"level 4.*\(--level 3\)"):
        codec.decode(bytes(damaged))
    np.testing.assert_array_equal(
        pixels(codec.decode(bytes(damaged), levels=3)), pixels(codec.decode(stream, levels=3))
    )
    damaged[ends[0] - 1] ^= 1
    with pytest.raises(DamagedError, match="level 1"):
        codec.decode(bytes(damaged), levels=3)


def test_plans_grow_and_bring_everything() -> None:
    for drop in DROPS.values():
        levels = channels.plan(drop, P_LEVELS, 192, 128)
        assert levels[-1] == (192, 128)
        assert all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(levels))
        packed = channels.pack(levels, 192, 128)
        assert channels.unpack(packed, len(levels), 192, 128) == levels
        with pytest.raises(DamagedError, match="steps"):
            channels.unpack(packed, len(levels) + 1, 192, 128)
    assert channels.pack(channels.plan(DTD, P_LEVELS, 192, 128), 192, 128) == b""
    assert len(channels.default_plan(192, 128)) == 16


def test_levels_begin_where_the_model_was_trained(photograph) -> None:
    """Those below would make all others dearer."""
    drop = TailDrop(True, True, range=(0.3, 1.0))
    upper = codec_of(lively(ProgressiveHyperprior(8, 12)), drop)
    header = container.read_header(upper.encode(photograph))[0]
    plan = channels.plan(upper.coder.drop, P_LEVELS[P_LEVELS.index(0.3) :], 12, 8)
    assert upper.check(header).latents.plan == plan
    rows = [*protocols.native(upper.coder, photograph, P_LEVELS)]
    assert [row["p"] for row in rows] == [p for p in P_LEVELS if p >= 0.3]
    assert [row["p"] for row in protocols.native(upper.coder, photograph, [0.1])] == [0.1]


def test_the_fingerprint_names_what_decoding_needs(photograph) -> None:
    model = lively(ProgressiveHyperprior(8, 12))
    before = codec_of(model).fingerprint
    with torch.no_grad():
        model.g_a[0].weight += 1
    assert codec_of(model).fingerprint == before
    for part in (model.g_s[0].weight, model.h_s[0].bias, model.entropy_bottleneck.quantiles):
        with torch.no_grad():
            part.view(-1)[0] += 0.5
        changed = codec_of(model).fingerprint
        assert changed != before
        before = changed


def test_the_fingerprint_names_options_of_other_layers() -> None:
    fingerprints = []
    for layer in (torch.nn.ELU(0.2), torch.nn.ELU(1.0), torch.nn.ELU(1.0, inplace=True)):
        model = lively(ProgressiveHyperprior(8, 12))
        model.g_s[1] = layer
        fingerprints.append(codec_of(model).fingerprint)
    assert fingerprints[0] != fingerprints[1] == fingerprints[2]


def test_the_fingerprint_names_layers_without_weights() -> None:
    plain, sigmoid = ProgressiveHyperprior(8, 12), ProgressiveHyperprior(8, 12, sigmoid=True)
    sigmoid.load_state_dict(plain.state_dict())
    assert codec_of(plain).fingerprint != codec_of(sigmoid).fingerprint
    nested = {}
    for slope in (0.1, 0.2):
        model = ProgressiveHyperprior(8, 12)
        model.load_state_dict(plain.state_dict())
        model.g_s.append(torch.nn.Sequential(torch.nn.LeakyReLU(slope)))
        nested[codec_of(model).fingerprint] = slope
    assert len(nested) == 2


def of_plain_arithmetic(model_class: type[Progressive], median: float) -> Progressive:
    model = model_class(8, 12).eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            index = torch.arange(parameter.numel(), dtype=torch.float64).view(parameter.shape)
            parameter.copy_(((index * 37 + number * 11) % 101 - 50) / 256)
        model.entropy_bottleneck.quantiles.copy_(torch.tensor([-9.0, median, 9.0]).expand(8, 1, 3))
    return model


def latents_of_plain_arithmetic() -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.arange(12 * 16 * 8)
    y = ((index * 7919) % 1009 - 504).view(1, 12, 16, 8) / 16.0
    return y, ((torch.arange(8 * 4 * 2) * 31) % 57 - 28).view(1, 8, 4, 2) / 4.0


def test_streams_of_today_decode_for_ever() -> None:
    """Weights and latents of plain arithmetic give the very bytes that they gave before."""
    model = of_plain_arithmetic(ProgressiveHyperprior, 0.25)
    codec = codec_of(model, sensitivities=SENSITIVITIES)
    y, z = latents_of_plain_arithmetic()
    assert codec.fingerprint.hex() == "42cb85c6084fa523"
    digests = {
        P_LEVELS: "c8e929504c3bc92383f0f169ea3cfd15aa109ded0bd41af5f7c4a1a4a470fb46",
        "planes": "ad3d27e4dc74d5d9661ff1124ee2aa0ecc4e4b5fa0f215ce242ece8748e8ba07",
    }
    for levels, digest in digests.items():
        stream = codec.coder.encode_latents(y, z, 100, 200, levels)
        assert torch.equal(fed(codec, stream).known.y_hat, y.round())
        assert hashlib.sha256(stream).hexdigest() == digest


@pytest.mark.parametrize(
    ("model_class", "range_of_p", "digests"),
    [
        (
            ProgressiveMeanScaleHyperprior,
            (0.0, 1.0),
            {
                "channels": "11e94a757ae0d16977a0e1025b4154b88b157694e8e0133fb6dd2abdfe52428d",
                "planes": "794db760a9b97546d5cd230ffa4b1e3684e83d7ea8e171f139678613d7ad2e68",
            },
        ),
        (
            ProgressiveHyperprior,
            (0.3, 0.9),
            {
                "channels": "4657a836dc0ce0c553ac2b243be14b699a3a502e8747a13be4b1276c9dff8e8d",
                "planes": "2d95c963b03a2331f1f78a0a13df5525967f72c6e8d92b44e314c0195cb79a91",
            },
        ),
    ],
)
def test_streams_of_what_is_rounded_and_clamped_decode_for_ever(
    model_class, range_of_p, digests
) -> None:
    """Medians that are no integers of 1/4096, a hyper-latent and activations beyond +-4096."""
    model = of_plain_arithmetic(model_class, 0.1)
    with torch.no_grad():
        model.h_s[0].weight[0, 0, 2, 2] = 2000
    codec = codec_of(model, TailDrop(True, True, range=range_of_p), sensitivities=SENSITIVITIES)
    y, z = latents_of_plain_arithmetic()
    z[0, 0, 0] = torch.tensor([6000.0, -6000.0])
    carried = kept(codec.coder.drop.top, 12)
    for levels, digest in digests.items():
        stream = codec.coder.encode_latents(y, z, 100, 200, levels)
        y_hat = fed(codec, stream).known.y_hat
        assert (y_hat - y)[:, :carried].abs().max() <= 0.5
        assert not y_hat[:, carried:].any()
        assert hashlib.sha256(stream).hexdigest() == digest


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("levels", ["channels", "planes"])
@pytest.mark.parametrize("model_class", [ProgressiveHyperprior, ProgressiveMeanScaleHyperprior])
def test_a_gpu_encodes_and_a_cpu_decodes(photograph, model_class, levels) -> None:
    cpu = codec_of(lively(model_class(64, 96)), sensitivities=[0] * 96)
    gpu = codec_of(copy.deepcopy(cpu.coder.model).cuda(), sensitivities=[0] * 96)
    stream = gpu.encode(photograph, levels)
    there, here = fed(gpu, stream), fed(cpu, stream)
    assert torch.equal(there.known.y_hat, here.known.y_hat)
    assert np.abs(there.picture().astype(int) - here.picture()).max() <= 1


def test_weights_that_are_not_numbers_are_refused() -> None:
    model = lively(ProgressiveHyperprior(8, 12))
    with torch.no_grad():
        model.h_s[0].weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        codec_of(model)


def test_models_are_found_by_fingerprint_and_name(tmp_path, monkeypatch, photograph) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(model_store, "PACKAGE", tmp_path / "nowhere" / "package")
    monkeypatch.setattr(model_store, "DEFAULT", tmp_path / "nowhere")
    with pytest.raises(UserError, match="none here"):
        Codec.load("run-1")
    path = tmp_path / "outputs" / "mine" / "run-1" / "weights.safetensors"
    save_weights(path, lively(ProgressiveHyperprior(8, 12)), META)
    named = Codec.load("run-1")
    assert Codec.load(Path("run-1")).fingerprint == named.fingerprint
    assert named.fingerprint == bytes.fromhex(model_store.fingerprint_in(path))
    stream = named.encode(photograph[:64, :64])
    with Image.open(io.BytesIO(stream[: len(stream) // 2])) as opened:
        assert (opened.format, opened.size, opened.mode) == ("PDTD", (64, 64), "RGB")
        np.testing.assert_array_equal(
            np.asarray(opened), pixels(named.decode(stream[: len(stream) // 2]))
        )
    Image.fromarray(photograph[:64, :64]).save("a.pdtd", model="run-1", levels=[0.5, 1.0])
    assert Image.open("a.pdtd").convert("L").size == (64, 64)
    with pytest.raises(UserError, match=r"No model run-2.*There are: run-1"):
        Codec.load("run-2")
    moved = tmp_path / "elsewhere"
    path.parent.rename(moved)
    with pytest.raises(OtherModelError, match=named.fingerprint.hex()):
        Codec.load_for(stream)
    monkeypatch.setenv("PROGDTD_MODELS", str(moved))
    assert Codec.load_for(stream).fingerprint == named.fingerprint

    here = tmp_path / "outputs" / "run-1"
    save_weights(here / "weights.safetensors", lively(ProgressiveHyperprior(8, 16)), META)
    save_weights(moved / "run-1" / "weights.safetensors", named.coder.model, META)
    assert Codec.load("run-1").fingerprint == named.fingerprint, "$PROGDTD_MODELS comes first"
    link = tmp_path / "cache" / "progdtd" / "models" / named.fingerprint.hex()
    link.write_text(str(here))
    assert Codec.load_for(stream).fingerprint == named.fingerprint, "a stale note is passed over"
    damaged = bytearray(Path("a.pdtd").read_bytes())
    damaged[-1] ^= 1
    Path("damaged.pdtd").write_bytes(damaged)
    with pytest.raises(OSError, match="damaged"), Image.open("damaged.pdtd") as opened:
        opened.load()


def test_p_does_not_hide_that_the_model_is_another(codec, photograph) -> None:
    other = codec_of(lively(ProgressiveHyperprior(8, 16)))
    stream = other.encode(photograph[:64, :64], [0.5, 1.0])
    with pytest.raises(OtherModelError):
        codec.decode(stream, p=0.5)


def test_levels_may_begin_at_none_and_a_limit_holds_when_fed_again(codec, photograph) -> None:
    assert codec.decode(codec.encode(photograph[:64, :64], [0, 1])).size == (64, 64)
    decoder, stream = codec.decoder(), codec.encode(photograph[:64, :64])
    decoder.feed(stream, 2)
    decoder.feed(b"", 2)
    assert decoder.level == 2


@pytest.mark.parametrize("numbers", [(0, 1), (13, 1), (1, 9)])
def test_levels_that_cannot_be_are_damage(numbers) -> None:
    with pytest.raises(DamagedError, match="not those of this model"):
        channels.unpack(b"".join(map(container.varint, numbers)), 1, 12, 8)


def test_colour_profiles_are_applied(photograph) -> None:
    """Here one whose red is blue."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    half = Image.new("L", photograph.shape[1::-1], 128)

    def kept(mode: str, profile: bytes, **options) -> np.ndarray:
        image = Image.fromarray(photograph).convert(mode)
        if mode == "RGBA":
            image.putalpha(half)
        file = io.BytesIO()
        image.save(file, "PNG", icc_profile=profile, **options)
        return to_rgb(Image.open(file))

    for mode in ("RGB", "RGBA", "P"):
        plain = kept(mode, srgb)
        np.testing.assert_allclose(kept(mode, swapped), plain[..., ::-1], atol=1)
        np.testing.assert_array_equal(kept(mode, b"no profile"), plain)
    np.testing.assert_array_equal(kept("RGB", srgb), photograph)
    np.testing.assert_array_equal(kept("L", swapped), kept("L", srgb))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.rot90(photograph[..., ::-1], -1)
    np.testing.assert_allclose(kept("RGB", swapped, exif=exif), turned, atol=1)


def test_codecs_go_to_other_processes_and_ignore_the_default_dtype(photograph) -> None:
    stream, picture = CODEC.encode(photograph), CODEC.decode(CODEC.encode(photograph))
    other = pickle.loads(pickle.dumps(CODEC))
    try:
        torch.set_default_dtype(torch.float64)
        fresh = ProgressiveHyperprior(8, 12)
        load_state(fresh, CODEC.coder.model.state_dict(), "here")
        for codec in (CODEC, other, codec_of(fresh)):
            assert codec.encode(photograph) == stream
            assert codec.decode(stream) == picture
    finally:
        torch.set_default_dtype(torch.float32)
