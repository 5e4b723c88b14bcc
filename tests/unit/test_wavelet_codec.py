"""The wavelet model's streams, by a small model of random weights."""

import io
import itertools
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from plain_wavelet import places_in

from progdtd import Codec
from progdtd.codec import container, entropy, model_store, wavelet
from progdtd.codec.errors import DamagedError, IncompleteError, OtherModelError, UndecodableError
from progdtd.errors import UserError
from progdtd.files import PACKAGE
from progdtd.images import psnr
from progdtd.models import wavelet as networks
from progdtd.models.wavelet import Wavelet
from progdtd.models.wavelet_file import save
from progdtd.wavelet import walk


@pytest.fixture(scope="session")
def codec(wavelet_file) -> Codec:
    return Codec(wavelet.WaveletCoder.load(wavelet_file))


@pytest.fixture
def other(tmp_path) -> Codec:
    """Another model."""
    save(Wavelet(width=8, pixel_width=8, blocks=1), tmp_path / "other.onnx", {})
    return Codec.load(tmp_path / "other.onnx")


def payloads_of(stream: bytes) -> list[bytes]:
    return list(container.Reader().feed(stream))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (65, 130), (3, 700)])
def test_every_prefix_decodes(codec, photograph, size) -> None:
    """At each level as by bytes that come little by little."""
    rows, columns = size
    picture = np.tile(photograph, (1, 3, 1))[:rows, :columns]
    stream = codec.encode(picture)
    decoder, qualities = codec.decoder(), []
    for at in range(0, len(stream), 50):
        for level in decoder.levels_of(stream[at : at + 50]):
            shown = np.asarray(codec.decode(stream[: decoder.position + 3]))
            np.testing.assert_array_equal(shown, decoder.picture())
            if level % 5 == 1:
                np.testing.assert_array_equal(shown, codec.decode(stream, levels=level))
            qualities.append(psnr(picture, shown))
    assert decoder.level == len(payloads_of(stream)) == container.read_header(stream)[0].levels
    if rows * columns > 1000:
        assert qualities[-1] > 40


def test_every_level_makes_the_picture_better(photograph) -> None:
    """By the model that comes along: random weights let no picture grow well from small ones."""
    picture, codec = np.ascontiguousarray(photograph[:100, :150]), Codec.load()
    decoder, stream = codec.decoder(), codec.encode(picture)
    qualities = [psnr(picture, decoder.picture()) for _ in decoder.levels_of(stream)]
    assert min(b - a for a, b in itertools.pairwise(qualities)) > 0


@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_picture_is_coded_and_cut(codec, height, width, seed) -> None:
    rng = np.random.default_rng(seed)
    spread = int(rng.integers(1, 257))
    picture = rng.integers(0, spread, (height, width, 3), dtype=np.uint8)
    stream = codec.encode(picture)
    assert psnr(picture, np.asarray(codec.decode(stream))) > 38
    cut = stream[: int(rng.integers(len(stream)))]
    ends = container.ends(stream)
    if len(cut) < ends[0]:
        with pytest.raises(IncompleteError):
            codec.decode(cut)
    else:
        level = sum(end <= len(cut) for end in ends)
        np.testing.assert_array_equal(codec.decode(cut), codec.decode(stream, levels=level))


@torch.no_grad()
def test_streams_have_the_bits_that_training_counts(codec, wavelet, photograph) -> None:
    picture = photograph[:128, :128]
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    steps = networks.indices(pixels)
    bits = sum(wavelet.digits(steps, plane)[0].sum().item() for plane in range(walk.PLANES))
    real = 8 * sum(map(len, payloads_of(codec.encode(picture))))
    assert real == pytest.approx(bits, rel=0.005)


