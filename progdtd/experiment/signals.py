"""Ending in time: what Slurm, spot machines and operators send before they kill."""

import contextlib
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

LAUNCHER = "PROGDTD_LAUNCHER"
"""Environment variable with the process id of the sweep that started this process."""

PR_SET_PDEATHSIG = 1
"""Of Linux's `prctl`: the signal that a process gets when its parent ends."""


class Requeue(SystemExit):
    """The work was asked to end and can be taken up again. Its code is that of the process:
    `os.EX_TEMPFAIL` (75, "temporary failure, try again"), or 0 where another process says so."""

    def __str__(self) -> str:
        return "asked to stop"


class StopSignals:
    """A context in which signals that ask for the end are noted, to be obeyed at a good moment.

    These are SIGTERM, a first SIGINT (Ctrl-C; a second one ends at once), and SIGUSR1 and SIGUSR2
    where a job manager handles them: submitit's handler requeues the job, so it is called once
    everything is saved.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
                if number == signal.SIGTERM or callable(signal.getsignal(number)):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])

    @property
    def asked(self) -> bool:
        """Whether a signal has come, or the sweep that started this process is gone."""
        return self.received is not None or is_orphan()

    def obey(self, code: int = os.EX_TEMPFAIL) -> None:
        """End: by the handler that the job manager had for the signal, or by `Requeue`. With code 0
        by the latter alone: other processes end one that ends otherwise before they are done."""
        if not code:
            raise Requeue(code)
        handler = self._before.get(self.received or 0)
        if callable(handler):
            handler(self.received, None)
        if LAUNCHER not in os.environ:
            requeue_in_slurm()
        raise Requeue(code)


def is_orphan() -> bool:
    """Whether a sweep started this process and is gone."""
    launcher = os.environ.get(LAUNCHER)
    try:
        os.kill(int(launcher or os.getpid()), 0)
    except (ProcessLookupError, PermissionError):  # its number may be another user's by now
        return True
    return False


def end_with_parent() -> None:
    """Have this process killed as soon as the one that started it is gone, where that is Linux: it
    might wait for it within a collective operation, where it can notice nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def requeue_in_slurm() -> None:
    """Put this process's Slurm job back into the queue, if it is being preempted.

    Slurm would do so itself, but only with jobs that wait to be killed: one that ends within its
    grace time counts as failed. A job that was cancelled stays cancelled.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(
            ["scontrol", "show", "job", "-o", job], capture_output=True, text=True, timeout=20
        )
        if re.search(r"PreemptTime=\d", shown.stdout):
            log.info("Preempted: Slurm job %s goes back into the queue.", job)
            subprocess.run(["scontrol", "requeue", job], capture_output=True, timeout=20)
