"""Read checkpoints of the published ProgDTD code, without that code and without running what is in
them.

The published code (https://github.com/ds-kiel/ProgDTD) saves a whole `LightningModule` with
`torch.save`. Such a file is a pickle: loaded as it was meant to be, it calls whatever it names.
Here every class and function that it names becomes an inert stand-in, so unpickling yields a tree
of names, and only the parameters are then read, from the raw records of the archive.

`torch.load(weights_only=True)` takes stand-ins too (`safe_globals`), but calls what is on its own
list, such as `bytearray(2**40)`, and refuses dicts and lists of other classes, such as Lightning's
hyperparameters.
"""

import functools
import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from progdtd.errors import UserError, first_line
from progdtd.models import ProgressiveHyperprior
from progdtd.models.backbones import remap_old_keys
from progdtd.options import number

BLOCKS = {
    "model.image_analysis.model.": "g_a.",
    "model.image_synthesis.model.": "g_s.",
    "model.hyper_analysis.model.": "h_a.",
    "model.hyper_synthesis.model.": "h_s.",
    "model.hyper_bottleneck.": "entropy_bottleneck.",
}
"""The published names of the blocks and CompressAI's."""

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
}

DATA = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "builtins.set",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
}
"""What an honest checkpoint calls to restore plain data. Here not even these are called."""


def is_published(path: str | Path) -> bool:
    """Whether a file is a whole model of the published code, from the first class that it names."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_root(archive) + "data.pkl") as pickled:
            start = pickled.read(200)
    except Exception:  # whatever zipfile makes of a foreign file
        return False
    return bool(re.match(rb"\x80\x02c[\w.]+\nScaleHyperpriorLightning\n", start))


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a published checkpoint as a state dict in CompressAI's names and its metadata.

    Raises:
        UserError: as `read_published` and `convert`.
    """
    parameters, training = read_published(path)
    try:
        state, n, m = convert(parameters)
    except UserError as error:
        raise UserError(f"{path}: {error} Only the published ScaleHyperprior is read.") from error
    model = {"_target_": "progdtd.models.ProgressiveHyperprior", "N": n, "M": m, "sigmoid": True}
    drop: dict[str, Any] = {"latent": True, "hyper": True}
    if training["range"] is not None:
        drop["range"] = training["range"]
    return state, {
        "model": model,
        "drop": drop,
        "lambda": training["lambda"],
        "source": "published checkpoint",
    }


def read_published(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the parameters of a published checkpoint onto the CPU; nothing in the file is run.

    Returns:
        The parameters under the published names, and how they were trained: `lambda`, a float, and
        `range`, a list of two floats; None where the file does not say.

    Raises:
        UserError: the file is damaged, is no module saved with torch 1.6 or later, or calls
            anything that restoring a model does not need; the message names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive)
            module = _unpickle(_record(archive, root + "data.pkl"))
            if not isinstance(module, _Inert) or not isinstance(module.state, dict):
                raise pickle.UnpicklingError("it holds no module")
            training, storage = _training(module), _storage(archive, root)
            return {name: _tensor(p, storage) for name, p in _parameters(module)}, training
    except Exception as error:
        raise UserError(
            f"{path} is not a usable checkpoint of the published code ({_reason(error)}). Nothing "
            "in it was run. Give a file that the published code saved, whole and unchanged."
        ) from error


def convert(published: dict[str, Tensor]) -> tuple[dict[str, Tensor], int, int]:
    """Convert the parameters of the published model to `ProgressiveHyperprior(N, M, sigmoid=True)`.

    The published hyper-analysis starts with a layer that takes the absolute value, so its indices
    are one ahead; the published hyper-synthesis ends in a transposed convolution of stride 1, which
    is a convolution with the kernel mirrored and its channels exchanged.

    Args:
        published: from `read_published`; the names within the entropy bottleneck may be those of
            earlier CompressAI (`_matrix0`) or today's (`matrices.0`).

    Returns:
        A complete state dict in CompressAI's names, float32, and N and M.

    Raises:
        UserError: parameters are missing, left over or of another shape.
    """
    state = {_compressai_name(name): value.float() for name, value in published.items()}
    state = remap_old_keys("entropy_bottleneck", state)
    try:
        m, n = state["g_a.6.weight"].shape[:2]
        last, middle = state["g_a.6.weight"].shape, state["g_a.2.weight"].shape
        if last != (m, n, 5, 5) or middle != (n, n, 5, 5):
            raise ValueError(f"g_a.2.weight is {tuple(middle)} and g_a.6.weight {tuple(last)}")
        state["h_s.4.weight"] = state["h_s.4.weight"].transpose(0, 1).flip(2, 3).contiguous()
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"This is not the published architecture ({_reason(error)}).") from error
    model = ProgressiveHyperprior(n, m, sigmoid=True)
    shapes = {name: value.shape for name, value in state.items()}
    expected = {name: value.shape for name, value in model.named_parameters()}
    if differing := sorted({name for name, _ in shapes.items() ^ expected.items()}):
        raise UserError(
            f"This is not the published architecture with N={n} and M={m}: {len(differing)} "
            f"parameters are missing, unknown or of another shape, such as {differing[0]}."
        )
    return model.state_dict() | state, n, m


