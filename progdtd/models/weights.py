"""Save, load and name weights: checkpoints, released weights, and weights from elsewhere."""

import copy
import hashlib
import importlib
import inspect
import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from progdtd.errors import UserError, first_line
from progdtd.files import LAST, PREVIOUS, WEIGHTS, weights_in, write_aside
from progdtd.models import Progressive, published
from progdtd.models.backbones import GDN, load_pretrained, remap_old_keys
from progdtd.models.wavelet import Wavelet
from progdtd.options import number, whole
from progdtd.tail_drop import TailDrop, build_drop

log = logging.getLogger(__name__)

METADATA = "progdtd"

TABLES = ("_offset", "_quantized_cdf", "_cdf_length", "scale_table")
"""What CompressAI's `update()` adds to a state dict; its size depends on the weights."""

PICTURE = ("g_a.", "g_s.")
"""The transforms between image and latent, which models with different priors share."""

TRANSFORMS = (*PICTURE, "h_a.", "h_s.")

LAYER_OPTIONS = (
    "stride",
    "padding",
    "output_padding",
    "dilation",
    "groups",
    "negative_slope",
    "inverse",
)
"""What, beside weights, decides what a layer computes."""

PLAIN = (nn.Conv2d, nn.ConvTranspose2d, nn.ReLU, nn.LeakyReLU, GDN)
"""Of whose options all that matter are among these; of others, all that torch calls constants."""


@dataclass(frozen=True)
class Loaded:
    """A model ready for evaluation, how its tails are dropped, and what is known of its making.

    `meta` has the keys `model`, `drop`, `lambda` (None if unknown) and whatever else was recorded.
    """

    model: Progressive
    drop: TailDrop
    meta: dict[str, Any]

    @property
    def lmbda(self) -> float | None:
        """The lambda that it was trained with, or None where that is no number above 0."""
        recorded: Any = self.meta.get("lambda")
        return float(recorded) if number(recorded) and recorded > 0 else None


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training checkpoint that `load_checkpoint` reads; the one before is kept beside.

    Raises:
        UserError: it cannot be written.
    """
    write_aside(path, lambda aside: torch.save(state, aside), path.with_name(PREVIOUS))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint onto the CPU, building tensors and plain containers only.

    Raises:
        UserError: the file is damaged or is not a checkpoint.
    """
    try:
        if zipfile.is_zipfile(path):  # torch does not look at the checksums that it writes
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():
                    raise ValueError("a checksum is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is not a readable checkpoint: it is damaged, of another kind, or holds more "
            f"than tensors and plain values ({type(error).__name__})."
        ) from error


