"""Sweeps as the cluster misbehaves: launchers, kills, signals, locks, damage, full disks."""

import io
import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import RUN, TINY, composed, ended, refused, shell, succeeded, wait_for, wait_for_end
from filelock import FileLock
from omegaconf import OmegaConf
from rich.console import Console
from safetensors.torch import load_file

from progdtd.experiment import progress, run
from progdtd.files import LAST, PREVIOUS, WEIGHTS
from progdtd.models.weights import parameters

GROUP = "outputs/smoke"

SCRIPTS = Path(__file__).parents[2] / "scripts"


def smoke(steps: int, checkpoint_every: int = 100_000) -> tuple[str, ...]:
    """The words of a training of so many steps that is validated at its end alone."""
    often = f"trainer.checkpoint_every={checkpoint_every}"
    return "experiment=smoke", f"trainer.steps={steps}", often, "trainer.validate_every=100000"


LONG = smoke(100_000)


def of(lmbda: float, group: str = "smoke") -> Path:
    return Path(RUN.replace("0.1_", f"{lmbda}_").replace("smoke", group))


def steps(directory: Path) -> int:
    return progress.read(directory).step


def pid(directory: Path) -> int:
    return int(run.holder(directory).get("pid", 0))


def equal(one: Path, other: Path) -> bool:
    first, second = (load_file(directory / WEIGHTS) for directory in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


LAUNCHERS = ["launcher=basic", "launcher=local"] + [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("launcher=ray", "hydra/launcher=joblib", "hydra/launcher=submitit_local")
]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_failing_job_costs_the_others_nothing(launcher, monkeypatch) -> None:
    """Every launcher: two runs finish, one fails, the table at the end says which and why."""
    if launcher == "launcher=ray":
        pytest.importorskip("ray")
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    process = shell("progdtd.train", "-m", "experiment=smoke", "lambda=0.01,-1,1.0", launcher)
    output = ended(process, 1)
    assert output.count("lambda=-1 must be a number above 0") >= 2
    assert "Traceback" not in output
    states = [progress.read(of(x)).state for x in (0.01, -1.0, 1.0)]
    assert states == ["finished", "failed", "finished"]
    rows = re.findall(r"lambda-(\S+)_range\S+ +(finished|failed)", output.rpartition("best")[2])
    assert rows == [("0.01", "finished"), ("-1.0", "failed"), ("1.0", "finished")]


def test_a_job_that_is_refused_says_why_and_leaves_the_record_alone(command, trained) -> None:
    """Neither a finished run nor one that failed before is what the refused process was."""
    before = run.recorded(Path(RUN))
    run.record(of(1.0), state="failed", error="an earlier failure")
    shutil.copy(Path(RUN) / run.CONFIG, of(1.0))
    shutil.copytree(Path(RUN), of(2.0), ignore=shutil.ignore_patterns("*.lock"))
    again = ("-m", "experiment=smoke", "launcher=local", "lambda=0.1,1.0,2.0", "trainer.lr=0.01")
    output = refused(command, "train", *again)
    assert all(f"{of(lmbda)}: {of(lmbda)} holds a run" in output for lmbda in (0.1, 1.0, 2.0))
    assert run.recorded(Path(RUN)) == before
    assert run.recorded(of(1.0))["error"] == "an earlier failure"
    assert output.count("holds a run with another configuration") >= 1
    assert "trainer.lr: 0.002 there, 0.01 now" in output


@pytest.mark.parametrize("axis", ["trainer.lr=1e-3,2e-3", "seed=0,0"])
def test_runs_of_one_name_are_refused_before_the_first_begins(command, axis) -> None:
    output = refused(command, "train", "-m", "experiment=smoke", axis, "launcher=local")
    assert f"Several runs of this sweep would be in {Path(RUN).name}: name them after" in output
    assert not Path(GROUP).exists()


def test_a_sweep_over_what_directories_are_not_named_after(command) -> None:
    words = ("trainer.lr=1e-3,2e-3", "run_name='lr-${trainer.lr}'")
    succeeded(command, "train", "experiment=smoke", "-m", *words)  # wherever -m is
    assert json.loads(Path(GROUP, run.PLAN).read_text())["runs"] == ["lr-0.001", "lr-0.002"]
    assert {progress.read(path).state for path in progress.runs([Path(GROUP)])} == {"finished"}


def test_a_sweep_ends_in_a_table_of_its_own_runs(command) -> None:
    for seed in (0, 1):
        words = ("experiment=smoke", f"seed={seed}", "trainer.steps=1")
        code, output = command("train", "-m", *words)
        assert code == 0, output
    assert "last error" in output
    assert "seed-1" in output.partition("last error")[2]
    assert "seed-0" not in output.partition("last error")[2]


def test_a_sweep_whose_plan_is_unknown_ends_in_a_table_too(command, monkeypatch) -> None:
    # as of another sweeper
    monkeypatch.setattr("progdtd.experiment.sweep.planned", lambda config: [])
    output = succeeded(command, "train", "-m", "experiment=smoke", "trainer.steps=1")
    assert "seed-0" in output.partition("last error")[2]


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_sweep_may_number_its_runs(command, launcher) -> None:
    words = ("trainer.steps=1", f"launcher={launcher}", "hydra.sweep.subdir=${hydra.job.num}")
    succeeded(command, "train", "-m", "experiment=smoke", "seed=3,4", *words)
    configs = [OmegaConf.load(f"outputs/smoke/{number}/config.yaml") for number in (0, 1)]
    assert [config.seed for config in configs] == [3, 4]


def test_a_sweep_that_does_not_begin_has_no_table(command, monkeypatch) -> None:
    assert "leave out -m" in refused(command, "train", "-m", "experiment=smoke", "--cfg", "job")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "last error" not in refused(command, "train", "-m", "experiment=smoke", "launcher=gpus")


@pytest.mark.parametrize("mode", [(), ("-m",)])
@pytest.mark.parametrize(
    ("word", "missing"), [("run_name='${trainer.rl}'", "trainer.rl"), ("~drop.name", "drop.name")]
)
def test_a_name_that_cannot_be_made_is_one_clear_message(command, mode, word, missing) -> None:
    output = refused(command, "train", *mode, "experiment=smoke", word)
    assert f"Interpolation key '{missing}' not found" in output


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_configs_may_be_the_user_s_own(command, launcher) -> None:
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults: [smoke]\ntrainer: {steps: 2}\n"
    )
    words = ("--config-dir", "own", "-m", "experiment=mine", "seed=0", f"launcher={launcher}")
    succeeded(command, "train", *words)
    assert progress.read(Path(RUN)).steps == 2
    assert progress.read(Path(RUN)).state == "finished"


