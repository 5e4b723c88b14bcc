"""Training as a user runs it: real photographs, real processes, real kills."""

import csv
import json
import os
import random
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RUN, ended, refused, shell, succeeded, wait_for
from omegaconf import OmegaConf
from safetensors.torch import load_file

from progdtd.codec.codec import Codec
from progdtd.experiment import run
from progdtd.files import MODEL, WEIGHTS
from progdtd.images import psnr, to_tensor
from progdtd.models import weights
from progdtd.models.weights import read_weights
from progdtd.training import trainer


def rows(path: Path | str) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def test_trainings_are_compared_by_their_last_validations(script) -> None:
    table = "step,p,loss,bpp,psnr\n1,0.5,9,1.0,20\n2,0.5,4,0.51,29.996\n2,1,3,0.9,31\n"
    for name in ("one", "new"):
        Path(name).mkdir()
    Path("one/validation.csv").write_text(table)
    Path("new/validation.csv").write_text(table.partition("\n")[0] + "\n")
    code, output = script("compare.py", "one")
    assert code == 0
    assert "| one | 0.510: 30.00, 4.000 | 0.900: 31.00, 3.000 |" in output.splitlines()
    for names, said in (
        (("one", "new"), "new has not been validated yet"),
        (("one", "none"), "none has no validation"),
    ):
        assert said in refused(script, "compare.py", *names)


@pytest.mark.slow
def test_the_parts_of_a_step_are_timed(script) -> None:
    code, output = script("profile_training.py", "experiment=smoke")
    assert code == 0, output
    parts = (
        "the whole step",
        "reading a batch",
        "forward",
        "forward and backward",
        "optimizers",
        "floor of forward and backward",
    )
    for part in parts:
        asked = " " if part.startswith("floor") else r" [1-9]\d*"
        assert re.search(rf"^\| {part} \| \d+\.\d \|{asked} \|$", output, re.MULTILINE), output
    for word, said in (("lambda=-1", "lambda=-1"), ("trainr=gpu", "Did you mean trainer?")):
        assert said in refused(script, "profile_training.py", word)


def test_smoke_run_leaves_everything(command) -> None:
    succeeded(command, "train", "experiment=smoke")
    run = Path(RUN)
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        "config.yaml",
        "last.pt",
        "metrics.csv",
        "run.json",
        "train.log",
        "validation.csv",
        "weights.safetensors",
    }
    assert [row["step"] for row in rows(run / "metrics.csv")] == ["2", "4", "6"]
    record = json.loads((run / "run.json").read_text())
    validation = rows(run / "validation.csv")
    assert {row["step"] for row in validation} == {"3", "6"}
    model = weights.load_model(run).model
    crops = trainer.held_out([Path(path) for path in record["held_out"]])
    x = torch.cat([to_tensor(crop) for crop in crops])
    with torch.inference_mode():
        out = model(x, 0.4)
        bpp = sum(-part.log2().sum((1, 2, 3)) for part in out["likelihoods"].values()) / 256**2
        mse = (out["x_hat"].clamp(0, 1) - x).square().mean((1, 2, 3))
    (row,) = [row for row in validation if (row["step"], row["p"]) == ("6", "0.4")]
    assert float(row["loss"]) == pytest.approx((bpp + 0.1 * 255**2 * mse).mean().item(), rel=1e-3)
    assert record["state"] == "finished"
    assert record["images_seen"] == 12
    assert OmegaConf.load(run / "config.yaml")["lambda"] == 0.1

    written = (run / "weights.safetensors").stat().st_mtime_ns
    assert "finished: nothing to do" in succeeded(command, "train", "experiment=smoke")
    assert (run / "weights.safetensors").stat().st_mtime_ns == written

    output = refused(command, "train", "experiment=smoke", "trainer.steps=7")
    assert "trainer.steps: 6 there, 7 now" in output
    assert (run / "weights.safetensors").stat().st_mtime_ns == written


