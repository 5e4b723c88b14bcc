"""Weights & Biases may refuse, fail or be disabled: the training goes on."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb
from conftest import composed
from omegaconf import DictConfig

from progdtd.training.tracking import Tracker


@pytest.fixture
def cfg(monkeypatch) -> Iterator[DictConfig]:
    """Of a training that logs to W&B, whose settings are read anew."""
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE")
    yield composed("experiment=smoke", "logger=wandb")
    wandb.teardown()


def used(cfg: DictConfig) -> Tracker:
    """A tracker through which a training has gone."""
    with Tracker(cfg, Path("run"), leads=True) as tracker:
        tracker.log(1, {"loss": 1.0})
        tracker.point(1, 0.5, {"bpp": 1.0})
        tracker.strip(1, [torch.zeros(3, 8, 8)], [0.5])
    return tracker


@pytest.mark.parametrize(
    ("name", "value", "offline", "said"),
    [
        ("WANDB_API_KEY", "abc", True, "API key must have 40"),
        ("WANDB_MODE", "foo", False, "Input should be 'online', 'offline'"),
        ("WANDB_BASE_URL", "localhost:8080", False, "URL scheme should be"),
    ],
)
def test_settings_that_cannot_be_cost_a_warning(
    cfg, monkeypatch, caplog, name, value, offline, said
) -> None:
    monkeypatch.setenv(name, value)
    used(cfg)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said in warning
    assert ("logging offline" in warning) == offline
    assert len([*Path("run").glob("wandb/offline-run-*")]) == offline


def test_wandb_may_be_disabled(cfg, monkeypatch, caplog) -> None:
    Path("wandb").mkdir()
    Path("wandb/settings").write_text("[default]\nmode = disabled\n")
    assert used(cfg).run is None
    Path("wandb/settings").unlink()
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert used(cfg).run is None
    assert not Path("run/wandb").exists()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("failing", ["define_metric", "log", "finish", "Image"])
def test_whatever_wandb_raises_is_said_once(cfg, monkeypatch, caplog, failing) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the service is\ngone")

    there = {"define_metric", "log", "finish"}
    calls = {name: fail if name == failing else lambda *_, **__: None for name in there}
    monkeypatch.setattr(wandb, "init", lambda **_: SimpleNamespace(**calls))
    if failing == "Image":
        monkeypatch.setattr(wandb, "Image", fail)
    used(cfg)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["W&B cannot be used (the service is gone): only the CSV files are written."]