def test_a_follower_ends_where_its_leader_does(command, trained, monkeypatch) -> None:
    """Under torchrun and srun it would wait for a leader that has ended."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    succeeded(command, "train", "experiment=smoke")
    output = refused(command, "train", "experiment=smoke", "trainer.lr=0.01")
    assert "another configuration" in output
    output = refused(command, "train", "experiment=smoke", "seed=1", "trainer.lr=-1")
    assert "must not be negative" in output


def test_a_killed_job_is_resumed_by_the_same_sweep(command) -> None:
    """SIGKILL of one of two jobs: the other finishes; the sweep again finishes both."""
    arguments = ("-m", *smoke(150, 5), "lambda=0.01,1.0", "launcher=local")
    process = shell("progdtd.train", *arguments)
    wait_for(lambda: steps(of(0.01)) > 10, process)
    os.kill(pid(of(0.01)), signal.SIGKILL)
    output = ended(process, 1)
    assert "killed by SIGKILL (out of memory?)" in output
    assert progress.read(of(0.01)).state == "interrupted"
    assert progress.read(of(1.0)).state == "finished"
    assert "finished" in succeeded(command, "train", *arguments)
    assert "Resuming" in (of(0.01) / "train.log").read_text()
    assert progress.read(of(0.01)).state == "finished"


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_sweep_that_ends_has_its_jobs_save_and_end(how) -> None:
    process = shell("progdtd.train", "-m", *LONG, "seed=0,1", "launcher=local")
    both = [Path(RUN), Path(RUN.replace("seed-0", "seed-1"))]
    wait_for(lambda: all(steps(directory) > 3 for directory in both), process)
    jobs = [pid(directory) for directory in both]
    process.send_signal(how)
    ended(process, {15: 75, 2: 130, 9: -9}[how])
    wait_for_end(*jobs)
    for directory in both:
        assert (directory / LAST).exists()
        assert progress.read(directory).state == "interrupted"
        assert not run.is_locked(directory)


def test_sigterm_saves_what_there_is_and_the_rest_is_the_same_to_the_bit(command) -> None:
    settings = smoke(60)
    succeeded(command, "train", *settings, "group=whole")
    process = shell("progdtd.train", *settings)
    wait_for(lambda: steps(Path(RUN)) > 5, process)
    process.terminate()
    output = ended(process, 75)
    assert re.search(r"Told to stop at step \d+: the same command resumes there", output)
    state = torch.load(f"{RUN}/{LAST}", weights_only=True)
    assert 5 < state["step"] < 60
    record, batch = run.recorded(Path(RUN)), composed("experiment=smoke").trainer.batch_size
    assert record["images_seen"] == state["step"] * batch
    assert 0 < record["wall_time_s"] < 60
    succeeded(command, "train", *settings)
    assert equal(Path(RUN), of(0.1, "whole"))


def test_sigterm_to_all_processes_of_a_job_costs_no_checkpoint() -> None:
    """As `timeout` and Slurm send it: the workers that read images get it too."""
    process = shell("progdtd.train", *LONG, "dataset.workers=2", "dataset.cache_gib=0")
    wait_for(lambda: steps(Path(RUN)) > 1, process)
    os.killpg(process.pid, signal.SIGTERM)
    ended(process, 75)
    assert torch.load(f"{RUN}/{LAST}", weights_only=True)["step"] > 1


@pytest.mark.parametrize("launcher", [(), ("launcher=local", "-m")])
def test_a_directory_is_one_process_s_until_it_dies(launcher) -> None:
    process = shell("progdtd.train", *LONG)
    wait_for(lambda: steps(Path(RUN)) > 1, process)
    before = (Path(RUN) / run.RECORD).read_text()
    output = ended(shell("progdtd.train", *LONG, *launcher), 1)
    assert f"is being trained by process {process.pid} on " in output
    assert (Path(RUN) / run.RECORD).read_text() == before
    process.kill()
    process.communicate()
    assert not run.is_locked(Path(RUN))
    assert progress.read(Path(RUN)).state == "interrupted"


def test_a_damaged_checkpoint_falls_back_to_the_one_before(command) -> None:
    settings = smoke(40, 4)
    succeeded(command, "train", *settings, "group=whole")
    process = shell("progdtd.train", *settings)
    last = Path(RUN) / LAST
    wait_for(lambda: (Path(RUN) / PREVIOUS).exists() and last.exists(), process)
    process.kill()
    process.communicate()
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    last.write_bytes(damaged)
    output = succeeded(command, "train", *settings)
    assert "last.pt is not a readable checkpoint" in output
    assert "Falling back to" in output
    assert equal(Path(RUN), of(0.1, "whole"))
    assert not (Path(RUN) / PREVIOUS).exists()


def test_when_every_checkpoint_is_damaged_the_run_says_so(command, trained) -> None:
    (trained / WEIGHTS).unlink()
    for name in (LAST, PREVIOUS):
        (trained / name).write_bytes(b"PK nothing")
    output = refused(command, "train", "experiment=smoke")
    assert "No checkpoint in" in output
    assert "Delete the directory to start over" in output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of two megabytes, mounted as outputs/."""
    place = tmp_path / "outputs"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_nothing_that_was_saved(command, small_disk) -> None:
    settings = smoke(60, 5)
    succeeded(command, "train", *settings, "group=whole")
    shutil.copytree(of(0.1, "whole"), "whole")
    shutil.rmtree(of(0.1, "whole"))
    process = shell("progdtd.train", *settings)
    wait_for(lambda: steps(Path(RUN)) > 12, process)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(max(0, free - 20_000)))
    output = ended(process, 1)
    assert "could not be written" in output or "No space left on device" in output
    (small_disk / "filler").unlink()
    assert "Resuming" in succeeded(command, "train", *settings)
    assert equal(Path(RUN), Path("whole"))


