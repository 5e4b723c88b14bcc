"""How processes end: by signals, and with those that they depend on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import wait_for_end

from progdtd.experiment.signals import LAUNCHER, Requeue, StopSignals, requeue_in_slurm

WAITING = (
    "from progdtd.experiment.signals import end_with_parent; end_with_parent(); "
    "import time; print(flush=True); time.sleep(60)"
)
PARENT = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
    "stdout=subprocess.PIPE); child.stdout.readline(); print(child.pid, flush=True); "
    "child.wait()"
)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_process_that_follows_ends_with_its_leader() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, WAITING], stdout=subprocess.PIPE
    ) as leader:
        assert leader.stdout
        child = int(leader.stdout.readline())
        leader.kill()
    wait_for_end(child)


@pytest.mark.parametrize(("code", "error"), [(75, KeyboardInterrupt), (0, Requeue)])
def test_ctrl_c_is_an_interrupt_but_where_another_process_leads(code, error) -> None:
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(error) as raised:
            stop.obey(code)
    assert getattr(raised.value, "code", 0) == 0


def test_the_second_ctrl_c_ends_at_once() -> None:
    with StopSignals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_job_notices_that_its_sweep_is_gone(monkeypatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with StopSignals() as stop:
        monkeypatch.setenv(LAUNCHER, str(os.getpid()))
        assert not stop.asked
        monkeypatch.setenv(LAUNCHER, str(gone.pid))
        assert stop.asked


def test_only_a_job_that_slurm_preempts_is_requeued(tmp_path, monkeypatch) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "$@" >> calls\necho "JobId=7 PreemptTime=$WHEN Time=1"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for when, calls in (("None", 1), ("2026-01-01T00:00:00", 3)):
        monkeypatch.setenv("WHEN", when)
        requeue_in_slurm()
        assert len(Path("calls").read_text().splitlines()) == calls
