"""Where the jobs of a sweep on one machine run."""

import os

import pytest

from progdtd import machine, processes
from progdtd.processes import gpus, slots


@pytest.mark.parametrize(
    ("visible", "names"), [("0,3", ["0", "3"]), ("", []), ("-1", []), ("NoDevFiles", [])]
)
def test_gpus_are_those_that_are_visible(monkeypatch, visible, names) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == names


@pytest.mark.parametrize(
    ("workers", "named"), [(None, "03"), (1, "0"), (2, "03"), (5, "03030")], ids=str
)
def test_jobs_take_gpus_in_turn_and_share_them_if_there_are_more(
    monkeypatch, workers, named
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    environments = slots(workers, None, per_gpu=True)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments] == [*named]
    assert not any("CUDA_VISIBLE_DEVICES" in one for one in slots(workers, 1, per_gpu=False))


def test_a_job_has_its_share_of_the_cores(monkeypatch) -> None:
    monkeypatch.setattr(processes, "cores", lambda: 16)
    (environment, *_) = slots(6, None, per_gpu=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert machine.cores() == 16
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (machine.cores(), environment["OMP_NUM_THREADS"]) == (2, "2")
