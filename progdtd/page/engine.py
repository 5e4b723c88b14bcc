"""Fetches onnxruntime-web, which runs the networks in a browser: once, by npm, and verified."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import partial
from pathlib import Path

from progdtd.errors import UserError, first_line
from progdtd.files import write_aside

PACKAGE = "onnxruntime-web@1.30.0"

FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
"""What a page needs of it, with SHA-256 checksums."""

TIMEOUT_S = 600


def engine() -> dict[str, Path]:
    """The files, by their names, in the cache folder; fetched if they are not there.

    Raises:
        UserError: they cannot be fetched, or are not those of this version.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "progdtd" / PACKAGE
    paths = {name: folder / name for name in FILES}
    if not all(path.is_file() and _right(path.read_bytes(), path.name) for path in paths.values()):
        for name, content in _fetched().items():
            write_aside(paths[name], partial(Path.write_bytes, data=content))
    return paths


def _fetched() -> dict[str, bytes]:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"The page needs {PACKAGE}, which npm fetches once, and npm is not installed. Install "
            "Node.js, then start the same command again."
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(
                [npm, "pack", PACKAGE, "--pack-destination", folder],
                check=True,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                files = {name: archive.extractfile(f"package/dist/{name}") for name in FILES}
                content = {name: file.read() for name, file in files.items() if file}
        except (subprocess.SubprocessError, OSError, StopIteration, KeyError) as error:
            why = first_line(Exception(getattr(error, "stderr", "") or error))
            raise UserError(
                f"{PACKAGE} could not be fetched by npm ({why}). The page needs it: start the same "
                "command again once npm reaches its registry."
            ) from error
    if wrong := [name for name in FILES if not _right(content.get(name, b""), name)]:
        raise UserError(f"{PACKAGE} brought another {wrong[0]} than expected: it is not used.")
    return content


def _right(content: bytes, name: str) -> bool:
    return hashlib.sha256(content).hexdigest() == FILES[name]