def test_an_image_that_breaks_during_the_run_is_skipped(images) -> None:
    """No image is kept in memory, so each is read again every epoch."""
    data = ("dataset=folder", f"dataset.root={images}", "dataset.validation=1")
    read = ("dataset.cache_gib=0", "dataset.workers=1")
    process = shell("progdtd.train", *smoke(60, 2), *data, *read)
    wait_for(lambda: steps(Path(RUN)) > 3, process)
    (images / "a.png").write_bytes((images / "a.png").read_bytes()[:3000])
    (images / "b.jpg").write_bytes(b"no image at all")
    output = ended(process, 0)
    assert "Skipped" in output
    assert progress.read(Path(RUN)).state == "finished"


@pytest.mark.slow
def test_wandb_out_of_reach_costs_a_warning(command, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "4")
    output = succeeded(command, "train", "experiment=smoke", "logger=wandb")
    assert "W&B cannot be reached" in output
    assert "logging offline" in output
    assert list(Path(RUN).glob("wandb/offline-run-*"))


DDP = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu")


@pytest.mark.parametrize(
    ("torchrun", "optimizer"),
    [(False, "adam"), (False, "soap"), pytest.param(True, "adam", marks=pytest.mark.slow)],
)
def test_two_processes_end_with_the_weights_of_one(torchrun, optimizer) -> None:
    """The same global batch; noise apart, which each process draws for itself; one of them reports.
    With SOAP the two are equal, but not near the one: the rounding in which sums over one and over
    two processes differ decides the basis of what the first gradients say nothing about."""
    script = str(Path(__file__).with_name("without_noise.py"))
    start = ["-m", "torch.distributed.run", "--nproc_per_node=2"] if torchrun else []
    common = (
        "experiment=smoke",
        "trainer.precision=32-true",
        "trainer.steps=12",
        f"trainer/optimizer={optimizer}",
    )

    def trained(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    output = trained(*start, script, *common, "trainer.batch_size=1", *DDP)
    assert output.count("To evaluate it") == 1
    metrics, validation = (pd.read_csv(Path(RUN, f"{x}.csv")) for x in ("metrics", "validation"))
    assert metrics.step.tolist() == [2, 4, 6, 8, 10, 12]
    assert not validation.duplicated(["step", "p"]).any()
    first, second = (torch.load(f"{RUN}/rank{i}.pt", weights_only=True) for i in (0, 1))
    for name in parameters(first):
        assert torch.equal(first[name], second[name]), name
    if optimizer == "adam":
        trained(script, *common, "trainer.batch_size=2", "group=alone")
        alone = torch.load(of(0.1, "alone") / "rank0.pt", weights_only=True)
        for name in parameters(alone):
            torch.testing.assert_close(first[name], alone[name], rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in Path(GROUP).iterdir()) == [Path(RUN).name]
    assert not list(Path(RUN).glob("train_ddp*"))


def test_two_processes_stop_together(command) -> None:
    process = shell("progdtd.train", *LONG, *DDP)
    wait_for(lambda: steps(Path(RUN)) > 3, process)
    os.kill(pid(Path(RUN)), signal.SIGTERM)
    output = ended(process, 75)
    assert output.count("Told to stop") == 1
    assert progress.read(Path(RUN)).state == "interrupted"


@pytest.mark.slow
def test_a_sweep_of_runs_of_two_processes(command) -> None:
    assert "add launcher=local" in refused(command, "train", "-m", "experiment=smoke", *DDP)
    one = ("launcher=local", "launcher.workers=1", "group=sweep")
    succeeded(command, "train", "-m", "experiment=smoke", *DDP, *one)
    assert progress.read(of(0.1, "sweep")).state == "finished"


@pytest.mark.slow
def test_the_script_of_the_reference_models_goes_on_in_chunks() -> None:
    """All six models and three controls, of which each begins from the first."""
    script = Path("scripts/train_reference.sh")
    script.parent.mkdir()
    shutil.copy(SCRIPTS / script.name, script)
    tiny = (*TINY, "trainer=debug", "dataset=photos", "logger=csv", "seed=1")
    lasting = {"PYTHON": sys.executable, "BASE": "6", "FINE": "4"}
    codes = []
    for chunk in ("15", "30", "600"):
        done = subprocess.run(
            ["bash", script, *tiny],
            env=os.environ | lasting | {"CHUNK": chunk},
            capture_output=True,
            text=True,
            timeout=900,
        )
        codes.append(done.returncode)
        assert done.returncode in (0, 75), done.stdout + done.stderr
    assert (codes[0], codes[-1]) == (75, 0)
    runs = sorted(Path("outputs/sweeps/reference").glob("hyperprior_*"))
    assert len(runs) == 9
    assert {progress.read(run).state for run in runs} == {"finished"}
    assert sorted(steps(run) for run in runs) == [4] * 8 + [6]


def test_qualities_are_swept_as_lambdas_are(command) -> None:
    output = succeeded(command, "train", "-m", "experiment=smoke", *TINY, "quality=low,high")
    assert json.loads(Path("outputs/smoke", run.PLAN).read_text())["runs"] == [
        of(0.01).name,
        of(1.0).name,
    ]
    assert output.count("finished") >= 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["launcher=nonesuch"], "local"),
        (["launcher=gpus"], "launcher=gpus: there is no GPU here"),
        (["launcher=local", "launcher.workers=0"], "launcher.workers=0 must be a whole number"),
        (["launcher=local", "launcher.threads=x"], "launcher.threads=x must be a whole number"),
        (["launcher=slurm", "launcher.time=soon"], "launcher.time=soon is no time limit"),
        (["launcher=slurm", "launcher.time=10"], "there is no sbatch here"),
        (["launcher=local", "trainer.accelerator=cuda"], "(trainer.accelerator=cuda, "),
        (["experiment=reference", "quality=high"], "quality= has no effect"),
        (["trainer.step=5,6"], "Did you mean trainer.steps?"),
        (["launcher=local", "trainer.step=5"], "Did you mean trainer.steps?"),
        (["drop=[dtd,none]"], "or with -m some, as drop=A,B"),
    ],
)
def test_bad_sweeps_end_in_one_sentence(command, monkeypatch, arguments, said) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert said in refused(command, "train", "-m", "experiment=smoke", *arguments)


