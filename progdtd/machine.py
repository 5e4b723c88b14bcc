"""What this process may use of the machine: its cores, memory that it need not give back, streams
that take whatever is written to them."""

import contextlib
import ctypes
import gc
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

SHARE = "PROGDTD_CORES"
"""Environment variable with the number of cores that are a job's share."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
LARGEST = 2**31 - 1


def cores() -> int:
    """The CPU cores that this process may run on, where the system tells, else all; of a job of a
    sweep on one machine, its share of them."""
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(may, int(os.environ.get(SHARE, may)))


def ending(code: int) -> str:
    """How a process has ended: by this exit code, or by the signal of this negative number."""
    if code >= 0:
        return f"exit code {code}"
    memory = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{memory}"


def gpus() -> list[str]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            visible = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return []
    names = visible.replace(",", " ").split()
    return [name for name in names if name not in ("-1", "NoDevFiles")]


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around the import of torch and what needs it: the garbage collector would look through all
    that they bring, again and again and once more at the end, for as long as the import takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def steady_streams() -> None:
    """Keep output from being what fails: what an encoding cannot express, as the name of a file may
    be, is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed tensors; does nothing on other systems.

    By default every tensor above some megabytes is mapped anew and unmapped when freed, and
    its pages fault in one by one: on a CPU that takes up to half the time of a convolution.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
        libc.mallopt(M_TOP_PAD, 64 << 20)
