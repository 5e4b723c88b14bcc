"""Files: where they are, what a run calls them, and how they are written so that a crash or a full
disk never costs what was there before."""

import contextlib
import errno
import glob
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from progdtd.errors import UserError

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
"""The folder of this package."""

LAST = "last.pt"
"""Within a run: everything needed to go on training."""

PREVIOUS = "previous.pt"
"""Within a run: the checkpoint before, in case the last is damaged."""

WEIGHTS = "weights.safetensors"
"""Within a run: the finished model; its presence means that the run is finished."""

MODEL = "model.onnx"
"""Within the run of a wavelet model, beside its weights: what codes pictures."""


HIDDEN = {"__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN"}
"""Folders of copies and thumbnails, beside those whose names begin with a dot."""


def data_root() -> Path:
    """The folder that holds datasets: `$PROGDTD_DATA`, else `data/` in the working directory."""
    return Path(os.environ.get("PROGDTD_DATA", "data")).expanduser()


def weights_in(directory: Path) -> Path | None:
    """The finished weights in the directory of a run, or else its newest checkpoint."""
    paths = (directory / name for name in (WEIGHTS, LAST, PREVIOUS))
    return next((path for path in paths if path.exists()), None)


def printable(name: str) -> str:
    """A file's name as text that can be written anywhere: bytes of it that are no UTF-8 become
    replacement characters."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def matching(pattern: str) -> list[Path]:
    """What has this name, which may be one with brackets, or else all that it matches as a glob."""
    path = Path(pattern).expanduser()
    there = os.path.exists(path)
    return [path] if there else [Path(match) for match in sorted(glob.glob(str(path)))]


def files_below(root: Path, suffixes: Collection[str]) -> list[Path]:
    """List the files of a directory tree with these suffixes, in the order of their names.

    Folders that are links count too, each folder once. Hidden files and what is in hidden folders
    is left out, as is all that is neither a regular file nor a link to one.
    """
    found, walked = list[Path](), set[str]()
    for folder, inner, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in walked:
            inner.clear()
            continue
        walked.add(real)
        inner[:] = sorted(filter(_shows, inner))
        found += [Path(folder, name) for name in filter(_shows, names)]
    return sorted(path for path in found if path.suffix.lower() in suffixes and path.is_file())


def _shows(name: str) -> bool:
    return not name.startswith(".") and name not in HIDDEN


def require_folder(path: Path) -> None:
    """Make a folder, if it is not there, in which files are going to be written.

    Raises:
        UserError: none can be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(f"No results can be written to {path} ({error.strerror}).") from error


def write_aside(path: Path, write: Callable[[Path], object], previous: Path | None = None) -> None:
    """Call `write(temporary path)`, flush it to disk and rename it to `path`, whose mode it takes.

    Args:
        previous: what was at `path` before goes there.

    Raises:
        UserError: the disk is full or not writable; what was at `path` before is still there, or
            at `previous`.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, aside)
            if previous:
                os.replace(path, previous)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise UserError(
            f"{path} could not be written ({error}). What was there before is untouched: "
            "make room or mend the permissions, then start the same command again."
        ) from error


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values as JSON, aside and then renamed.

    Raises:
        UserError: as `write_aside` does.
    """
    text = json.dumps(values, indent=2) + "\n"
    write_aside(path, lambda aside: aside.write_text(text))