def test_a_second_decoder_reads_the_same(codec, wavelet_file, photograph) -> None:
    """By the description of the format, at some prefixes: see `plain_wavelet.py`."""
    model = wavelet_file.read_bytes()
    for picture in (photograph[100:165, 100:170], photograph[50:57, :3], photograph[:1, :1] * 0):
        stream = codec.encode(picture)
        ends = container.ends(stream)
        for end in {ends[0], ends[len(ends) // 3], ends[-1]}:
            plane, places = places_in(stream[:end], model)
            known = fed(codec, stream[:end]).known._walk
            assert plane == max(known.plane, 0)
            for ours, theirs in zip(known.places, places, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_large_pictures_are_coded_in_parts(codec, photograph) -> None:
    """Here by smaller bounds; how many are looked through at a time changes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "UNIT", 500)
        patch.setattr(entropy, "LARGE", 100)
        stream = codec.encode(photograph)
        known = [np.asarray(codec.decode(stream, levels=level)) for level in (1, 3, 9)]
        assert psnr(photograph, np.asarray(codec.decode(stream))) > 40
        patch.setattr(entropy, "LARGE", 1 << 30)
        patch.setattr(walk, "CHUNK", 777)
        assert codec.encode(photograph) == stream
        assert all(shown.shape == photograph.shape for shown in known)


def test_grey_pictures_cost_little_more_than_their_luma(codec, photograph) -> None:
    grey = np.asarray(Image.fromarray(photograph[:128, :128]).convert("L"))
    stream = codec.encode(grey)
    first = wavelet.unpack(container.read_header(stream)[0].parameters)
    assert (first[:, 1:] == -1).all()
    assert len(stream) < len(codec.encode(photograph[:128, :128]))


@pytest.mark.parametrize("value", [0, 77, 127, 255])
def test_flat_pictures_take_a_few_bytes(codec, value) -> None:
    picture = np.full((300, 200, 3), value, np.uint8)
    stream = codec.encode(picture)
    assert len(stream) < 700
    assert psnr(picture, np.asarray(codec.decode(stream))) > 40


def test_limits(codec, photograph) -> None:
    picture = photograph[:128, :128]
    whole = codec.encode(picture)
    for most in (600, len(whole) // 2, len(whole)):
        cut = codec.encode(picture, max_bytes=most)
        assert most // 2 < len(cut) <= most
        assert payloads_of(cut) == payloads_of(whole)[: len(payloads_of(cut))]
    with pytest.raises(UserError, match="first level"):
        codec.encode(picture, max_bytes=30)
    cut = codec.encode(picture, target_psnr=33)
    levels = len(payloads_of(cut))
    assert psnr(picture, np.asarray(codec.decode(cut))) >= 33
    assert psnr(picture, np.asarray(codec.decode(cut, levels=levels - 1))) < 33
    assert 0.4 * len(whole) < fed(codec, whole, None, 0.5).position <= 0.5 * len(whole)


@pytest.mark.parametrize("wrong", [{"levels": "planes"}, {"levels": [0.5]}, {"effort": 1}])
def test_options_of_other_models_are_refused(codec, photograph, wrong) -> None:
    with pytest.raises(UserError, match="the wavelet model"):
        codec.encode(photograph[:9, :9], **wrong)
    assert codec.encode(photograph[:9, :9], levels="wavelet")


def test_errors_say_what_is_wrong(codec, other, photograph) -> None:
    stream = codec.encode(photograph[:64, :64])
    header, payloads = container.read_header(stream)[0], payloads_of(stream)
    with pytest.raises(OtherModelError, match=codec.fingerprint.hex()):
        other.decode(stream)
    for parameters in (b"", bytes(10), bytes(12), b"\xff" * 11, bytes(10) + b"\x10"):
        with pytest.raises(DamagedError, match="planes in the header"):
            codec.decode(container.write(replace(header, parameters=parameters), payloads))
    for kind in (container.CHANNELS, container.PLANES):
        with pytest.raises(DamagedError, match="no levels of"):
            codec.decode(container.write(replace(header, kind=kind), payloads))
    with pytest.raises(UndecodableError, match="Level 1 does"):
        codec.decode(container.write(header, [payloads[0][4:], *payloads[1:]]))
    for wrong in (payloads[3] + bytes(8), payloads[3][4:]):
        with pytest.raises(UndecodableError):
            codec.decode(container.write(header, [*payloads[:3], wrong, *payloads[4:]]))
    with pytest.raises(UndecodableError, match=f"Level {len(payloads) + 1} does"):
        codec.decode(container.write(header, [*payloads, bytes(4)]))
    damaged = bytearray(stream)
    damaged[container.ends(stream)[3] - 1] ^= 1
    with pytest.raises(DamagedError, match="level 4"):
        codec.decode(bytes(damaged))
    np.testing.assert_array_equal(
        codec.decode(bytes(damaged), levels=3), codec.decode(stream, levels=3)
    )


def test_what_is_no_model_is_refused(tmp_path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    for path in (tmp_path / "a.onnx", tmp_path / "none.onnx"):
        with pytest.raises(UserError, match="cannot be"):
            wavelet.WaveletCoder.load(path)


def test_the_default_model_is_in_the_package(photograph) -> None:
    """Where a wheel finds it, too; and few bytes are a fair picture."""
    assert model_store.DEFAULT.is_relative_to(PACKAGE)
    trained = Codec.load()
    stream = trained.encode(photograph)
    assert len(stream) < 0.9 * photograph.size / 3
    assert psnr(photograph, np.asarray(trained.decode(stream[:2000]))) > 20


def test_codecs_go_to_other_processes(codec, photograph) -> None:
    again = pickle.loads(pickle.dumps(codec))
    assert again.encode(photograph[:50, :60]) == codec.encode(photograph[:50, :60])


def test_pillow_and_the_command_know_the_model(
    codec, wavelet_file, photograph, command, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    main = "codec.__main__"
    Image.fromarray(photograph[:80, :90]).save("a.png")
    assert command(main, "encode", "a.png", "a.pdtd", "--model", str(wavelet_file))[0] == 0
    stream = Path("a.pdtd").read_bytes()
    assert stream == codec.encode(photograph[:80, :90])
    for more in ((), ("--model", str(wavelet_file)), ("--level", "2"), ("--p", "0.5")):
        assert command(main, "decode", "a.pdtd", "b.png", *more)[0] == 0
    code, said = command(main, "info", "a.pdtd")
    assert code == 0
    assert "small" in said
    assert f"{len(payloads_of(stream))} whole, of wavelet" in said
    code, said = command(main, "strip", "a.png", "s.png", "--model", str(wavelet_file))
    assert code == 0, said
    with Image.open(io.BytesIO(stream)) as opened:
        np.testing.assert_array_equal(np.asarray(opened), codec.decode(stream))
    Image.fromarray(photograph[:80, :90]).save("d.pdtd", model=wavelet_file, max_bytes=900)
    assert Path("d.pdtd").stat().st_size <= 900


def test_a_run_that_holds_a_model_is_found_by_name(tmp_path, wavelet_file, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = tmp_path / "outputs" / "mine"
    run.mkdir(parents=True)
    (run / "model.onnx").write_bytes(wavelet_file.read_bytes())
    (run / "weights.safetensors").write_bytes(b"beside it")
    assert Codec.load("mine").fingerprint == Codec.load(run).fingerprint
    assert model_store.name_of(run / "model.onnx") == "mine"
    stream = Codec.load("mine").encode(np.zeros((9, 9, 3), np.uint8))
    assert Codec.load_for(stream).decode(stream).size == (9, 9)
