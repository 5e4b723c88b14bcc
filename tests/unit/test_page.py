"""A page as it is written and served; what it does in a browser is in tests/page."""

import hashlib
import io
import json
import threading
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progdtd import Codec
from progdtd.codec import container
from progdtd.codec.__main__ import main
from progdtd.errors import UserError
from progdtd.page import engine, others, writer
from progdtd.page.server import server


@pytest.fixture(autouse=True)
def _engine(monkeypatch, tmp_path) -> None:
    """Files that stand for the engine's, in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    known = {name: hashlib.sha256(name.encode()).hexdigest() for name in engine.FILES}
    monkeypatch.setattr(engine, "FILES", known)
    folder = tmp_path / "cache" / "progdtd" / engine.PACKAGE
    folder.mkdir(parents=True)
    for name in known:
        (folder / name).write_text(name)


@pytest.fixture
def stream(wavelet_file, photograph) -> bytes:
    """A stream, at a.pdtd, of what is at a.png."""
    picture = photograph[:70, :90]
    Image.fromarray(picture).save("a.png")
    stream = Codec.load(wavelet_file).encode(picture)
    Path("a.pdtd").write_bytes(stream)
    return stream


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["page", *map(str, arguments)])
    return int(stop.value.code or 0)


def test_a_page_is_whole(stream, wavelet_file, capsys) -> None:
    Path("cut.pdtd").write_bytes(stream[: container.ends(stream)[1] + 5])
    page = Path("page")
    for _ in range(2):  # the second time over the first
        assert (
            run(
                "a.pdtd", "cut.pdtd", page, "--originals", "a.png", "a.png", "--model", wavelet_file
            )
            == 0
        )
    assert (page / "model.onnx").read_bytes() == wavelet_file.read_bytes()
    for name in ("index.html", "page.js", "worker.js", "decoder.js", "style.css"):
        assert (page / name).read_bytes() == (writer.SITE / name).read_bytes()
    assert {path.name for path in (page / "engine").iterdir()} == engine.FILES.keys()
    first, second = json.loads((page / "pictures.json").read_text())
    assert (page / first["stream"]).read_bytes() == stream
    assert (first["name"], second["name"]) == ("a", "cut")
    original = np.asarray(Image.open("a.png"))
    np.testing.assert_array_equal(Image.open(page / first["original"]), original)
    for codec in ("JPEG 2000", "WebP"):
        for other in first["others"][codec]:
            assert Image.open(page / other["file"]).size == (90, 70)
        qualities = [other["psnr"] for other in first["others"][codec]]
        assert qualities[-1] > qualities[0]
    assert len(first["others"]["WebP"]) > len(second["others"]["WebP"])


def test_without_originals_nothing_is_beside(stream, wavelet_file) -> None:
    assert run("a.pdtd", "page", "--model", wavelet_file) == 0
    assert json.loads(Path("page/pictures.json").read_text()) == [
        {"name": "a", "stream": "pictures/1/picture.pdtd"}
    ]


def test_what_cannot_be_a_page_is_said(stream, wavelet_file, capsys) -> None:
    Path("full").mkdir()
    Path("full/letter.txt").write_text("mine")
    Image.new("RGB", (9, 9)).save("small.png")
    Path("short.pdtd").write_bytes(stream[:40])
    model = ("--model", wavelet_file)
    for arguments, said in (
        (("a.pdtd", "full"), "full holds other files than a page"),
        (("a.pdtd", "page", "--originals", "small.png"), "it has another size"),
        (("a.pdtd", "page", "--originals", "a.png", "a.png"), "1 streams and 2 originals"),
        (("a.png", "page"), "a.png: This is not a ProgDTD stream"),
        (("short.pdtd", "page"), "short.pdtd"),
        (("absent.pdtd", "page"), "absent.pdtd cannot be read"),
    ):
        assert run(*arguments, *model) > 0
        assert said in capsys.readouterr().err
    assert not Path("page").exists()


def test_files_of_other_codecs_come_near_to_the_sizes(photograph) -> None:
    ends = [*range(300, 30_000, 300)]
    sizes = others.sizes(ends)
    assert sizes[0] == 300
    assert sizes[-1] == ends[-1]
    assert len(sizes) <= others.STEPS
    found = [other.size for other in others.jpeg2000(photograph[:256, :256], ends)]
    for size in sizes:
        assert min(abs(other / size - 1) for other in found) < 0.1
    for other in others.webp(photograph[:256, :256], ends):
        assert len(other.shown) == other.size
        assert Image.open(io.BytesIO(other.shown)).size == (256, 256)


def test_the_engine_is_fetched_once_and_verified(monkeypatch, tmp_path) -> None:
    paths = engine.engine()
    assert all(path.read_text() == name for name, path in paths.items())
    next(iter(paths.values())).write_text("changed")
    with pytest.raises(UserError, match="npm is not installed"):
        engine.engine()
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match=r"could not be fetched by npm \(no network\)"):
        engine.engine()
    content = dict.fromkeys(engine.FILES, "other")
    _npm_that_brings(npm, content)
    with pytest.raises(UserError, match="brought another"):
        engine.engine()
    _npm_that_brings(npm, {name: name for name in engine.FILES})
    assert all(path.read_text() == name for name, path in engine.engine().items())


def _npm_that_brings(npm: Path, content: dict[str, str]) -> None:
    """A stand-in for npm, of whose arguments the last is a folder."""
    dist = npm.with_name("package") / "dist"
    dist.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (dist / name).write_text(text)
    npm.write_text(f'#!/bin/sh\ntar czf "$4/a.tgz" -C "{npm.parent}" package\n')


def test_a_page_is_served_in_isolation(tmp_path) -> None:
    (tmp_path / "a.mjs").write_text("1")
    with server(tmp_path) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{serving.server_port}/a.mjs") as answer:
            assert answer.read() == b"1"
            assert answer.headers["Content-Type"] == "text/javascript"
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        with pytest.raises(UserError, match="cannot be used"):
            server(tmp_path, serving.server_port)
        serving.shutdown()


def test_the_page_comes_with_the_package() -> None:
    """Everything within the package's folders does; nothing of the page is ignored by them."""
    project = tomllib.loads((writer.SITE.parents[2] / "pyproject.toml").read_text())
    assert "progdtd" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {path.suffix for path in writer.SITE.iterdir()} == {".css", ".html", ".js"}
