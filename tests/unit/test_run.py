import json

import pytest
from omegaconf import OmegaConf

from progdtd import run
from progdtd.errors import UserError


def test_another_configuration_is_refused_and_shown(tmp_path) -> None:
    dataset = {"root": "here", "workers": 1, "validation": 2}
    cfg = OmegaConf.create({"lambda": 0.1, "trainer": {"steps": 5}, "logger": {"wandb": False},
                            "dataset": dataset})  # fmt: skip
    run.compare(tmp_path, cfg)
    run.claim(tmp_path, cfg)
    run.compare(tmp_path, cfg)
    cfg.logger.wandb, cfg.dataset.root, cfg.dataset.workers = True, "there", 4
    run.compare(tmp_path, cfg)
    cfg.dataset.validation = 3
    with pytest.raises(UserError, match=r"dataset.validation: 2 there, 3 now"):
        run.compare(tmp_path, cfg)
    cfg.dataset.validation = 2
    cfg.trainer.steps = 6
    with pytest.raises(UserError, match=r"trainer.steps: 5 there, 6 now(.|\n)*run_name="):
        run.compare(tmp_path, cfg)
    run.claim(tmp_path, cfg)
    assert OmegaConf.load(tmp_path / run.CONFIG).trainer.steps == 5
    (tmp_path / run.CONFIG).write_text("lambda: [")
    with pytest.raises(UserError, match="is damaged"):
        run.compare(tmp_path, cfg)


def test_a_table_is_cut_back_to_the_checkpoint(tmp_path) -> None:
    path = tmp_path / "metrics.csv"
    table = run.Table(path, ["step", "loss"], 0)
    for step in (10, 20, 30):
        table.append({"step": step, "loss": step / 3})
    with path.open("a") as file:
        file.write("40,0.12")  # a kill in the middle of a line
    run.Table(path, ["step", "loss"], 20).append({"step": 25, "loss": 1.0})
    assert path.read_text().split() == ["step,loss", "10,3.33333", "20,6.66667", "25,1"]


def test_record_keeps_what_was_there(tmp_path) -> None:
    run.record(tmp_path, state="running", **run.provenance())
    run.record(tmp_path, state="finished")
    record = json.loads((tmp_path / run.RECORD).read_text())
    assert record["state"] == "finished"
    assert record["packages"]["torch"]