@pytest.mark.parametrize(
    "word", ["drop=null", "quality=", "trainer/optimizer=null", "quality=0.1", "model=128"]
)
def test_a_group_without_a_choice_is_refused_in_a_sentence(command, word) -> None:
    assert f"{word}: choose one of " in refused(command, "train", word)


def test_a_plugin_that_is_missing_is_named_with_its_remedy(command, monkeypatch) -> None:
    monkeypatch.setattr("progdtd.experiment.sweep.find_spec", lambda name: None)
    output = refused(command, "train", "-m", "experiment=smoke", "launcher=ray")
    assert "pip install -e '.[ray]'" in output


@pytest.mark.parametrize(
    "arguments", [["--help"], ["lambda=-1"], ["drop.range=[1,0]"], ["model=nonesuch"]]
)
def test_help_and_errors_do_not_wait_for_torch(arguments) -> None:
    process = shell("progdtd.train", *arguments, PYTHONPROFILEIMPORTTIME="1")
    output, _ = process.communicate()
    assert "hydra" in output
    assert not re.search(r"\| +(torch|compressai|lightning_fabric)$", output, re.MULTILINE)


def test_finished_runs_are_skipped_without_torch(trained) -> None:
    process = shell("progdtd.train", "experiment=smoke", PYTHONPROFILEIMPORTTIME="1")
    output, _ = process.communicate()
    assert "finished: nothing to do" in output
    assert not re.search(r"\| +torch$", output, re.MULTILINE)