def _compressai_name(name: str) -> str:
    for theirs, ours in BLOCKS.items():
        if name.startswith(theirs):
            name = name.replace(theirs, ours, 1)
    return re.sub(r"^h_a\.(\d+)", lambda index: f"h_a.{int(index[1]) - 1}", name)


class _Inert(dict):
    """Stands in for a class or function: keeps what it is given and does nothing with it.

    It is a dict, so that what is pickled as a mapping is one; `arguments` are those of a call,
    `state` is what an object would be restored from. It refuses calls that restoring a model does
    not need.
    """

    name = ""
    arguments: tuple = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:  # by a call; new objects come without
        if self.name not in DATA:
            raise pickle.UnpicklingError(f"it calls {self.name}")
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Hands out stand-ins only: there is nothing on its stack that could act."""

    def find_class(self, module: str, name: str) -> type[_Inert]:
        module = "builtins" if module == "__builtin__" else module
        return type("_Inert", (_Inert,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _unpickle(pickled: bytes) -> Any:
    for opcode, argument, _ in pickletools.genops(pickled):
        # Later opcodes and sparse memos allocate what they claim; torch.save writes neither.
        if opcode.proto > 2 or (opcode.name.endswith("PUT") and (argument or 0) > len(pickled)):
            raise pickle.UnpicklingError(f"it has {opcode.name}, which torch.save does not write")
    return _Unpickler(io.BytesIO(pickled)).load()


Storage = Callable[[str, str], Tensor]
"""Gives the elements that are stored as this kind under this key."""


def _storage(archive: zipfile.ZipFile, root: str) -> Storage:
    @functools.cache
    def storage(kind: str, key: str) -> Tensor:
        record = bytearray(_record(archive, f"{root}data/{key}"))
        return torch.frombuffer(record, dtype=STORAGES[kind]) if record else torch.empty(0)

    return storage


def _parameters(module: _Inert, prefix: str = "") -> Iterator[tuple[str, _Inert]]:
    # Taken out, so that a module that contains itself is read once.
    for name, parameter in module.state.pop("_parameters", {}).items():
        if parameter is not None:
            yield prefix + name, parameter
    for name, child in module.state.pop("_modules", {}).items():
        if child is not None:
            yield from _parameters(child, f"{prefix}{name}.")


def _tensor(parameter: _Inert, storage: Storage) -> Tensor:
    tensor = parameter.arguments[0] if parameter.name.endswith("_parameter") else parameter
    if tensor.name != "torch._utils._rebuild_tensor_v2":
        raise pickle.UnpicklingError(f"a parameter is made by {tensor.name}")
    (_, kind, key, _, _), offset, size, stride = tensor.arguments[:4]
    elements = storage(kind.name, key)
    if math.prod(size) > len(elements):
        raise pickle.UnpicklingError(f"a parameter of shape {size} has {len(elements)} elements")
    return elements.as_strided(size, stride, offset)


def _training(module: _Inert) -> dict[str, Any]:
    """The lambda and the range of p that the module remembers."""
    weight = module.state.get("distortion_lambda")
    bounds = module.state["_modules"]["model"].state.get("progressiveness_range")
    plain = isinstance(bounds, (list, tuple)) and len(bounds) == 2 and all(map(number, bounds))
    return {
        "lambda": float(weight) if number(weight) else None,
        "range": [float(bound) for bound in bounds] if plain else None,
    }


def _root(archive: zipfile.ZipFile) -> str:
    """The folder that torch.save puts everything into, with the slash."""
    return archive.namelist()[0].partition("/")[0] + "/"


def _record(archive: zipfile.ZipFile, name: str) -> bytes:
    record = archive.getinfo(name)
    if record.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile("it is compressed, which torch.save never does")
    return archive.read(record)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
