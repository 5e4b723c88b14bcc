"""Downloads from a real server on this machine, with the faults that real servers have."""

import http.server
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import refused, succeeded

from progdtd import download
from progdtd.download import digest, fetch
from progdtd.errors import UserError

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves files from `root`; hangs up after `cut` bytes, and resumes if `ranges`; is `busy`
    for so many requests."""

    root: Path
    cut: int | None = None
    ranges = True
    busy = 0
    requests: list[str | None]

    def do_GET(self) -> None:
        self.requests.append(self.headers.get("Range"))
        if len(self.requests) <= self.busy:
            self.send_error(503)
            return
        path = self.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content, start = path.read_bytes(), 0
        if self.ranges and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.cut])
        self.close_connection = True

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The handler class, to set faults on, and the server's address."""
    monkeypatch.setattr(download, "PAUSE_S", 0)
    root = tmp_path / "served"
    root.mkdir()
    (root / "file.bin").write_bytes(CONTENT)
    handler = type("Handler", (Server,), {"root": root, "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_port}"
        yield handler
        running.shutdown()


def fetched(server) -> bytes:
    """What is here once the server's file has been asked for."""
    fetch(f"{server.url}/file.bin", Path("file.bin"), digest(server.root / "file.bin"))
    return Path("file.bin").read_bytes()


def test_a_checksum_may_be_written_in_capitals_and_has_to_be_one(server) -> None:
    sha256 = digest(server.root / "file.bin").upper()
    fetch(f"{server.url}/file.bin", Path("file.bin"), f" {sha256}\n")
    assert Path("file.bin").read_bytes() == CONTENT
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        fetch(f"{server.url}/file.bin", Path("other.bin"), "abc")
    assert not Path("other.bin.part").exists()


def test_a_cut_connection_is_continued(server) -> None:
    server.cut = 1_200_000
    assert fetched(server) == CONTENT
    assert not Path("file.bin.part").exists()
    assert server.requests[0] is None
    assert all(r and int(r[6:-1]) > 1_000_000 for r in server.requests[1:])


def test_an_earlier_attempt_is_continued_and_a_whole_file_left_alone(server) -> None:
    Path("file.bin.part").write_bytes(CONTENT[:2_500_000])
    for _ in range(2):
        assert fetched(server) == CONTENT
        assert server.requests == ["bytes=2500000-"]


def test_everything_arrived_but_was_not_renamed(server) -> None:
    Path("file.bin.part").write_bytes(CONTENT)
    assert fetched(server) == CONTENT


def test_a_server_that_cannot_resume_starts_over(server) -> None:
    server.ranges = False
    Path("file.bin.part").write_bytes(CONTENT[:100_000])
    assert fetched(server) == CONTENT


def test_a_wrong_checksum_keeps_nothing(server) -> None:
    with pytest.raises(UserError, match="another checksum"):
        fetch(f"{server.url}/file.bin", Path("file.bin"), "0" * 64)
    assert not Path("file.bin").exists()
    assert not Path("file.bin.part").exists()


def test_what_is_not_there_is_said(server) -> None:
    with pytest.raises(UserError, match="404"):
        fetch(f"{server.url}/nothing", Path("nothing"))
    with pytest.raises(UserError, match="goes on where it stopped"):
        fetch("http://127.0.0.1:9/file", Path("file"))
    with pytest.raises(UserError, match="is no address"):
        fetch("foo/bar", Path("file"))


def test_a_busy_server_is_asked_again(server) -> None:
    server.busy = 2
    assert fetched(server) == CONTENT
    assert len(server.requests) == 3
    server.busy = 100
    with pytest.raises(UserError, match="503"):
        fetch(f"{server.url}/file.bin", Path("other.bin"))


def test_a_part_that_is_longer_than_the_file_is_started_over(server) -> None:
    (server.root / "empty.bin").touch()
    Path("empty.bin.part").write_bytes(b"x")
    fetch(f"{server.url}/empty.bin", Path("empty.bin"))
    assert Path("empty.bin").read_bytes() == b""


def test_kodak_script_refuses_other_images(server, script) -> None:
    (server.root / "kodim01.png").write_bytes(CONTENT)
    output = refused(script, "download_kodak.py", "--to", "kodak", "--source", server.url)
    assert "another checksum" in output
    assert list(Path("kodak").iterdir()) == []


def test_vimeo_script_downloads_unpacks_and_goes_on(server, script) -> None:
    with zipfile.ZipFile(server.root / "v.zip", "w") as file:
        file.writestr("vimeo_triplet/tri_trainlist.txt", "00001/0001\n00001/0002\n")
        for name in ("00001/0001", "00001/0002"):
            for i in (1, 2, 3):
                file.writestr(f"vimeo_triplet/sequences/{name}/im{i}.png", CONTENT[:50_000])
    server.cut = 140_000
    options = ("--to", "vimeo", "--source", f"{server.url}/v.zip")
    assert "6 frames of 2 triplets" in script("prepare_vimeo90k.py", *options)[1]

    frame = Path("vimeo/sequences/00001/0002/im3.png")
    untouched = Path("vimeo/sequences/00001/0001/im1.png").stat().st_mtime_ns
    frame.unlink()
    succeeded(script, "prepare_vimeo90k.py", "--to", "vimeo", "--zip", "vimeo.zip")
    assert frame.read_bytes() == CONTENT[:50_000]
    assert Path("vimeo/sequences/00001/0001/im1.png").stat().st_mtime_ns == untouched


def test_vimeo_script_unpacks_nothing_outside_its_folder(script) -> None:
    with zipfile.ZipFile("evil.zip", "w") as file:
        file.writestr("../evil.txt", "x")
    output = refused(script, "prepare_vimeo90k.py", "--to", "deep/er", "--zip", "evil.zip")
    assert "outside" in output
    assert not Path("deep/evil.txt").exists()
    Path("bad.zip").write_bytes(CONTENT)
    output = refused(script, "prepare_vimeo90k.py", "--to", "deep", "--zip", "bad.zip")
    assert "cannot be unpacked" in output
    with zipfile.ZipFile("torn.zip", "w") as file:
        file.writestr("im1.png", CONTENT[:1000])
    content = Path("torn.zip").read_bytes()
    Path("torn.zip").write_bytes(content.replace(CONTENT[:1000], CONTENT[1:1001]))
    output = refused(script, "prepare_vimeo90k.py", "--to", "torn", "--zip", "torn.zip")
    assert "cannot be unpacked" in output
    assert list(Path("torn").iterdir()) == []