def test_status_shows_what_is_planned_running_and_done() -> None:
    arguments = (*LONG, "seed=0,1,2", "launcher=local", "launcher.workers=1")
    process = shell("progdtd.train", "-m", *arguments)
    wait_for(lambda: steps(Path(RUN)) > 1, process)
    shown, _ = shell("progdtd.status").communicate()
    states = re.findall(r"seed-(\d) +(\w+)", shown)
    assert states == [("0", "running"), ("1", "waiting"), ("2", "waiting")]
    assert re.search(r"\d+/100000 +\d\S* +\d+:\d\d", shown), "step, best loss and time left"
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert re.search(r"seed-0\S* +interrupted .*asked to stop", output)


def test_the_best_loss_is_that_of_held_out_images(trained) -> None:
    """That in training is the loss of a lucky draw of p now and then."""
    lucky = progress.metrics(Path(RUN))[1]
    table = pd.read_csv(Path(RUN, "validation.csv"))
    validated = table.groupby("step").loss.mean().min()
    assert progress.read(Path(RUN)).loss == pytest.approx(validated)
    worse, half = table.assign(step=table.step + 1, loss=2 * validated), table.head(1)
    half = half.assign(step=table.step + 2, loss=0.1)
    pd.concat([table, worse, half]).to_csv(Path(RUN, "validation.csv"), index=False)
    assert progress.read(Path(RUN)).loss == pytest.approx(validated)
    Path(RUN, "validation.csv").unlink()
    assert progress.read(Path(RUN)).loss == lucky


