import json
import os
import resource

import pytest
import torch
from compressai.models.google import ScaleHyperprior
from conftest import META as PLAIN
from safetensors.torch import save_file

from progdtd.errors import UserError
from progdtd.models import ProgressiveHyperprior, weights

META = PLAIN | {"drop": {"latent": True, "hyper": False, "range": [0.3, 1.0]}}


def test_weights_come_back_whole(tmp_path) -> None:
    model = ProgressiveHyperprior(8, 12)
    model.update(force=True)
    weights.save_weights(tmp_path / "w.safetensors", model, META)
    loaded = weights.load_model(tmp_path / "w.safetensors")
    assert not loaded.model.training
    assert loaded.meta == META
    assert loaded.drop.range == (0.3, 1.0)
    assert not loaded.drop.hyper
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name
    assert os.listdir(tmp_path) == ["w.safetensors"]


def of_earlier_versions(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict as CompressAI saved it, of a model on several GPUs."""
    old = {}
    for name, value in state.items():
        for part, before in (("matrices", "matrix"), ("biases", "bias"), ("factors", "factor")):
            name = name.replace(f"entropy_bottleneck.{part}.", f"entropy_bottleneck._{before}")
        old[f"module.{name}"] = value
    assert any("_matrix0" in name for name in old)
    return old


@pytest.mark.parametrize("saved", [dict, lambda state: {"state_dict": state}, of_earlier_versions])
def test_compressai_state_dicts_are_recognised(tmp_path, saved) -> None:
    plain = ScaleHyperprior(8, 12).eval()
    torch.save(saved(plain.state_dict()), tmp_path / "c.pth.tar")
    loaded = weights.load_model(tmp_path / "c.pth.tar")
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(loaded.model(x)["x_hat"], plain(x)["x_hat"])
    for name, value in weights.parameters(plain.state_dict()).items():
        assert torch.equal(loaded.model.state_dict()[name], value)


def test_half_precision_weights_load_as_float32(tmp_path) -> None:
    state = {
        k: v.half() if v.is_floating_point() else v
        for k, v in ProgressiveHyperprior(8, 12).state_dict().items()
    }
    metadata = {weights.METADATA: json.dumps(META)}
    save_file(state, tmp_path / "h.safetensors", metadata=metadata)
    model = weights.load_model(tmp_path / "h.safetensors").model
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_sensitivities_under_their_former_name_are_read(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    weights.save_weights(path, ProgressiveHyperprior(8, 12), META | {"gains": [3]})
    assert weights.load_model(path).meta == META | {"sensitivities": [3]}
    weights.add_meta(path, {"sensitivities": [5]})
    assert weights.load_model(path).meta == META | {"sensitivities": [5]}


def test_another_architecture_is_shown(tmp_path) -> None:
    weights.save_weights(tmp_path / "w.safetensors", ProgressiveHyperprior(8, 12), META)
    state, _ = weights.read_weights(tmp_path / "w.safetensors")
    with pytest.raises(
        UserError, match=r"another architecture.*\(8, 3, 1\) there and \(16, 3, 1\) here"
    ):
        weights.load_state(ProgressiveHyperprior(16, 12), state, "w.safetensors")


@pytest.mark.parametrize(
    "target", ["os.system", "progdtd.models.os", "progdtd.experiment.run.Table", None]
)
def test_a_weights_file_can_name_nothing_but_a_model(tmp_path, target) -> None:
    meta = META | {"model": {"_target_": target, "N": 8, "M": 12}}
    weights.save_weights(tmp_path / "w.safetensors", ProgressiveHyperprior(8, 12), meta)
    with pytest.raises(UserError, match="Cannot build the model"):
        weights.load_model(tmp_path / "w.safetensors")


def test_what_is_no_model_says_so(tmp_path) -> None:
    (tmp_path / "junk.pt").write_bytes(os.urandom(1000))
    (tmp_path / "junk.safetensors").write_bytes(os.urandom(1000))
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pt")
    for name in ("junk.pt", "junk.safetensors", "other.pt", "missing.pt", "."):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            weights.load_model(tmp_path / name)


def test_a_truncated_checkpoint_is_told(tmp_path) -> None:
    path = tmp_path / "last.pt"
    weights.save_checkpoint(path, {"model": {"w": torch.ones(1000)}})
    assert torch.equal(weights.load_checkpoint(path)["model"]["w"], torch.ones(1000))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        weights.load_checkpoint(path)


def test_a_full_disk_loses_nothing(tmp_path) -> None:
    """A limit on the size of files makes the real write fail half-way, as a full disk does."""
    path = tmp_path / "last.pt"
    weights.save_checkpoint(path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match="could not be written"):
            weights.save_checkpoint(path, {"w": torch.ones(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert weights.load_checkpoint(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["last.pt"]


def test_weights_may_be_read_by_whom_other_files_may(tmp_path) -> None:
    path, other = tmp_path / "w.safetensors", tmp_path / "other"
    other.touch()
    weights.save_weights(path, ProgressiveHyperprior(8, 12), META)
    weights.add_meta(path, {"sensitivities": [1.0]})
    assert path.stat().st_mode == other.stat().st_mode
