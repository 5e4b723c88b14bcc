"""Which model, by path, by name, or by the fingerprint in a stream; and which coder it needs."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from progdtd.codec.coder import Coder
from progdtd.errors import NOT_INSTALLED, UserError
from progdtd.files import MODEL, PACKAGE, WEIGHTS
from progdtd.wavelet.network import card_in

REFERENCE = PACKAGE.parent / "outputs/reference/hyperprior_dtd_lambda-0.1_range-0.0-1.0_seed-0"
"""The run of the paper's middle lambda over the whole range."""

DEFAULT = PACKAGE / "codec/default.onnx"
"""The wavelet model that comes with the package: it codes when no model is named."""

LARGEST_HEADER = 100_000_000
"""The bytes of a safetensors file's header, by its format."""


def roots() -> list[Path]:
    """Where models are looked for: `$PROGDTD_MODELS`, and `outputs/` here and in the project."""
    named = os.environ.get("PROGDTD_MODELS", "")
    places = [Path(place).expanduser() for place in named.split(os.pathsep) if place]
    return list(dict.fromkeys([*places, Path("outputs").resolve(), PACKAGE.parent / "outputs"]))


def models(root: Path) -> list[Path]:
    """Every file under a root that codes pictures."""
    files = sorted([*root.rglob("*.safetensors"), *root.rglob("*.onnx")])
    return [file for file in files if file == in_run(file.parent) or file.name != WEIGHTS]


def in_run(path: Path) -> Path:
    """The file that codes pictures in a run's directory; another path is that of a file."""
    if not path.is_dir():
        return path
    return path / (MODEL if (path / MODEL).exists() else WEIGHTS)


def name_of(path: Path) -> str:
    """A run's weights go by the name of the run, other files by their own."""
    if path.is_dir():
        return path.resolve().name
    return path.resolve().parent.name if path.name in (WEIGHTS, MODEL) else path.stem


def by_name(name: str | Path | None = None) -> Path:
    """The model at a path, of a name, or the default one.

    Raises:
        UserError: no model has this name (the message says which names there are), or several.
    """
    chosen = str(name or os.environ.get("PROGDTD_MODEL") or DEFAULT)
    if os.path.exists(path := os.path.expanduser(chosen)):
        return Path(path)
    names = set[str]()
    for root in roots():
        files = models(root)
        names |= {*map(name_of, files)}
        found = [file for file in files if name_of(file) == chosen]
        if len(found) > 1:
            raise UserError(
                f"Several models have the name {chosen}; give the path of one: "
                f"{', '.join(map(str, found))}."
            )
        if found:
            return found[0]
    there = f"There are: {', '.join(sorted(names))}." if names else "There are none here."
    raise UserError(f"No model {chosen}: it is neither a file nor a name. {there}")


def open_model(path: Path, device: Any = "cpu") -> Coder:
    """The coder of the model at a path. Every kind of model has its line here, and is imported with
    all that it needs only where there is one.

    Args:
        path: from `by_name` or `by_fingerprint`.
        device: where PyTorch runs the model, if it does.

    Raises:
        UserError: the path has no model, or one that cannot code pictures.
    """
    if (file := in_run(path)).suffix == ".onnx":
        from progdtd.codec.wavelet import WaveletCoder

        return WaveletCoder.load(file)
    try:  # of a run, its weights or a checkpoint
        from progdtd.codec.hyperprior import HyperpriorCoder
        from progdtd.models.weights import load_model
    except ModuleNotFoundError as error:
        raise UserError(f"{path} cannot be opened. {NOT_INSTALLED.format(error.name)}") from error

    return HyperpriorCoder(load_model(path, device))


def by_fingerprint(fingerprint: bytes) -> Iterator[Path]:
    """Where the model that made a stream should be: where one was seen before on this machine (it
    may have been trained further since), the default one, then under the roots. There may be
    none."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # no note, no home, no text
        remembered = Path((_memory() / fingerprint.hex()).read_text())
        if remembered.exists():
            yield remembered
    for path in itertools.chain([DEFAULT], itertools.chain.from_iterable(map(models, roots()))):
        if fingerprint_in(path) == fingerprint.hex():
            yield path


def fingerprint_in(path: Path) -> str | None:
    """The fingerprint that a model's file, or the one in a run's directory, says it has."""
    weights = in_run(path)
    try:
        if weights.suffix == ".onnx":
            return card_in(weights.read_bytes()).get("fingerprint")
        with weights.open("rb") as file:  # of safetensors: the size of its header, which is JSON
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, LARGEST_HEADER)))
        return header["__metadata__"].get("fingerprint")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remember(fingerprint: bytes, path: Path) -> None:
    """Note where a model is, so that its streams decode without naming it."""
    with contextlib.suppress(OSError, RuntimeError):  # no home costs the user a --model, no more
        _memory().mkdir(parents=True, exist_ok=True)
        (_memory() / fingerprint.hex()).write_text(str(path.resolve()))


def _memory() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "progdtd" / "models"