def test_a_table_edited_by_hand_costs_no_status(trained) -> None:
    last = progress.metrics(Path(RUN))[0]
    table = Path(RUN, "metrics.csv")
    header, *rows = table.read_text().splitlines()
    for name in ("loss", "step", "images_per_s"):
        cells = rows[-1].split(",")
        cells[header.split(",").index(name)] = "n/a"
        table.unlink()
        table.write_text("\n".join((header, *rows, ",".join(cells), "")))
        assert progress.metrics(Path(RUN))[0] == last
    table.unlink()
    table.write_text(f"{header}\n{rows[-1]}\n".replace(",", ";"))
    assert progress.read(Path(RUN)).state == "finished"


def test_status_fits_a_terminal(trained) -> None:
    """A long error takes lines of its own, and no other column its room."""
    run.record(of(1.0), state="failed", error="something went wrong " * 20)
    screen = Console(width=80, file=io.StringIO())
    screen.print(progress.table(progress.runs([Path(GROUP)])))
    shown = screen.file.getvalue()
    for word in ("finished", "failed", "6/6", "something"):
        assert word in shown


def test_status_names_the_groups_of_several(command) -> None:
    for group in ("one", "two"):
        refused(command, "train", "experiment=smoke", f"group={group}", "init_from=none")
    output = succeeded(command, "status", "outputs/*")
    assert [f"{group}/hyperprior_dtd" in output for group in ("one", "two")] == [True, True]
    assert "one/" not in command("status", "outputs/one")[1]


def test_what_brackets_hold_is_shown(tmp_path, capsys) -> None:
    directory = tmp_path / "lr[high]"
    for error in ("drop.range=[a,b] is no range", "[/gloo/pair.cc:5] closed :warning: there\\"):
        run.record(directory, state="failed", error=error)
        progress.Live([directory]).refresh()
        progress.show([directory])
        for line in capsys.readouterr().out.splitlines()[::2]:
            assert "lr[high]" in line
            assert error in line


def test_time_left(tmp_path, monkeypatch) -> None:
    run.record(tmp_path, state="running", processes=2)
    (tmp_path / run.CONFIG).write_text("trainer: {steps: 100, batch_size: 4}")
    metrics = run.Table(tmp_path / "metrics.csv", ["step", "loss", "images_per_s"], 0)
    metrics.append({"step": 50, "loss": 1.0, "images_per_s": 20.0})
    monkeypatch.setattr(run, "is_locked", lambda _: True)
    assert progress.read(tmp_path).eta == 50 * 4 * 2 / 20


def test_status_reads_on_where_it_was(tmp_path) -> None:
    table = run.Table(tmp_path / "metrics.csv", ["step", "loss"], 0)
    for step, loss in ((1, 3.0), (2, 2.0), (3, math.nan), (4, 2.5)):
        table.append({"step": step, "loss": loss})
        assert progress.metrics(tmp_path)[0]["step"] == str(step)
    with table.path.open("a") as file:
        file.write("5,1.0")
        file.flush()
        assert progress.metrics(tmp_path) == ({"step": "4", "loss": "2.5"}, 2.0)
        file.write("25\n")
    assert progress.metrics(tmp_path) == ({"step": "5", "loss": "1.025"}, 1.025)
    run.Table(table.path, ["step", "loss"], 1)
    assert progress.metrics(tmp_path) == ({"step": "1", "loss": "3"}, 3.0)
    table.path.unlink()
    assert progress.metrics(tmp_path)[0] == {}


def test_status_waits_in_a_terminal_for_runs_that_have_not_begun() -> None:
    Path("sweep/b").mkdir(parents=True)
    Path("sweep", run.PLAN).write_text('{"runs": ["b"]}')
    terminal, inside = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "progdtd.status", "sweep"], stdout=inside)
    os.close(inside)
    wait_for(lambda: b"waiting" in os.read(terminal, 4096), process)
    run.record(Path("sweep/b"), state="failed", error="it was not to be")
    assert process.wait(60) == 0
    assert b"failed" in os.read(terminal, 4096)


def test_status_of_nothing(command) -> None:
    assert "No runs in outputs/*" in refused(command, "status")


