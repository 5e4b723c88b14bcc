import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from progdtd.errors import UserError
from progdtd.models import ProgressiveHyperprior, published, weights

LIGHTNING = b"cProgDTD\nScaleHyperpriorLightning\n)\x81"


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Module:
    """Pickles as a `torch.nn.Module` does: by its attributes."""

    def __init__(self, parameters=None, modules=None) -> None:
        self._parameters, self._modules = parameters or {}, modules or {}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def body(thing) -> bytes:
    """What pickles `thing` as a part of a larger pickle."""
    return pickle.dumps(thing, 2)[2:-1]


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/data/0", bytes(16))
    return path


RUN = "open('executed', 'w').close()"
IMPORT_OS = b"c__builtin__\n__import__\n(" + text("os") + b"tR"
EXECUTING = {  # what the message names: a part of a pickle
    "posix.system": body(Call(os.system, "touch executed")),
    "builtins.eval": body(Call(eval, RUN)),
    "posix.mkdir": body([{"nested": (Call(os.mkdir, "executed"),)}]),
    "builtins.__import__": body(Call(__import__, "malicious")),
    "builtins.getattr": b"c__builtin__\ngetattr\n(ctypes\nMethodType\n"
    + text("mro")
    + b"tR0"
    + IMPORT_OS
    + b"0cos\nsystem\n("
    + text("touch executed")
    + b"tR",
    "os.system": b"(S'touch executed'\nios\nsystem\n",
    "builtins.exec": b"(c__builtin__\nexec\n" + text(RUN) + b"o",
}
CRAFTED = {
    "torch.hub.load": body([Call(torch.hub.load, "somebody/something", "model")]),
    "torch.serialization.load": body(Call(torch.load, "nested.pt")),
    "builtins.bytearray": b"c__builtin__\nbytearray\n\x8a\x06"
    + (1 << 40).to_bytes(6, "little")
    + b"\x85R",
    "torch.FloatTensor": b"ctorch\nFloatTensor\n\x8a\x06"
    + (1 << 40).to_bytes(6, "little")
    + b"\x85R",
    "STACK_GLOBAL": text("torch._utils") + text("os.system") + b"\x93" + text("id") + b"\x85R",
    "bytearray8|BYTEARRAY8": b"\x96" + struct.pack("<Q", 1 << 40),
    "LONG_BINPUT": b"Nr\xff\xff\xff\xff",
    "extension": b"\x82\x01",
    "__setstate__": b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("__code__") + b"Nsb",
    "append": b"ccollections\nOrderedDict\n(NNe",
    "no module|_modules": b"cos\nsystem\n)\x81",
}


@pytest.mark.parametrize("name", EXECUTING)
def test_the_executing_pickles_would_execute(name, tmp_path) -> None:
    """Without this the next test could pass with pickles that do nothing anywhere."""
    (tmp_path / "malicious.py").write_text(RUN)
    sys.path.insert(0, str(tmp_path))
    try:
        pickle.loads(b"\x80\x02" + EXECUTING[name] + b".")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("malicious", None)
    assert Path("executed").exists()


@pytest.mark.parametrize("name", EXECUTING | CRAFTED)
def test_malicious_pickles_are_refused_and_run_nothing(name, tmp_path) -> None:
    code = torch._utils._rebuild_tensor_v2.__code__
    payload = (EXECUTING | CRAFTED)[name]
    path = archive(tmp_path / "alone.pt", b"\x80\x02" + payload + b".")
    with pytest.raises(UserError, match=name):
        published.read_published(path)
    hidden = b"\x80\x02" + LIGHTNING + b"}" + text("hook") + payload + b"sb."
    path = archive(tmp_path / "hidden.pt", hidden)
    assert published.is_published(path)
    with pytest.raises(UserError, match=name):
        weights.load_model(path)
    assert not Path("executed").exists()
    assert torch._utils._rebuild_tensor_v2.__code__ is code


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((1 << 40,), (0,), 0),
        ((5,), (1,), 0),
        ((1,), (1,), 4),
        ((2, 2), (4, 1), 0),
        ((2,), (-1,), 2),
    ],
)
def test_tensors_cannot_claim_more_than_the_file_holds(size, stride, offset, tmp_path) -> None:
    storage = torch.arange(4.0)._typed_storage()
    claim = Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, None)
    torch.save(Module({"w": claim}, {"model": Module()}), tmp_path / "claim.pt")
    with pytest.raises(UserError, match="not a usable checkpoint"):
        published.read_published(tmp_path / "claim.pt")


