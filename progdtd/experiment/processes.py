"""A sweep on one machine: every job in a process of its own, some at a time.

A pool of long-lived workers would be less code, but a worker that dies there (out of memory, a
crash in a driver) takes the whole sweep with it. Here it costs the sweep that one job's progress
since its last checkpoint.
"""

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from progdtd.errors import UserError
from progdtd.experiment import run
from progdtd.experiment.signals import LAUNCHER, StopSignals
from progdtd.experiment.words import quoted
from progdtd.machine import SHARE, cores, ending, gpus
from progdtd.options import whole

log = logging.getLogger(__name__)

STDERR = "stderr.log"
"""Within a run: what its process printed to standard error, kept if it failed."""

HYDRA_SAYS = ("Error executing job with overrides", "Set the environment variable HYDRA_FULL_ERROR")
"""How lines begin in which Hydra says nothing of why a job failed."""

GRACE = 120
"""Seconds that jobs have to save a checkpoint when the sweep is told to end."""


@dataclass(frozen=True)
class Job:
    """One training of a sweep: its directory, and the words that `progdtd.train` gets: overrides,
    and before them where else configs are, if the sweep was told."""

    directory: Path
    overrides: tuple[str, ...]
    configs: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        fixed = ("hydra.mode=RUN", f"hydra.run.dir={quoted(str(self.directory))}")
        words = (*self.configs, *self.overrides, *fixed)
        return [sys.executable, "-m", "progdtd.train", *words]


def run_jobs(
    jobs: Sequence[Job], slots: Sequence[dict[str, str]], tick: Callable[[], object]
) -> dict[Job, str]:
    """Run all jobs, as many at a time as there are slots.

    Args:
        slots: the environment variables of a job that runs in each.
        tick: called several times a second.

    Returns:
        the jobs that failed, and why.

    Raises:
        Requeue, KeyboardInterrupt: the sweep was told to end; its jobs saved checkpoints.
    """
    waiting, free, failed = deque(jobs), deque(slots), dict[Job, str]()
    running: dict[Job, tuple[subprocess.Popen, dict[str, str]]] = {}
    with StopSignals() as stop:
        try:
            while waiting or running:
                while waiting and free:
                    job, slot = waiting.popleft(), free.popleft()
                    running[job] = (start(job, slot), slot)
                for job, (process, slot) in list(running.items()):
                    if process.poll() is not None:
                        del running[job]
                        free.append(slot)
                        if process.returncode:
                            failed[job] = conclude(job, process)
                        else:
                            (job.directory / STDERR).unlink(missing_ok=True)
                tick()
                if stop.asked:
                    end([process for process, _ in running.values()])
                    stop.obey()
                time.sleep(0.1)
        finally:
            end([process for process, _ in running.values()])
    return failed


def start(job: Job, slot: dict[str, str]) -> subprocess.Popen:
    """Start a job, out of reach of the terminal's Ctrl-C, which is the sweep's to answer."""
    job.directory.mkdir(parents=True, exist_ok=True)
    with (job.directory / STDERR).open("wb") as stderr:
        return subprocess.Popen(
            job.command,
            env=os.environ | slot | {LAUNCHER: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # train.log has it
            stderr=stderr,
            start_new_session=True,
        )


def end(processes: Sequence[subprocess.Popen]) -> None:
    """Have jobs save a checkpoint and end."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("Process %d did not end in %d s: killed.", process.pid, GRACE)
            process.kill()
            process.wait()


def conclude(job: Job, process: subprocess.Popen) -> str:
    """Why a job's process failed; recorded in its directory if it could not do so itself, unless
    the record there is that of another process, which this one did not get to replace."""
    if process.returncode == os.EX_TEMPFAIL:
        return "stopped by a signal, with a checkpoint"
    record = run.recorded(job.directory)
    began = run.holder(job.directory).get("pid") == process.pid
    if began and record.get("state") == "failed" and record.get("error"):
        return str(record["error"])
    killed, why = process.returncode < 0, ending(process.returncode)
    if not killed:
        said = (job.directory / STDERR).read_text(errors="replace").splitlines()
        said = [line for line in said if line.strip() and not line.startswith(HYDRA_SAYS)]
        why = "\n".join(said) or why
    if began or not record:
        with contextlib.suppress(UserError):
            run.record(job.directory, state="interrupted" if killed else "failed", error=why)
    return why


def slots(workers: int | None, threads: int | None, per_gpu: bool) -> list[dict[str, str]]:
    """The environments of the jobs that run at the same time.

    Args:
        workers: how many; None: one for each GPU with `per_gpu`, else one.
        threads: CPU threads of each; None: an equal share of the cores.
        per_gpu: whether each gets a GPU, in turn: more workers than GPUs share them.

    Raises:
        UserError: numbers that cannot be, or no GPU for them.
    """
    for key, value in (("workers", workers), ("threads", threads)):
        if not (value is None or whole(value, 1)):
            raise UserError(f"launcher.{key}={value} must be a whole number above 0, or null.")
    devices = gpus() if per_gpu else []
    if per_gpu and not devices:
        raise UserError(
            "launcher=gpus: there is no GPU here (`nvidia-smi` finds none, or CUDA_VISIBLE_DEVICES "
            "is empty). Use launcher=local."
        )
    count = workers or len(devices) or 1
    share = threads or max(1, cores() // count)
    each = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", SHARE), str(share))
    own = itertools.cycle([{"CUDA_VISIBLE_DEVICES": name} for name in devices] or [{}])
    return [each | device for device in itertools.islice(own, count)]