def test_status_takes_odd_configurations(command) -> None:
    for i, config in enumerate(("trainer: null", "trainer: {steps: null}", "[1]", "trainer: {")):
        Path("outputs/other", str(i)).mkdir(parents=True)
        Path("outputs/other", str(i), run.CONFIG).write_text(config)
    code, output = command("status", "outputs/other/*")
    assert (code, output.count("waiting")) == (0, 4)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Slurm on this machine, a node of its own."""
    if os.getuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        pytest.skip("needs root and Slurm: apt-get install slurm-wlm munge")
    monkeypatch.setenv("SLURM_NODE", str(tmp_path / "slurm"))
    monkeypatch.setenv("GRACE", "20")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    script = ["bash", str(SCRIPTS / "slurm_node.sh")]
    with FileLock(Path(tempfile.gettempdir()) / "progdtd-slurm-test.lock"):  # its ports are fixed
        started = subprocess.run([*script, "start"], capture_output=True, text=True, timeout=60)
        if started.returncode:
            subprocess.run([*script, "stop"], capture_output=True)
            pytest.skip(f"Slurm cannot be started here: {started.stderr.strip()}")
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm" / "slurm.conf"))
        yield
        subprocess.run([*script, "stop"], check=True)


NODE = (
    "launcher=slurm",
    "launcher.gpus=0",
    "launcher.cpus=1",
    "launcher.memory_gb=1",
    "launcher.time=0:30:00",
)


@pytest.mark.slow
def test_slurm_trains_a_sweep(slurm) -> None:
    ended(shell("progdtd.train", "-m", "experiment=smoke", "lambda=0.01,-1,1.0", *NODE), 1)
    states = [progress.read(of(x)).state for x in (0.01, -1.0, 1.0)]
    assert states == ["finished", "failed", "finished"]


@pytest.mark.slow
def test_what_slurm_refuses_is_said(slurm) -> None:
    process = shell("progdtd.train", "-m", "experiment=smoke", *NODE, "launcher.partition=nope")
    output = ended(process, 1)
    assert "launcher=slurm: nothing was submitted. sbatch: error: invalid partition" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_slurm_trains_one_model_with_two_tasks(slurm) -> None:
    ended(shell("progdtd.train", "-m", "experiment=smoke", *DDP, *NODE), 0)
    assert json.loads((Path(RUN) / run.RECORD).read_text())["images_seen"] == 24


@pytest.mark.slow
@pytest.mark.parametrize("how", ["preempted", "cancelled", "signalled"])
def test_slurm_requeues_what_is_preempted_and_that_resumes(slurm, command, how) -> None:
    settings = smoke(400)
    succeeded(command, "train", *settings, "group=whole")
    process = shell("progdtd.train", "-m", *settings, *NODE, "launcher.cpus=2")
    wait_for(lambda: steps(Path(RUN)) > 5, process)
    job = run.recorded(Path(RUN))["holder"]["slurm_job"]
    act = {
        "preempted": ["sbatch", "-p", "high", "-c", "2", "-o", "/dev/null", "--wrap", "sleep 1"],
        "cancelled": ["scancel", job],
        "signalled": ["scancel", "--signal=USR2", job],
    }[how]
    subprocess.run(act, check=True, capture_output=True)
    if how == "cancelled":  # what submitit may never hear of, where Slurm keeps no accounts
        wait_for(lambda: progress.read(Path(RUN)).state == "interrupted", process)
        time.sleep(5)
        process.kill()
    process.communicate(timeout=300)
    log = (Path(RUN) / "train.log").read_text()
    assert "Told to stop at step" in log
    if how == "cancelled":
        assert "Resuming" not in log
    else:
        assert "Resuming" in log
        assert equal(Path(RUN), of(0.1, "whole"))


def test_state_loss_and_error_are_those_of_now(tmp_path) -> None:
    run.record(tmp_path, state="finished")
    assert progress.read(tmp_path).state == "interrupted", "its weights are gone"
    run.Table(tmp_path / "metrics.csv", ["step", "loss"], 0).append({"step": 1, "loss": 1.0})
    validation = run.Table(tmp_path / "validation.csv", ["step", "p", "loss"], 0)
    validation.append({"step": 1, "p": 1.0, "loss": 2.0})
    assert progress.read(tmp_path).loss == 2
    (tmp_path / WEIGHTS).touch()
    run.record(tmp_path, error="of an earlier start")
    assert progress.read(tmp_path).error == ""
