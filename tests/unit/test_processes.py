"""Where the jobs of a sweep on one machine run."""

import os

import pytest

from progdtd import machine
from progdtd.experiment import processes
from progdtd.experiment.processes import gpus, slots


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


def test_a_job_takes_the_slot_that_is_free(tmp_path, monkeypatch) -> None:
    taken = []

    class Ended:
        returncode, pid = 0, 0

        def __init__(self, job: processes.Job, slot: dict[str, str]) -> None:
            taken.append(slot["n"])
            self.first = job.directory.name == "a"

        def poll(self) -> int | None:
            return None if self.first and len(taken) < 3 else 0

    monkeypatch.setattr(processes, "start", Ended)
    monkeypatch.setattr(processes, "end", lambda _: None)
    jobs = [processes.Job(tmp_path / name, ()) for name in "abc"]
    assert processes.run_jobs(jobs, [{"n": "0"}, {"n": "1"}], lambda: None) == {}
    assert taken == ["0", "1", "1"]


def test_a_job_has_its_share_of_the_cores(monkeypatch) -> None:
    monkeypatch.setattr(processes, "cores", lambda: 16)
    (environment, *_) = slots(6, None, per_gpu=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert machine.cores() == 16
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (machine.cores(), environment["OMP_NUM_THREADS"]) == (2, "2")