def test_without_drop_compressai_loads_the_weights(command) -> None:
    from compressai.models.google import ScaleHyperprior

    succeeded(command, "train", "experiment=smoke", "drop=none")
    state = load_file(RUN.replace("dtd", "none") + "/weights.safetensors")
    model = ScaleHyperprior.from_state_dict(state).eval()
    out = model.compress(torch.rand(1, 3, 64, 64))
    assert model.decompress(**out)["x_hat"].shape == (1, 3, 64, 64)


KILLED = (
    "trainer.checkpoint_every=3",
    "trainer.validate_every=14",
    "trainer.log_every=3",
    "trainer.devices=1",
    "trainer.accelerator=cpu",
)


WAVELET = (
    "model=wavelet",
    "model.width=8",
    "model.pixel_width=8",
    "model.blocks=1",
    "trainer=debug",
    "dataset=photos",
)


@pytest.mark.parametrize(
    ("smoke", "kills"),
    [
        (("experiment=smoke",), 3),
        (WAVELET, 2),
        pytest.param(("experiment=smoke",), 20, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_equals_undisturbed(command, smoke, kills) -> None:
    """SIGKILL at random moments; the final weights and tables are the same to the bit."""
    settings = (*smoke, "run_name=run", *KILLED, f"trainer.steps={20 * kills}")
    succeeded(command, "train", "group=whole", *settings)
    whole, killed = (Path("outputs", group, "run") for group in ("whole", "killed"))
    moments = random.Random(os.getpid())
    for _ in range(kills):
        process = shell("progdtd.train", "group=killed", *settings)
        before = (killed / "last.pt").stat().st_mtime_ns if (killed / "last.pt").exists() else 0
        while process.poll() is None:  # until this process has written a checkpoint of its own
            if (killed / "last.pt").exists() and (killed / "last.pt").stat().st_mtime_ns > before:
                break
            time.sleep(0.01)
        time.sleep(moments.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (killed / "weights.safetensors").exists(), "it was never that fast"
    succeeded(command, "train", "group=killed", *settings)
    one, other = (load_file(run / "weights.safetensors") for run in (whole, killed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    tables = [
        [{**row, "images_per_s": ""} for row in rows(run / "metrics.csv")]
        for run in (whole, killed)
    ]
    assert tables[0] == tables[1]
    assert (whole / "validation.csv").read_text() == (killed / "validation.csv").read_text()
    files = [run / MODEL for run in (whole, killed)]
    assert [file.exists() for file in files] == 2 * [smoke is WAVELET]
    assert smoke is not WAVELET or files[0].read_bytes() == files[1].read_bytes()


def test_the_command_that_is_printed_runs(command, images) -> None:
    settings = ("experiment=smoke", "trainer.steps=1", "run_name='lr=0.1 (1)'")
    output = succeeded(command, "train", *settings)
    (line,) = [line for line in output.splitlines() if "python -m progdtd.evaluate" in line]
    name, *words = shlex.split(line)[2:]
    rest = (f"images={images}", "protocols=native", "levels=1")
    assert "lr=0.1 (1)" in succeeded(command, name.removeprefix("progdtd."), *words, *rest)


def test_a_name_that_is_no_utf_8_can_be_printed(images) -> None:
    with open(os.fsencode(images) + b"/\xff.png", "wb") as file:
        file.write(b"no image")
    words = (
        "experiment=smoke",
        "trainer.steps=1",
        "dataset=folder",
        f"dataset.root={images}",
        "dataset.validation=0",
        "trainer.crop=64",
    )
    command = [sys.executable, "-m", "progdtd.train", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\udcff.png" in done.stdout
    assert "\\udcff.png" in Path(RUN, "train.log").read_text()


def test_a_wavelet_model_is_trained_and_codes(command, photograph) -> None:
    assert "lambda" in refused(command, "train", *WAVELET, "lambda=0.1")
    succeeded(command, "train", *WAVELET, "run_name=run", "drop.range=[0.5,1]")
    run = Path("outputs/train/run")
    table = rows(run / "validation.csv")
    assert min(float(row["p"]) for row in table) == 0.5
    last = [row for row in table if row["step"] == "6"]
    for column in ("bpp", "psnr"):
        values = [float(row[column]) for row in last]
        assert values == sorted(values)
    codec = Codec.load(run)
    stream = codec.encode(photograph)
    assert psnr(photograph, np.asarray(codec.decode(stream))) > 40
    succeeded(command, "train", *WAVELET, f"init_from={run}", "run_name=more")


@pytest.mark.parametrize("choice", ["disabled", "stdout"])
def test_a_training_may_log_as_hydra_does(command, choice) -> None:
    settings = ("experiment=smoke", "trainer.steps=1", f"hydra/job_logging={choice}")
    code, output = command("train", *settings)
    assert (code, "Finished" in output) == (0, choice == "stdout"), output
    assert Path(RUN, WEIGHTS).exists()
    assert not Path(RUN, "train.log").exists()


def test_options_of_the_optimizer_may_be_lists(command) -> None:
    """They are in every checkpoint, which holds plain values only."""
    settings = ("experiment=smoke", "+trainer.optimizer.betas=[0.9,0.95]")
    succeeded(command, "train", *settings)
    Path(RUN, "weights.safetensors").unlink()
    assert "Resuming" in succeeded(command, "train", *settings)


def test_training_learns(command, images) -> None:
    """A few steps on real crops lower the loss well below where it began."""
    arguments = (
        "model.N=16",
        "model.M=24",
        "trainer.steps=60",
        "trainer.lr=2e-3",
        "trainer.log_every=10",
        "trainer.validate_every=60",
        "trainer.batch_size=4",
        "dataset=folder",
        f"dataset.root={images}",
        "dataset.validation=1",
    )
    succeeded(command, "train", "experiment=smoke", *arguments)
    losses = [float(row["loss"]) for row in rows(f"{RUN}/metrics.csv")]
    assert losses[-1] < 0.6 * losses[0]


def test_warm_start_begins_from_the_given_weights(command, trained) -> None:
    still = ("trainer.steps=1", "trainer.lr=0", "trainer.aux_lr=0", "group=warm")
    succeeded(command, "train", "experiment=smoke", f"init_from={RUN}", "seed=5", *still)
    first, second = (
        load_file(f"{run}/weights.safetensors")
        for run in (RUN, RUN.replace("smoke", "warm").replace("seed-0", "seed-5"))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    warm = RUN.replace("smoke", "warm").replace("seed-0", "seed-5")
    again = ("group=warmer", f"init_from={warm}/weights.safetensors", *still[:3])
    succeeded(command, "train", "experiment=smoke", *again)
    ancestors = read_weights(RUN.replace("smoke", "warmer"))[1]["ancestors"]
    assert [one["steps"] for one in ancestors] == [1, 6]
    assert [one["name"] for one in ancestors] == [Path(warm).name, Path(RUN).name]
    output = refused(
        command, "train", "experiment=smoke", f"init_from={RUN}", "model.N=16", "seed=6"
    )
    assert "another architecture" in output
    other = ("model.sigmoid=true", f"init_from={RUN}", "seed=6")
    assert "model.sigmoid=false" in refused(command, "train", "experiment=smoke", *other)


def test_warm_start_of_another_prior_takes_the_transforms_of_pictures(command, trained) -> None:
    arguments = (
        "model=mean_scale_hyperprior",
        f"init_from={RUN}",
        "trainer.steps=1",
        "trainer.lr=0",
        "trainer.aux_lr=0",
        "seed=5",
    )
    output = succeeded(command, "train", "experiment=smoke", *arguments)
    assert "g_a and g_s begin with its weights" in output
    warm = RUN.replace("hyperprior", "mean_scale_hyperprior").replace("seed-0", "seed-5")
    first, (second, meta) = load_file(f"{RUN}/weights.safetensors"), read_weights(warm)
    same = {name for name in set(first) & set(second) if torch.equal(first[name], second[name])}
    assert {name for name in first if name.startswith(("g_a.", "g_s."))} <= same
    assert "h_a.0.weight" not in same
    assert meta["ancestors"][0]["name"] == f"{Path(RUN).name} (g_a and g_s)"
    output = refused(command, "train", "experiment=smoke", *arguments, "model.M=30", "group=other")
    assert "another architecture" in output


def test_divergence_stops_and_keeps_the_last_good_checkpoint(command) -> None:
    settings = (
        "trainer.steps=200",
        "trainer.lr=1e12",
        "trainer.clip=null",
        "trainer.warmup=150",
        "trainer.checkpoint_every=1",
        "trainer.log_every=1",
    )
    output = refused(command, "train", "experiment=smoke", *settings)
    assert "Training diverged" in output
    assert "trainer.lr" in output
    state = torch.load(f"{RUN}/last.pt", weights_only=True)
    assert all(value.isfinite().all() for value in state["model"].values())
    assert not Path(RUN, "weights.safetensors").exists()


def test_an_unfinished_run_is_said_to_be_one(command, images) -> None:
    process = shell("progdtd.train", "experiment=smoke", "trainer.steps=100000")
    wait_for(Path(RUN, "last.pt").exists, process)
    process.send_signal(signal.SIGINT)
    output = ended(process, 130)
    assert "Told to stop at step" in output, "a checkpoint was saved"
    assert "Interrupted. The same command resumes" in output
    output = succeeded(command, "evaluate", f"run={RUN}", f"images={images}", "protocols=native")
    assert "not finished: step" in output


def test_a_run_goes_on_with_its_own_images_only(command, images) -> None:
    """Else, some of those that it was trained on might be held out from then on."""
    settings = (
        "experiment=smoke",
        "dataset=folder",
        f"dataset.root={images}",
        "trainer.crop=64",
        "dataset.validation=1",
    )
    succeeded(command, "train", *settings)
    Path(RUN, "weights.safetensors").unlink()  # as if it had been stopped before
    held = run.recorded(Path(RUN))["held_out"]
    shutil.copy(images / "a.png", images / "aa.png")
    assert "are not those that this run began with" in refused(command, "train", *settings)
    assert run.recorded(Path(RUN))["held_out"] == held


def wandb_records(path: Path) -> Iterator:
    """The records of an offline W&B run: a LevelDB log of protocol buffers after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    log, position, message = path.read_bytes(), 7, b""
    while position + 7 <= len(log):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", log, position)
        message += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole message, or the last part of one
            yield Record.FromString(message)
            message = b""


def test_a_run_that_fails_is_closed_as_failed(command) -> None:
    settings = ("trainer.lr=1e12", "trainer.clip=null", "trainer.warmup=0", "logger=wandb")
    refused(command, "train", "experiment=smoke", "trainer.steps=50", *settings)
    (path,) = Path(RUN).glob("wandb/offline-run-*/run-*.wandb")
    assert [r.exit.exit_code for r in wandb_records(path) if r.HasField("exit")] == [1]


def test_wandb_offline_has_a_whole_run_after_it_was_killed(command) -> None:
    settings = ("experiment=smoke", "logger=wandb", "trainer.steps=20")
    own_service = {"WANDB_SERVICE": ""}  # rather than that of the tests
    process = shell("progdtd.train", *settings, **own_service)
    wait_for(Path(RUN, "last.pt").exists, process)
    process.kill()
    process.communicate()
    assert "Resuming" in succeeded(command, "train", *settings)
    folders = sorted(Path(RUN).glob("wandb/offline-run-*"), key=lambda path: path.stat().st_ctime)
    assert len({path.name.rpartition("-")[2] for path in folders}) == 1, "one id"
    (path,) = folders[-1].glob("*.wandb")
    items = [item for record in wandb_records(path) for item in record.history.item]
    for key, table in (("train/bpp", "metrics.csv"), ("validation/p=0.4/bpp", "validation.csv")):
        logged = [json.loads(i.value_json) for i in items if key in (i.key, *i.nested_key)]
        there = [row["bpp"] for row in rows(f"{RUN}/{table}") if row.get("p", "0.4") == "0.4"]
        assert logged == pytest.approx([*map(float, there)], rel=1e-4)


def test_wandb_offline_records_scalars_points_and_pictures(command) -> None:
    succeeded(command, "train", "-m", "experiment=smoke", "logger=wandb", "seed=0,1")
    for seed in (0, 1):
        directory = Path(RUN.replace("seed-0", f"seed-{seed}"))
        (path,) = directory.glob("wandb/offline-run-*/run-*.wandb")
        history, configs, group, exited = defaultdict(list), set(), "", []
        for record in wandb_records(path):
            for item in record.history.item:
                key = item.key or "/".join(item.nested_key)
                history[key].append(json.loads(item.value_json))
            configs |= {update.key for update in record.run.config.update}
            group = record.run.run_group or group
            exited += [record.exit.exit_code] if record.HasField("exit") else []
        assert exited == [0], "each run of a sweep is closed"
        assert group == "smoke"
        assert {"lambda", "model", "drop", "trainer"} <= configs
        logged = [float(row["loss"]) for row in rows(directory / "metrics.csv")]
        assert history["train/loss"] == pytest.approx(logged, rel=1e-4)
        assert len(history["validation/p=0.4/psnr"]) == 2
        assert history["validation/reconstructions/count"] == [6, 6]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lambda=0"], "must be a number above 0"),
        (["lambda=abc"], "must be a number above 0"),
        (["lambda=true"], "must be a number above 0"),
        (["drop.range=0.5"], "0 <= low <= high <= 1"),
        (["drop.range=[0.5]"], "0 <= low <= high <= 1"),
        (["drop.range=[a,b]"], "0 <= low <= high <= 1"),
        (["drop.full=null"], "not a probability"),
        (["seed=abc"], "seed=abc must be a whole number"),
        (["trainer.crop=abc"], "trainer.crop=abc must be a whole number"),
        (["trainer.flip=no"], "trainer.flip=no must be true or false"),
        (["trainer.channels_last=no"], "true, false or auto"),
        (["trainer.precision=bf16-true"], "bf16-mixed"),
        (["dataset.scene=0"], "dataset.scene=0 must be a whole number, at least 1"),
        (["trainer.clip=0"], "must be a number above 0, or null"),
        (["trainer.clip=-1"], "must be a number above 0, or null"),
        (["trainer.final_lr=2"], "must be a fraction of trainer.lr, from 0 to 1"),
        (["trainer.devices=auto"], "must be a whole number, at least 1, or the numbers of GPUs"),
        (["trainer.devices=[]"], "must be a whole number, at least 1, or the numbers of GPUs"),
        (["trainer.devices=-1"], "must be a whole number, at least 1, or the numbers of GPUs"),
        (["dataset.workers=-1"], "dataset.workers=-1"),
        (["model.N=0"], "N must be a whole number above 0"),
        (["logger=wandb", "logger.mode=foo"], "one of auto, online, offline"),
        (["drop.range=[0.5,0.2]"], "0 <= low <= high <= 1"),
        (["drop.nonesuch=1"], "nonesuch"),
        (["model=nonesuch"], "mean_scale_hyperprior"),
        (["model.nonesuch=1"], "nonesuch"),
        (["dataset=folder", "dataset.root=nowhere"], "nowhere is no directory"),
        (["dataset=vimeo90k"], "prepare_vimeo90k.py"),
        (["trainer.crop=100"], "multiple of 64"),
        (["trainer.steps=0"], "at least 1"),
        (["trainer.lr=-1"], "must not be negative"),
        (["trainer/optimizer=nonesuch"], "soap"),
        (["+trainer.optimizer.nonesuch=1", "trainer/optimizer=adam"], "nonesuch"),
        (["+trainer.optimizer.precondition_freqency=5"], "no option precondition_freqency"),
        (["trainer.optimizer._target_=nonesuch.SOAP"], "trainer.optimizer={"),
        (["trainer.precision=9-bit"], "9-bit"),
        (["trainer.accelerator=tpu"], "trainer.accelerator=tpu"),
        (["init_from=nowhere.pt"], "nowhere.pt: there is no such file"),
        (["init_from=123"], "init_from=123 must be a name or a path"),
        (["init_from=[1]"], "init_from=[1] must be a name or a path"),
        (["model.sigmoid=no"], "sigmoid must be true or false"),
        (["drop.full=true"], "not a probability"),
        (["dataset.workers=1.5"], "dataset.workers=1.5 must be a whole number"),
        (["trainer.resize=64.5"], "trainer.resize=64.5 must be a whole number"),
        (["trainer.optimizer=null"], "does not say what to build"),
        (["trainer.optimizer=adm"], "does not say what to build"),
        (["+lamda=0.5"], "Did you mean lambda?"),
        (["lamda=0.5"], "Did you mean lambda?"),
        (["trainr.lr=1e-3"], "Did you mean trainer?"),
        (["trainer.step=5"], "Did you mean trainer.steps?"),
        (["dataset=folder", "dataset.root="], "dataset.root or images is empty"),
        (["dataset=folder", "dataset.root=phötos=1"], "dataset.root='phötos=1'"),
        (["models=hyperprior"], "Did you mean model?"),
        (["+trainer.step=5"], "Did you mean trainer.steps?"),
        (["+trainer.optimizer.lr=5"], "the learning rate is trainer.lr"),
        (["+dataset.valdiation=3"], "Did you mean dataset.validation?"),
        (["+dataset.root=x"], "dataset.root is an option of dataset=folder, vimeo90k"),
        (["+logger.projet=5"], "Did you mean logger.project?"),
        (["trainer.precision=16-mixed"], "one of auto, 32-true, bf16-mixed"),
        (["logger.wandb=true"], "needs the options of logger=wandb"),
        (["logger=wandb", "logger.entity=3"], "logger.entity=3 must be a name"),
        (["run_name="], "must be the name of a folder"),
        (["group=null"], "must be the name of a folder"),
    ],
)
def test_bad_input_gets_one_clear_message(command, arguments, said) -> None:
    output = refused(command, "train", "experiment=smoke", *arguments)
    assert said in output
    assert "Error in call to target" not in output
    assert not list(Path("outputs").rglob("config.yaml")), "the directory is free for a right start"


def test_a_value_that_cannot_be_leaves_no_failed_run(command) -> None:
    refused(command, "train", "experiment=smoke", "lambda=0")
    assert not list(Path("outputs").rglob(run.RECORD))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drop=none", "drop.range=[0.3,1.0]"], "drop.range and drop.power have no effect"),
        ([], "dataset=photos is eight photographs, to try things out"),
    ],
)
def test_what_may_not_be_meant_is_said(command, arguments, said) -> None:
    code, output = command("train", "experiment=smoke", "trainer.steps=1", *arguments)
    assert (code, output.count(said)) == (0, 1), output


def test_what_wandb_refuses_costs_a_warning(command) -> None:
    output = succeeded(command, "train", "experiment=smoke", "logger=wandb", "logger.project=a/b")
    assert output.count("W&B cannot be used (Invalid project name") == 1, output
    assert "cannot be reached" not in output