def test_tensors_keep_their_strides_and_precision(tmp_path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    parts = {"a": whole.T, "b": whole[1:, 2:], "c": whole.half(), "d": torch.nn.Parameter(whole)}
    torch.save(Module(parts | {"e": None}, {"model": Module()}), tmp_path / "m.pt")
    read, training = published.read_published(tmp_path / "m.pt")
    assert read.keys() == parts.keys()
    assert all(torch.equal(read[name], parts[name]) for name in parts)
    assert all(read[name].dtype == parts[name].dtype for name in parts)
    assert training == {"lambda": None, "range": None}


def test_a_module_within_itself_is_read_once(tmp_path) -> None:
    module = Module({"w": torch.ones(2)})
    module._modules = {"model": module, "again": module}
    torch.save(module, tmp_path / "m.pt")
    assert list(published.read_published(tmp_path / "m.pt")[0]) == ["w"]


def test_compressed_archives_are_refused(tmp_path) -> None:
    path = archive(tmp_path / "bomb.pt", b"\x80\x02" + LIGHTNING + b".", zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        published.read_published(path)


def published_parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters of our model under the published names."""
    blocks = {
        "g_a": "image_analysis.model",
        "g_s": "image_synthesis.model",
        "h_a": "hyper_analysis.model",
        "h_s": "hyper_synthesis.model",
        "entropy_bottleneck": "hyper_bottleneck",
    }
    parameters = {}
    for name, value in model.named_parameters():
        block, *rest = name.split(".")
        if block == "h_a":
            rest[0] = str(int(rest[0]) + 1)
        if name == "h_s.4.weight":
            value = value.flip(2, 3).transpose(0, 1)
        parameters[".".join(("model", blocks[block], *rest))] = value.detach()
    return parameters


def test_converts_every_parameter() -> None:
    model = ProgressiveHyperprior(8, 12, sigmoid=True)
    state, n, m = published.convert(published_parameters(model))
    assert (n, m) == (8, 12)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.image_analysis.model.6.weight": None}, "not the published architecture"),
        ({"model.image_analysis.model.6.weight": torch.ones(12)}, "not the published architecture"),
        ({"model.image_analysis.model.2.weight": torch.ones(9, 9, 5, 5)}, "g_a.2.weight"),
        ({"model.hyper_synthesis.model.4.weight": torch.ones(3)}, "not the published architecture"),
        ({"model.image_synthesis.model.0.weight": torch.ones(12, 9, 5, 5)}, "g_s.0.weight"),
        ({"model.hyper_bottleneck.quantiles": None}, "entropy_bottleneck.quantiles"),
        ({"model.context_prediction.weight": torch.ones(3)}, "context_prediction"),
    ],
)
def test_other_architectures_are_told(change, message) -> None:
    parameters = published_parameters(ProgressiveHyperprior(8, 12, sigmoid=True)) | change
    with pytest.raises(UserError, match=message):
        published.convert({name: value for name, value in parameters.items() if value is not None})


def test_no_memory_is_taken_for_a_claimed_size() -> None:
    empty = OrderedDict(
        {f"model.image_analysis.model.{i}.weight": torch.empty(1 << 20, 1 << 20, 0) for i in (2, 6)}
    )
    with pytest.raises(UserError, match="not the published architecture"):
        published.convert(empty)


def test_recognises_only_published_checkpoints(tmp_path) -> None:
    model = ProgressiveHyperprior(8, 12)
    torch.save(model, tmp_path / "whole.pt")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    (tmp_path / "random.pt").write_bytes(os.urandom(1000))
    (tmp_path / "empty.pt").touch()
    archive(tmp_path / "published.pt", b"\x80\x02" + LIGHTNING + b".")
    recognised = {p.name for p in tmp_path.glob("*.pt") if published.is_published(p)}
    assert recognised == {"published.pt"}
    assert not published.is_published(tmp_path / "missing.pt")
