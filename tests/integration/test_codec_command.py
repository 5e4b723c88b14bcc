"""The codec as a user types it, on a model trained for a few steps."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import META, Run, lively
from PIL import Image

from progdtd import Codec
from progdtd.codec import model_store
from progdtd.codec.__main__ import pair
from progdtd.models import ProgressiveHyperprior, weights
from progdtd.models.weights import fingerprint, save_weights


@pytest.fixture
def model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model where the codec looks for models, and a home of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(model_store, "PACKAGE", tmp_path / "package")
    monkeypatch.setenv("PROGDTD_MODEL", "tiny")
    path = tmp_path / "outputs" / "train" / "tiny" / "weights.safetensors"
    save_weights(path, lively(ProgressiveHyperprior(8, 12)), META)
    return path


@pytest.fixture
def photo(photograph: np.ndarray) -> str:
    Image.fromarray(photograph[:150, :200]).save("photo.png")
    return "photo.png"


@pytest.fixture
def codec(command) -> Run:
    """Run `python -m progdtd.codec <arguments>` in this process."""
    return partial(command, "codec.__main__")


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_commands_as_typed(model_file, photo, codec) -> None:
    assert codec("encode", photo, "photo.pdtd", "--model", str(model_file.parent))[0] == 0
    assert codec("decode", "photo.pdtd", "all.png")[0] == 0
    assert pixels("all.png").shape == (150, 200, 3)
    code, output = codec("info", "photo.pdtd", "--json")
    facts = json.loads(output.splitlines()[0])
    assert code == 0
    assert facts["model"] == "tiny"
    ends = [level["bytes"] for level in facts["levels"]]
    assert ends[-1] == facts["bytes"] == facts["bytes_whole"] == Path("photo.pdtd").stat().st_size
    choices = {
        ("--bytes", str(ends[4])): 5,
        ("--level", "3"): 3,
        ("--bpp", str(8 * (ends[6] + 1) / (150 * 200))): 7,
    }
    for choice, level in choices.items():
        code, output = codec("decode", "photo.pdtd", "some.png", *choice)
        assert (code, f"level {level} of {len(ends)}" in output) == (0, True), output
    assert codec("decode", "photo.pdtd", "some.png", "--p", "0.3")[0] == 0
    code, output = codec("info", "photo.pdtd")
    assert f"{ends[2]} bytes" in output
    assert codec("encode", photo, "kind.pdtd", "--levels", "channels")[0] == 0
    assert Path("kind.pdtd").read_bytes() == Path("photo.pdtd").read_bytes()
    assert codec("strip", photo, "levels.png")[0] == 0
    assert pixels("levels.png").shape[1] > 1000
    weights.add_meta(model_file, {"sensitivities": [0] * 12})
    assert codec("strip", photo, "planes.png", "--effort", "1")[0] == 0
    assert pixels("planes.png").shape[1] > 1000
    for name, kind in (("photo.pdtd", "of channels"), ("planes.pdtd", "of planes")):
        assert Path(name).exists() or codec("encode", photo, name)[0] == 0
        assert kind in codec("info", name)[1]


@pytest.mark.parametrize(("lmbda", "better_by"), [(0.01, 0.035), (0.1, 0.055)])
def test_effort(model_file, photo, codec, lmbda, better_by) -> None:
    """As of the trained models that come with the project, so that it pays."""
    released = model_store.REFERENCE.parent
    model = str(released / f"hyperprior_dtd_lambda-{lmbda}_range-0.0-1.0_seed-0")
    psnr, loss = {}, {}
    for effort in ("0", "6"):
        arguments = ("--model", model, "--effort", effort)
        assert codec("encode", photo, f"{effort}.pdtd", *arguments)[0] == 0
        assert codec("decode", f"{effort}.pdtd", f"{effort}.png")[0] == 0
        error = pixels(f"{effort}.png").astype(float) - pixels(photo)
        psnr[effort] = -10 * np.log10(np.square(error).mean() / 255**2)
        bpp = 8 * Path(f"{effort}.pdtd").stat().st_size / (150 * 200)
        loss[effort] = bpp + lmbda * np.square(error).mean()
    assert loss["6"] < (1 - better_by) * loss["0"]
    assert lmbda < 0.1 or psnr["6"] > psnr["0"] + 0.05
    assert Path("6.pdtd").stat().st_size < 1.02 * Path("0.pdtd").stat().st_size


def test_pipes(model_file, photo, codec, monkeypatch) -> None:
    """`head -c N | decode - -`, in real processes, and what fails in this one."""
    base = [sys.executable, "-W", "ignore", "-m", "progdtd.codec"]
    stream = subprocess.run(
        [*base, "encode", "-", "-"], input=Path(photo).read_bytes(), capture_output=True, check=True
    ).stdout
    half = subprocess.run(
        [*base, "decode", "-", "-"],
        input=stream[: len(stream) // 2],
        capture_output=True,
        check=True,
    )
    assert Image.open(io.BytesIO(half.stdout)).size == (200, 150)
    assert b"level" in half.stderr
    for content, code in ((stream[:20], 7), (b"\x89PNG junk", 3), (stream[:-1] + b"?", 6)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert codec("decode", "-", "x.png")[0] == code
    assert not Path("x.png").exists()


def test_limits_and_damage(model_file, photo, codec) -> None:
    for limit in (("--max-bytes", "1500"), ("--max-bpp", "0.4"), ("--target-psnr", "7")):
        assert codec("encode", photo, "cut.pdtd", *limit)[0] == 0
        assert limit[0] == "--target-psnr" or Path("cut.pdtd").stat().st_size <= 1500
    assert codec("encode", photo, "p.pdtd", "--levels", "0.2,0.5,1")[0] == 0
    stream = bytearray(Path("p.pdtd").read_bytes())
    stream[-1] ^= 255
    Path("p.pdtd").write_bytes(stream)
    code, output = codec("decode", "p.pdtd", "p.png")
    assert (code, "or decode what is before (--level 2)" in output) == (6, True)
    code, output = codec("decode", "p.pdtd", "p.png", "--level", "2")
    assert (code, "level 2 of 3" in output) == (0, True)
    code, output = codec("info", "p.pdtd")
    assert code == 6
    assert "2 here, 3 whole" in output
    assert "damaged" in output


def test_each_file_of_several_is_named_with_its_error(model_file, photo, codec) -> None:
    """The first error is the exit code."""
    for name in ("all/a.png", "all/b.bmp", "all/c.ppm", "deep/d.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.open(photo).save(name)
    os.symlink(Path("deep").resolve(), "all/link")
    assert codec("encode", "all", "coded")[0] == 0
    streams = sorted(str(path) for path in Path("coded").rglob("*.pdtd"))
    assert streams == [f"coded/{n}.pdtd" for n in ("a.png", "b.bmp", "c.ppm", "link/d.png")]
    damaged = bytearray(Path(streams[1]).read_bytes())
    damaged[-1] ^= 1
    Path(streams[1]).write_bytes(damaged)
    Path(streams[2]).write_bytes(b"no stream")
    damaged_and_foreign, foreign_and_damaged = streams[1:3], streams[2:0:-1]
    assert codec("decode", *foreign_and_damaged, "others/")[0] == 3
    assert codec("info", *foreign_and_damaged)[0] == 3
    assert codec("info", *damaged_and_foreign)[0] == 6
    code, output = codec("decode", *streams, "shown/")
    assert code == 6
    assert f"{streams[1]}: The stream is damaged" in output
    assert f"{streams[2]}: This is not a ProgDTD stream" in output
    assert len(list(Path("shown").iterdir())) == 2
    code, output = codec("encode", photo, "all/a.png", "tiny/", "--max-bytes", "20")
    assert (code, output.count("photo.png: The first level ends after")) == (1, 1)
    least = int(output.partition("ends after ")[2].split()[0])
    assert codec("encode", photo, "least.pdtd", "--max-bytes", least)[0] == 0
    assert codec("encode", photo, "less.pdtd", "--max-bytes", least - 1)[0] == 1


KINDS = [(".jpg", "JPEG"), (".webp", "WEBP"), (".pdf", "PDF")]


@pytest.mark.parametrize(("suffix", "kind"), KINDS)
def test_what_loses_is_written_at_a_quality_of_95(model_file, photo, codec, suffix, kind) -> None:
    assert codec("encode", photo, "a.pdtd")[0] == 0
    for name in ("a.png", f"a{suffix}"):
        assert codec("decode", "a.pdtd", name)[0] == 0
    with Image.open("a.png") as shown:
        shown.save("expected", kind, quality=95)
    expected, written = (Path(name).read_bytes() for name in ("expected", f"a{suffix}"))
    if kind == "PDF":  # which says when it was made
        expected, written = (
            re.search(rb"\xff\xd8.*\xff\xd9", part, re.DOTALL)[0] for part in (expected, written)
        )
    assert written == expected


def test_a_run_trained_further_is_not_the_model_of_its_old_streams(
    model_file, photo, codec
) -> None:
    run = str(model_file.parent)
    assert codec("encode", photo, "a.pdtd", "--model", run)[0] == 0
    torch.manual_seed(1)
    save_weights(model_file, lively(ProgressiveHyperprior(8, 12)), META)
    code, output = codec("info", "a.pdtd", "--json")
    assert (code, json.loads(output.splitlines()[0])["model"]) == (0, None)


def test_a_model_that_has_gone_from_where_it_was_is_not_here(model_file, photo, codec) -> None:
    Path("elsewhere").mkdir()
    moved = model_file.parent.rename("elsewhere/tiny")
    assert codec("encode", photo, "a.pdtd", "--model", str(moved))[0] == 0
    (note,) = Path("cache/progdtd/models").iterdir()
    for damage, said in (
        (lambda: (moved / "weights.safetensors").unlink(), True),
        (lambda: (moved / "weights.safetensors").touch(), True),
        (lambda: shutil.rmtree(moved), False),
        (lambda: note.write_bytes(b"\xff\xfe"), False),
    ):
        damage()
        code, output = codec("decode", "a.pdtd", "a.png")
        assert (code, "PROGDTD_MODELS" in output) == (5, True), output
        assert (f"It was looked for at {moved.absolute()}: " in output) == said, output


def test_planes_need_sensitivities(model_file, photo, codec, script) -> None:
    encode = ("encode", photo, "planes.pdtd", "--levels", "planes")
    code, output = codec(*encode)
    assert (code, "measure_sensitivities.py" in output) == (1, True)
    before = weights.load_model(model_file)
    Path("shown").mkdir()
    shutil.copy(photo, "shown")
    measure = ("measure_sensitivities.py", model_file.parent, "--images", "shown")
    assert script(*measure)[0] == 0
    code, output = script(*measure)
    assert (code, "would no longer decode: --again" in output) == (1, True)
    assert script(*measure, "--again")[0] == 0
    after = weights.load_model(model_file)
    assert len(after.meta["sensitivities"]) == 12
    for name, value in before.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[name])
    assert codec(*encode)[0] == 0
    assert codec("decode", "planes.pdtd", "planes.png", "--p", "0.5")[0] == 0
    code, output = codec("info", "planes.pdtd")
    assert (code, "whole, of planes" in output, "tiny" in output) == (0, True, True)
    weights.add_meta(model_file, {"sensitivities": [0] * 12})
    code, output = codec("decode", "planes.pdtd", "planes.png")
    assert (code, "other sensitivities" in output) == (5, True)


def test_folders_and_their_failures(model_file, images, codec) -> None:
    """Folders keep their tree; a file that fails is named and does not stop the rest."""
    (images / "broken.png").write_bytes(b"not a picture")
    (images / ".a-checkpoint.png").write_bytes(b"a hidden copy")
    os.mkfifo(images / "pipe.png")
    code, output = codec("encode", str(images), "coded")
    assert code == 1
    assert "broken.png cannot be read as an image" in output
    coded = sorted(str(p.relative_to("coded")) for p in Path("coded").rglob("*.pdtd"))
    names = ["a.png", "b.jpg", "c.webp", "deeper/d.tiff", "deeper/e.JPEG"]
    assert coded == [f"{name}.pdtd" for name in names]
    assert codec("decode", "coded", "decoded")[0] == 0
    decoded = sorted(str(p.relative_to("decoded")) for p in Path("decoded").rglob("*.*"))
    assert decoded == [f"{name.removesuffix('.png')}.png" for name in names]
    assert codec("encode", str(images / "a.png"), str(images / "b.jpg"), "two")[0] == 0
    assert sorted(os.listdir("two")) == ["a.pdtd", "b.pdtd"]


def test_folders_are_not_decoded_over_what_was_coded(model_file, images, codec) -> None:
    before = (images / "a.png").read_bytes()
    assert codec("encode", str(images), str(images))[0] == 0
    code, output = codec("decode", str(images), str(images))
    assert (code, "decode to another folder" in output) == (1, True), output
    assert (images / "a.png").read_bytes() == before


def test_what_is_write_protected_stays(model_file, photo, codec, monkeypatch) -> None:
    Path("a.pdtd").write_text("mine")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    code, output = codec("encode", photo, "a.pdtd")
    assert (code, "is write-protected" in output) == (1, True), output
    assert Path("a.pdtd").read_text() == "mine"


def test_streams_of_a_run_that_goes_on_are_warned_of(trained, photo, codec) -> None:
    encode = ("encode", photo, "photo.pdtd", "--model", str(trained))
    for unfinished in (False, True):
        if unfinished:
            (trained / "weights.safetensors").unlink()
        code, output = codec(*encode)
        assert (code, "nothing decodes what it codes now" in output) == (0, unfinished)


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("encode", "nowhere.png", "x.pdtd"), "cannot be read", 1),
        (("encode", "photo.png", "x.pdtd", "--model", "nobody"), "There are: tiny", 1),
        (("encode", "photo.png", "x.pdtd", "--max-bytes", "10"), "first level ends after", 1),
        (("encode", "photo.png", "photo.png", "-"), "go to a folder", 1),
        (("encode", "photo.png", "photo.png", "x"), "written to x/photo.pdtd", 1),
        (("strip", "whole.pdtd", "x.png"), "give the image that it was made of", 1),
        (("encode", "photo.png", "x.pdtd", "--max-bpp", "inf"), "not a number above 0", 2),
        (("encode", "photo.png", "x.pdtd", "--levels", "0.1,,1"), "or give fractions", 1),
        (("encode", "photo.png", "x.pdtd", "--levels", "0.1,2"), "fractions of the channels", 1),
        (("decode", "whole.pdtd", "x.pdtd"), "no image format", 1),
        (("encode", "photo.png", "photo.png/x.pdtd"), "could not be written", 1),
        (("encode", "photo.png", "photo.png"), "would be written over", 1),
        (("encode", "whole.pdtd", "x.pdtd"), "whole.pdtd is a stream", 1),
        (("encode", "photo.png", "x.bmp"), "is an image by its name", 1),
        (("encode", "photo", "photo"), "would be written over", 1),
        (("encode", "empty.pt", "x.pdtd"), "of no kind that Pillow knows", 1),
        (("encode", "photo.png", "x.pdtd", "--device", "nowhere"), "device", 1),
        (("encode", "photo.png", "x.pdtd", "--effort", "-2"), "effort=-2 is not a number of", 1),
        (("encode", "photo.png", "x" * 300), "File name too long", 1),
        (("encode", "photo.png", "x.pdtd", "--model", "y" * 300), "No model yyy", 1),
        (("encode", "photo.png", "x.pdtd", "--model", "~nobody/x"), "No model ~nobody/x", 1),
        (("encode", "photo.png", "x.pdtd", "--model", "empty.pt"), "is damaged", 1),
        (("encode", "photo.png", "x.pdtd", "--target-psnr", "nan"), "not a number above 0", 2),
        (("encode", "photo.png", "x.pdtd", "--device", "cuda:7"), "device", 1),
        (("decode", "photo.png", "x.png"), "not a ProgDTD stream", 3),
        (("decode", "whole.pdtd", "x.xyz"), "no image format", 1),
        (("decode", "whole.pdtd", "x.png", "--p", "2"), "within", 1),
        (("decode", "whole.pdtd", "x.png", "--level", "0"), "above 0", 2),
        (("decode", "newer.pdtd", "x.png"), "has format version 9", 4),
        (("decode", "older.pdtd", "x.png"), "has format version 1, which is no longer read", 4),
        (("decode", "other.pdtd", "x.png"), "made by the model", 5),
        (("info", "photo.png"), "not a ProgDTD stream", 3),
        (("strip", "photo.png", "photo.png"), "would be drawn over", 1),
        (("strip", "photo.png", "x.gif2"), "'gif2' is not supported", 1),
    ],
)
def test_bad_input(model_file, photo, codec, arguments, said, code) -> None:
    assert codec("encode", photo, "whole.pdtd")[0] == 0
    stream = Path("whole.pdtd").read_bytes()
    Path("newer.pdtd").write_bytes(stream[:4] + b"\x09" + stream[5:])
    Path("older.pdtd").write_bytes(stream[:4] + b"\x01" + stream[5:])
    torch.save({"model": {}, "meta": {}}, "empty.pt")
    changed = lively(ProgressiveHyperprior(8, 12))
    changed.g_s[0].bias.data += 1
    save_weights(Path("gone/weights.safetensors"), changed, META)
    made = codec("encode", photo, "other.pdtd", "--model", "gone")
    assert made[0] == 0
    shutil.rmtree("gone")
    shutil.copy(photo, "photo")
    got, output = codec(*arguments)
    assert got == code, output
    assert pixels("photo").shape == (150, 200, 3)
    assert said in output
    assert "Traceback" not in output
    assert not any(Path(name).exists() for name in ("x.png", "x.pdtd", "x.xyz", "x.bmp"))


def test_where_streams_go(model_file, photo, codec) -> None:
    """Into a folder that is yet to be made, where a link leads, and to what is no file."""
    encode = ("encode", photo)
    assert codec(*encode, f"new{os.sep}")[0] == 0
    stream = Path("new/photo.pdtd").read_bytes()
    Path("target.pdtd").touch()
    Path("link.pdtd").symlink_to("target.pdtd")
    assert codec(*encode, "link.pdtd")[0] == 0
    assert Path("link.pdtd").is_symlink()
    assert Path("target.pdtd").read_bytes() == stream
    os.mkfifo("fifo")
    with subprocess.Popen(["cat", "fifo"], stdout=subprocess.PIPE) as reader:
        assert codec(*encode, "fifo")[0] == 0
        assert reader.communicate()[0] == stream
    assert Path("fifo").is_fifo()
    end, begin = os.pipe()  # as the shell's >(...) and /dev/stdout name it
    assert codec(*encode, f"/dev/fd/{begin}")[0] == 0
    assert os.read(end, 1 << 20) == stream
    os.close(begin)
    os.close(end)


def test_a_name_that_two_models_have_is_not_guessed(model_file, photo, codec, monkeypatch) -> None:
    code, output = codec("encode", photo, "x.pdtd", "--model", "tiny")
    assert (code, "by tiny" in output) == (0, True)
    monkeypatch.setenv("PROGDTD_MODELS", str(model_file.parents[1]))  # a folder within outputs/
    assert codec("encode", photo, "x.pdtd", "--model", "tiny")[0] == 0
    monkeypatch.delenv("PROGDTD_MODELS")
    shutil.copytree(model_file.parent, "outputs/sweep/tiny")
    code, output = codec("encode", photo, "x.pdtd", "--model", "tiny")
    assert (code, "Several models have the name tiny" in output) == (1, True)
    assert "outputs/sweep/tiny" in output


def test_streams_of_equal_weights_with_other_sensitivities_decode(model_file, photo, codec):
    other = Path("outputs/other/weights.safetensors")
    for path, measured in ((model_file, [0] * 12), (other, [64] * 6 + [0] * 6)):
        save_weights(path, lively(ProgressiveHyperprior(8, 12)), META | {"sensitivities": measured})
    for path in (model_file, other):
        stream = f"{path.parent.name}.pdtd"
        encode = ("encode", photo, stream, "--levels", "planes", "--model", str(path))
        assert codec(*encode)[0] == 0
    for stream in ("tiny.pdtd", "other.pdtd"):
        assert codec("decode", stream, "a.png")[0] == 0


def test_help_and_info_are_complete(model_file, photo, codec) -> None:
    assert codec("encode", photo, "a.pdtd", "--levels", "0.2,1")[0] == 0
    for arguments, words in (
        (["--help"], ("encode", "decode", "info", "strip", "page", "exit codes")),
        (["info", "a.pdtd"], ("200x150", "tiny", "2 here, 2 whole, of channels")),
    ):
        code, output = codec(*arguments)
        assert (code, [word for word in words if word not in output]) == (0, [])
    odd = os.fsdecode(b"caf\xe9.pdtd")
    os.rename("a.pdtd", odd)
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    info = [sys.executable, "-m", "progdtd.codec", "info", odd]
    done = subprocess.run(info, capture_output=True, text=True, env=strict)
    assert (done.returncode, done.stdout.startswith("caf\\udce9.pdtd\n")) == (0, True)


def test_weights_of_this_project_are_found_by_the_streams_that_they_made() -> None:
    paths = [*model_store.REFERENCE.parent.glob("hyperprior_*/*.safetensors")]
    assert len(paths) == 6
    for path in paths:
        assert model_store.fingerprint_in(path) == fingerprint(weights.load_model(path).model).hex()
        assert model_store.fingerprint_in(path) in path.with_name("README.md").read_text()


def test_released_weights_are_half_as_large_and_code_alike(
    photo, command, codec, script, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    sizes = ("model.N=32", "model.M=48", "drop.power=2.0", "~drop.full")
    assert command("train", "experiment=smoke", "group=before", "run_name=first", *sizes)[0] == 0
    first = Path("outputs/before/first").absolute()
    assert command("train", "experiment=smoke", f"init_from={first}", *sizes)[0] == 0
    (trained,) = Path("outputs/smoke").glob("*/weights.safetensors")
    Path("shown").mkdir()
    shutil.copy(photo, "shown")
    code, output = script("release.py", trained.parent, "--to", "released", "--images", "shown")
    assert code == 0, output
    released = Path("released", trained.parent.name)
    half = released / "weights.safetensors"
    size = trained.stat().st_size
    for runs, to, said in (
        ([trained.parent], trained.parents[1], "the run itself"),
        ([trained.parent, released], "again", "Several runs would be written"),
        (["bare"], "again", "has no config.yaml"),
    ):
        Path("bare").mkdir(exist_ok=True)
        shutil.copy(trained, "bare")
        code, refused = script("release.py", *runs, "--to", to)
        assert (code, said in refused) == (1, True), refused
        assert not Path("again").exists()
    assert trained.stat().st_size == size
    other = ("release.py", first, "--to", "others", "--images", "shown")
    shutil.copytree(released, Path("others", first.name))
    code, output_of_other = script(*other)
    assert (code, "is another model" in output_of_other) == (1, True), output_of_other
    assert Path("others", first.name, "weights.safetensors").read_bytes() == half.read_bytes()
    for options in (["--replace"], []):  # the same again is no loss
        code, output_of_other = script(*other, *options)
        assert code == 0, output_of_other
    assert f"{half}: " in output
    assert half.stat().st_size < 0.8 * trained.stat().st_size
    assert model_store.fingerprint_in(half) == fingerprint(weights.load_model(half).model).hex()
    assert weights.read_weights(half)[1]["init_from"] == "first"
    assert str(first) not in (released / "config.yaml").read_text(), "of no use to others"
    card = (released / "README.md").read_text()
    assert f"| {trained.parent.name} | 6 | 12 | " in card
    assert "hyperprior, N = 32, M = 48" in card
    assert "u^2 of uniform u" in card
    for table in ("metrics.csv", "validation.csv"):
        assert (released / table).read_bytes() == (trained.parent / table).read_bytes()
    pictures = []
    for model in (str(trained), str(half)):
        assert codec("encode", photo, "a.pdtd", "--model", model)[0] == 0
        assert codec("decode", "a.pdtd", "a.png")[0] == 0
        pictures.append(pixels("a.png").astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5


def test_folders_may_be_named_like_images_and_stdin_has_a_name() -> None:
    Path("x.png").mkdir()
    assert list(pair(["a.png", "-"], "x.png", {".png"}, ".pdtd")) == [
        ("a.png", "x.png/a.pdtd"),
        ("-", "x.png/stdin.pdtd"),
    ]


def test_strips_take_the_options_of_encode(model_file, photo, codec, monkeypatch) -> None:
    seen, encode = [], Codec.encode

    def noted(self, picture, *rest, **options):
        seen.append((rest, options.get("effort")))
        return encode(self, picture, *rest, **options | {"effort": 0})

    monkeypatch.setattr(Codec, "encode", noted)
    options = ("--levels", "0.5", "--effort", "3")
    assert codec("strip", photo, "s.PNG", *options)[0] == 0
    assert seen == [(([0.5],), 3)]
