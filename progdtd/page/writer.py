"""Writes a page: a folder of static files, whole, which needs no other host."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from progdtd.errors import UserError
from progdtd.files import require_folder, write_aside
from progdtd.page.engine import engine
from progdtd.page.others import CODECS, lossless

SITE = Path(__file__).with_name("site")
"""What is the same in every page."""

LIST = "pictures.json"
"""Within a page: which pictures it has."""


@dataclass(frozen=True)
class Shown:
    """A picture of a page.

    Args:
        name: that visitors read.
        stream: or a prefix of one.
        ends: where its levels end, in bytes.
        original: its pixels (H, W, 3) uint8, if they are known.
    """

    name: str
    stream: bytes
    ends: Sequence[int]
    original: np.ndarray | None = None


def write(folder: Path, pictures: Sequence[Shown], model: bytes) -> None:
    """Write a page of streams that one model made.

    Raises:
        UserError: the folder holds something else, or cannot be written to, or the engine is not to
            be had.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LIST).is_file():
        raise UserError(f"{folder} holds other files than a page: give a new folder.")
    files = {f"engine/{name}": path for name, path in engine().items()}
    files |= {path.name: path for path in SITE.iterdir() if path.is_file()}
    require_folder(folder)
    for name, path in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / name)
    shutil.rmtree(folder / "pictures", ignore_errors=True)
    _put(folder / "model.onnx", model)
    listed = [_listed(folder, number, shown) for number, shown in enumerate(pictures, 1)]
    _put(folder / LIST, json.dumps(listed, indent=1).encode())


def _listed(folder: Path, number: int, shown: Shown) -> dict:
    """Write a picture's files; returns what the page is told of it."""
    place = f"pictures/{number}"
    listed: dict = {"name": shown.name, "stream": f"{place}/picture.pdtd"}
    _put(folder / listed["stream"], shown.stream)
    if shown.original is None:
        return listed
    listed["original"] = f"{place}/original.webp"
    _put(folder / listed["original"], lossless(shown.original))
    listed["others"] = {codec: [] for codec in CODECS}
    for codec, code in CODECS.items():
        for other in code(shown.original, shown.ends):
            name = f"{place}/{codec.lower().replace(' ', '')}-{other.size}.webp"
            _put(folder / name, other.shown)
            facts = {"bytes": other.size, "psnr": round(other.psnr, 2), "file": name}
            listed["others"][codec].append(facts)
    return listed


def _put(path: Path, content: bytes) -> None:
    write_aside(path, lambda aside: aside.write_bytes(content))
