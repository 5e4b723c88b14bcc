"""Batches come, whatever becomes of the processes that read them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from conftest import wait_for_end

from progdtd import data, readers

STEPS = range(2, 12)


@pytest.fixture
def batches(images) -> data.Batches:
    return data.Batches(data.folder(images), batch_size=3, crop=64, seed=1, cache_gib=0)


def children() -> set[int]:
    """The processes that this one has started and that are not yet reaped."""
    return {
        int(pid)
        for pid in Path("/proc/self/task").glob("*/children")
        for pid in pid.read_text().split()
    }


def same(batches: data.Batches, read: list[torch.Tensor]) -> bool:
    return all(torch.equal(batches[s], b) for s, b in zip(STEPS, read, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_read_the_same_batches_and_end(batches, workers, caplog) -> None:
    before = children()
    with closing(readers.loader(batches, STEPS, workers)) as loader:
        read = [next(loader)]
        assert len(children() - before) == workers
        read += loader
    assert same(batches, read)
    assert read[0].is_contiguous(memory_format=torch.channels_last)
    assert children() == before
    assert not caplog.records


def test_readers_end_with_a_training_that_ends_early(batches, caplog) -> None:
    before = children()
    with closing(readers.loader(batches, range(10**6), 2)) as loader:
        next(loader)
    assert children() == before
    assert not caplog.records


def test_the_share_of_a_reader_that_was_killed_is_read_all_the_same(
    batches, caplog, monkeypatch
) -> None:
    training, read_batch = os.getpid(), data.Batches.__getitem__

    def killed(batches: data.Batches, step: int) -> torch.Tensor:
        if step == STEPS[4] and os.getpid() != training:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_batch(batches, step)

    monkeypatch.setattr(data.Batches, "__getitem__", killed)
    assert same(batches, [*readers.loader(batches, STEPS, 2)])
    told = "gone (killed by SIGKILL (out of memory?)): the training reads its share itself"
    [said] = [record.getMessage() for record in caplog.records]
    assert told in said


def test_readers_leave_signals_to_the_main_process(batches, caplog) -> None:
    before = children()
    with closing(readers.loader(batches, STEPS, 2)) as loader:
        read = [next(loader), next(loader)]  # of both: they are under way
        for pid in children() - before:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        read += loader
    assert same(batches, read)
    assert not caplog.records


def test_an_error_of_reading_reaches_the_training(batches) -> None:
    def broken(_: int) -> torch.Tensor:
        raise MemoryError

    batches._usable = broken
    for workers in (0, 2):
        with pytest.raises(MemoryError):
            list(readers.loader(batches, STEPS, workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wait_that_does_not_end_is_said_and_can_be_left(
    batches, workers, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(readers, "PATIENCE", 1.5)
    stalled = batches._usable

    def stall(index: int):
        time.sleep(1000)
        return stalled(index)

    batches._usable = stall
    before, began, asked = children(), time.monotonic(), 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    with closing(readers.loader(batches, STEPS, workers, stopped=stopped)) as loader:
        assert not list(loader)
    assert time.monotonic() - began < 10
    assert caplog.text.count("No images have come") == 1
    assert children() == before


def test_readers_end_with_a_training_that_is_killed(images) -> None:
    program = f"""
from progdtd import data, readers
batches = data.Batches(data.folder({str(images)!r}), 64, 64, cache_gib=0)
loader = readers.loader(batches, range(10**6), 3)
next(loader)
print(*open("/proc/self/task/%d/children" % __import__("os").getpid()).read().split(), flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        pids = [*map(int, process.stdout.readline().split())]
        process.kill()
    assert len(pids) == 3
    wait_for_end(*pids)
