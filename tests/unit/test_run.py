import errno
import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError
from unittest import mock

import pytest
from conftest import composed
from omegaconf import OmegaConf

from progdtd.errors import UserError
from progdtd.experiment import run
from progdtd.files import write_aside


def test_another_configuration_is_refused_and_shown(tmp_path) -> None:
    dataset = {"root": "here", "workers": 1, "validation": 2}
    cfg = OmegaConf.create(
        {"lambda": 0.1, "trainer": {"steps": 5}, "logger": {"wandb": False}, "dataset": dataset}
    )
    run.compare(tmp_path, cfg)
    run.claim(tmp_path, cfg)
    run.compare(tmp_path, cfg)
    cfg.logger.wandb, cfg.dataset.root, cfg.dataset.workers = True, "there", 4
    cfg.trainer.checkpoint_every = 1
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


@pytest.mark.parametrize(
    ("option", "before", "now"),
    [
        ("seed", 0, 1),
        ("init_from", None, "a"),
        ("trainer.rounded", True, False),
        ("lambda", 0.1, 1),
        ("drop.range", [0, 1], [0.3, 1]),
    ],
)
def test_what_a_run_computes_may_not_change(tmp_path, option, before, now) -> None:
    cfg = OmegaConf.create({})
    OmegaConf.update(cfg, option, before)
    run.claim(tmp_path, cfg)
    run.compare(tmp_path, cfg)
    OmegaConf.update(cfg, option, now)
    with pytest.raises(UserError, match="another configuration"):
        run.compare(tmp_path, cfg)


def test_a_run_whose_optimizer_has_moved_since_goes_on(tmp_path) -> None:
    cfg = composed("experiment=smoke", "trainer/optimizer=soap")
    run.claim(tmp_path, cfg)
    path = tmp_path / run.CONFIG
    text = path.read_text()
    path.write_text(text.replace("progdtd.training.optimizer.SOAP", "progdtd.soap.SOAP"))
    assert path.read_text() != text
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


def test_a_start_with_other_code_keeps_what_was_before(tmp_path, caplog) -> None:
    run.record_start(tmp_path, 0, git_commit="a", host="one")
    run.record_start(tmp_path, 0, git_commit="b", host="one")
    assert run.recorded(tmp_path)["earlier"] == [], "nothing is left of a start at step 0"
    run.record_start(tmp_path, 10, git_commit="b", host="two")
    assert not caplog.text
    run.record_start(tmp_path, 20, git_commit="c", host="two")
    assert "The code has changed since this run began (git_commit)" in caplog.text
    record = run.recorded(tmp_path)
    assert (record["git_commit"], record["host"]) == ("c", "two")
    assert record["earlier"] == [
        {"until_step": 10, "host": "one"},
        {"until_step": 20, "git_commit": "b"},
    ]


def test_a_record_has_the_code_that_git_does_not_know(tmp_path, monkeypatch) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(run, "__file__", str(tmp_path / "progdtd" / "experiment" / "run.py"))
    for name, text in {
        ".gitignore": "ignored.py",
        "progdtd/models/mine.py": "class Mine: ...",
        "conf/model/mine.yaml": "name: mine",
        "progdtd/ignored.py": "",
        "elsewhere.py": "",
        "progdtd/experiment/run.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    unknown = {"git_commit": None, "git_diff": None, "git_untracked": {}}
    assert run.provenance() | unknown == run.provenance(), "somebody else's repository"
    subprocess.run(["git", "-C", tmp_path, "add", "progdtd/experiment/run.py"], check=True)
    assert run.provenance()["git_untracked"] == {
        "conf/model/mine.yaml": "name: mine",
        "progdtd/models/mine.py": "class Mine: ...",
    }


def test_a_record_has_what_changed_since_the_commit_but_no_results(tmp_path, monkeypatch) -> None:
    git = ("git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@example.org")
    monkeypatch.setattr(run, "__file__", str(tmp_path / "progdtd" / "experiment" / "run.py"))
    changed = [
        tmp_path / name for name in ("progdtd/experiment/run.py", "pyproject.toml", "outputs/a.csv")
    ]
    subprocess.run([*git, "init", "-q"], check=True)
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "."], check=True)
    assert run.provenance()["git_diff"] is None
    for path in changed:
        path.write_bytes(b"caf\xe9")
    diff = run.provenance()["git_diff"]
    assert [name in diff for name in ("run.py", "pyproject.toml", "a.csv")] == [True, True, False]


def test_a_record_names_packages_that_are_not_installed(monkeypatch) -> None:
    monkeypatch.setattr(run, "version", mock.Mock(side_effect=PackageNotFoundError))
    assert set(run.provenance()["packages"].values()) == {None}


def test_a_file_written_anew_keeps_its_mode(tmp_path) -> None:
    path = tmp_path / "secret"
    path.write_text("before")
    path.chmod(0o600)
    write_aside(path, lambda aside: aside.write_text("after"))
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("after", 0o600)


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (errno.ENOLCK, pytest.raises(UserError, match=r"cannot hold a run .*No locks")),
        (errno.ENOSYS, pytest.warns(UserWarning, match="flock")),
    ],
)
def test_a_directory_without_locks_is_refused_unless_no_lock_is_known_there(
    tmp_path, monkeypatch, number, outcome
) -> None:
    refuse = mock.Mock(side_effect=OSError(number, os.strerror(number)))
    monkeypatch.setattr("fcntl.flock", refuse)
    with outcome, run.locked(tmp_path):
        pass


def test_a_start_forgets_the_last_error_and_ctrl_c_is_one(tmp_path) -> None:
    run.record(tmp_path, error="old")
    errors = []

    def interrupted() -> None:
        with run.recording(tmp_path):
            errors.append(run.recorded(tmp_path)["error"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert errors == [None]
    record = run.recorded(tmp_path)
    assert (record["state"], record["error"]) == ("interrupted", "Ctrl-C")