def save_weights(
    path: Path, model: Progressive, meta: dict[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Write weights as safetensors with `meta` (JSON values only) in the header.

    With them go the hyper-latent's frequency tables and the fingerprint that streams carry.

    Args:
        dtype: how the parameters of the transforms are stored; `round_transforms` must have been
            called for less than float32. All else stays in float32.
    """
    build_tables(model)
    rounded = {name for name, _ in model.named_parameters() if name.startswith(TRANSFORMS)}
    state = {
        name: value.to(dtype if name in rounded else value.dtype)
        for name, value in model.state_dict().items()
    }
    metadata = {METADATA: json.dumps(meta), "fingerprint": fingerprint(model).hex()}
    _write_safetensors(path, state, metadata)


def save_state(path: Path, model: nn.Module, meta: dict[str, Any]) -> None:
    """Write the weights of a model that codes by another file, to go on from, with `meta`."""
    _write_safetensors(path, model.state_dict(), {METADATA: json.dumps(meta)})


def add_meta(path: Path, more: dict[str, Any]) -> None:
    """Add to what a weights file of `save_weights` says of its model; the weights stay as they are.

    Raises:
        UserError: there is no such file.
    """
    state, meta = _read_safetensors(path)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    if METADATA not in metadata:
        raise UserError(f"{path} does not say which model it holds.")
    metadata[METADATA] = json.dumps(meta | more)
    _write_safetensors(path, state, metadata)


def _write_safetensors(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """By way of memory, as `save_file` makes files that nobody else may read."""
    content = save({name: value.cpu().contiguous() for name, value in state.items()}, metadata)
    write_aside(path, lambda aside: aside.write_bytes(content))


@torch.no_grad()
def round_transforms(model: Progressive, dtype: torch.dtype) -> None:
    """Round the weights of the four transforms, in place, to what `dtype` can hold."""
    for name, parameter in model.named_parameters():
        if name.startswith(TRANSFORMS):
            parameter.copy_(parameter.to(dtype))


def build_model(config: Mapping[Any, Any]) -> Progressive | Wavelet:
    """Build the model that a `model:` config or the metadata of weights describes.

    Raises:
        UserError: not a class of `progdtd.models` (nothing else is ever imported for a weights
            file), or arguments that the class refuses.
    """
    arguments = {key: value for key, value in config.items() if key not in ("name", "_target_")}
    module, _, name = str(config.get("_target_")).rpartition(".")
    try:
        if module.split(".")[:2] != ["progdtd", "models"]:
            raise TypeError("only classes within progdtd.models can be models")
        model_class = getattr(importlib.import_module(module), name)
        if not issubclass(model_class, Progressive | Wavelet):
            raise TypeError("it is neither a Progressive nor a Wavelet model")
        for name in {"N", "M", "width", "pixel_width", "blocks"} & set(arguments):
            if not whole(arguments[name], 1):
                raise TypeError(f"{name} must be a whole number above 0")
        for name, parameter in inspect.signature(model_class).parameters.items():
            flag = isinstance(parameter.default, bool)
            if flag and not isinstance(arguments.get(name, False), bool):
                raise TypeError(f"{name} must be true or false")
        return model_class(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"Cannot build the model {dict(config)}: {first_line(error)}.") from error


@torch.inference_mode(False)  # so that a caller's does not bar gradients from it for ever
def load_model(path: str | Path, device: str | torch.device = "cpu") -> Loaded:
    """Load a model for evaluation.

    Args:
        path: a run directory, its weights or checkpoint, a CompressAI state dict, or a checkpoint
            of the published ProgDTD code (read without executing anything in it).
        device: where the model goes.

    Raises:
        UserError: nothing there, not readable, not a hyperprior model, or no such device.
    """
    state, meta = read_weights(path)
    model = build_model(meta["model"])
    if not isinstance(model, Progressive):
        raise UserError(f"{path} is a wavelet model, which has no latent to keep a part of.")
    load_state(model, state, path)
    try:
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    except (RuntimeError, AssertionError) as error:  # the latter of a torch without CUDA
        raise UserError(f"device={device} cannot be used here: {first_line(error)}.") from error
    return Loaded(model.eval(), build_drop(meta["drop"]), meta)


def warm_start(
    model: nn.Module, config: Mapping[Any, Any], path: str | Path
) -> list[dict[str, Any]]:
    """Load the weights of another training into a model that `config` describes.

    Weights of another class of model, whose priors do not fit, give the two transforms between
    image and latent, `g_a` and `g_s`; all else of the model stays as it is.

    Returns:
        the trainings behind these weights, the last first: `name` and, where the weights tell,
        `steps`, `images_seen` and `wall_time_s`.

    Raises:
        UserError: they cannot be read, or are of another architecture.
    """
    weights, meta = read_weights(path)
    alike = meta["model"]["_target_"] == config["_target_"]
    there, here = (bool(of.get("sigmoid")) for of in (meta["model"], config))
    if there != here:
        raise UserError(
            f"{path} was trained with model.sigmoid={str(there).lower()}: the weights mean "
            "something else without it."
        )
    state, taken = parameters(weights), ""
    if not alike and differing(model, state):
        kept = {name: value for name, value in state.items() if name.startswith(PICTURE)}
        own = parameters(model.state_dict())
        state = {name: value for name, value in own.items() if not name.startswith(PICTURE)} | kept
        taken = " (g_a and g_s)"
    load_state(model, state, path)
    if taken:
        message = "%s is of another class of model: only g_a and g_s begin with its weights."
        log.warning(message, path)
    path = Path(path).expanduser()
    path = path.parent if path.name in (WEIGHTS, LAST) else path
    name = path.name if path.is_dir() else f"{path.parent.name}/{path.name}"
    last = {"name": name + taken}
    last |= {key: meta[key] for key in ("steps", "images_seen", "wall_time_s") if key in meta}
    return [last, *meta.get("ancestors", [])]


def load_state(model: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load weights into a model of the same architecture.

    Raises:
        UserError: names or shapes differ; the message shows the first differences.
    """
    if differences := differing(model, state):
        raise UserError(
            f"{path} holds another architecture than {type(model).__name__}: "
            f"{'; '.join(differences[:3])}{' ...' if len(differences) > 3 else ''}. "
            "Choose the model= with the N and M that it was trained with."
        )
    model.float().load_state_dict(model.state_dict() | state)


def differing(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Where names or shapes of weights are not those of a model, a line each."""
    there, here = (
        {name: tuple(value.shape) for name, value in parameters(of).items()}
        for of in (state, model.state_dict())
    )
    return [
        f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in sorted(there | here)
        if there.get(name) != here.get(name)
    ]


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict in CompressAI's names and its metadata from any file `load_model` takes.

    Raises:
        UserError: there is none, it cannot be read, or is of no hyperprior model.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path}: there is no such file or directory.")
    if path.is_dir():
        path = weights_in(path) or path
    if not path.is_file():
        raise UserError(
            f"{path} holds no model: give a run directory, a .safetensors or .pt file. "
            "A run gets its first checkpoint after trainer.checkpoint_every steps."
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if published.is_published(path):
        return published.read_weights(path)
    content = load_checkpoint(path)
    if isinstance(content, dict) and "model" in content and "meta" in content:
        try:
            step, steps = content["step"], content["meta"]["trainer"]["steps"]
            content["meta"]["model"]["_target_"], content["meta"]["drop"]
        except (TypeError, KeyError) as error:
            raise UserError(f"The description of the model in {path} is damaged.") from error
        if step < steps:
            log.warning("%s is not finished: step %d of %d.", path, step, steps)
        return content["model"], content["meta"]
    return _compressai(content, path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}).") from error
    if METADATA in metadata:
        try:
            meta = json.loads(metadata[METADATA])
            meta["model"]["_target_"], meta["drop"], meta["lambda"]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"The description of the model in {path} is damaged.") from error
        if "gains" in meta:  # as earlier versions wrote
            meta["sensitivities"] = meta.pop("gains")
        return state, meta
    return _compressai(state, path)


def _compressai(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Recognise a state dict of a CompressAI hyperprior, of any version, by the shapes of its
    layers; also as its training script saves it."""
    try:
        content = content.get("state_dict", content)
        state = remap_old_keys("entropy_bottleneck", load_pretrained(content))
        n, m = state["g_a.0.weight"].shape[0], state["g_a.6.weight"].shape[0]
        outputs = state["h_s.4.weight"].shape[0]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path} is neither a ProgDTD model nor a CompressAI hyperprior state dict."
        ) from error
    name = "ProgressiveHyperprior" if outputs == m else "ProgressiveMeanScaleHyperprior"
    model = {"_target_": f"progdtd.models.{name}", "N": n, "M": m}
    drop = {"latent": True, "hyper": True}
    return dict(state), {"model": model, "drop": drop, "lambda": None}


def parameters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the tables derived from them, which training outdates."""
    return {name: value for name, value in state.items() if not name.endswith(TABLES)}


def build_tables(model: Progressive) -> None:
    """Compute the frequency tables of the hyper-latent and keep them with the weights.

    In float64: CompressAI's own float32 would let another instruction set round some entry
    differently.
    """
    double = copy.deepcopy(model.entropy_bottleneck).cpu().double()
    double.update(force=True)
    for name in ("_quantized_cdf", "_cdf_length", "_offset"):
        setattr(model.entropy_bottleneck, name, getattr(double, name))


def fingerprint(model: Progressive) -> bytes:
    """8 bytes of the BLAKE2b hash of all that decoding needs: architecture, synthesis, hyper-
    synthesis, and the hyper-latent's medians and tables, which are built if there are none. The
    analyses do not count.
    """
    if model.entropy_bottleneck._quantized_cdf.numel() == 0:
        build_tables(model)
    digest = hashlib.blake2b(digest_size=8)
    digest.update(type(model).__name__.encode())
    for synthesis in (model.g_s, model.h_s):
        digest.update("".join(map(_describe, _layers(synthesis))).encode())
    parts = ("g_s.", "h_s.", "entropy_bottleneck._", "entropy_bottleneck.quantiles")
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(parts):
            value = value.float() if value.is_floating_point() else value.int()
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """All layers within a module, but for what a GDN, which its weights tell, consists of."""
    for child in module.children():
        yield child
        if not isinstance(child, GDN):
            yield from _layers(child)


def _describe(layer: nn.Module) -> str:
    options = [f" {name}={getattr(layer, name)}" for name in LAYER_OPTIONS if hasattr(layer, name)]
    if not isinstance(layer, PLAIN):
        names = {*getattr(layer, "__constants__", ())} - {*LAYER_OPTIONS, "inplace"}
        options += [f" {name}={getattr(layer, name, None)}" for name in sorted(names)]
    return f"{type(layer).__name__}{''.join(options)}\n"
