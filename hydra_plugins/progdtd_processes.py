"""The Hydra launcher of `launcher=local` and `gpus`; see `progdtd.experiment.processes`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)


@dataclass
class ProcessesConf:
    """Options, as `progdtd.experiment.processes.slots` describes them."""

    _target_: str = "hydra_plugins.progdtd_processes.Processes"
    workers: Any = None
    threads: Any = None
    per_gpu: bool = False


ConfigStore.instance().store(group="hydra/launcher", name="processes", node=ProcessesConf)


class Processes(Launcher):
    """Runs the jobs of a sweep as processes of their own on this machine."""

    def __init__(self, workers: int | None, threads: int | None, per_gpu: bool) -> None:
        self.options = (workers, threads, per_gpu)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from progdtd.experiment import processes, progress
        from progdtd.experiment.sweep import job_config

        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        slots = processes.slots(*self.options)
        configs = where(self.config.hydra)
        jobs = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            sweep = job_config(self.loader, self.config, overrides, number).hydra.sweep
            directory = Path(sweep.dir) / sweep.subdir
            jobs.append(processes.Job(directory, tuple(overrides), configs))
        threads = slots[0]["OMP_NUM_THREADS"]
        log.info("%d jobs, %d at a time, %s threads each", len(jobs), len(slots), threads)
        with progress.Live([job.directory for job in jobs]) as live:
            failed = processes.run_jobs(jobs, slots, live.refresh)
        for job in [job for job in jobs if job in failed][1:]:  # the first is what Hydra says
            log.error("%s: %s", job.directory, failed[job])
        return [outcome(job, failed.get(job)) for job in jobs]


def where(hydra: DictConfig) -> tuple[str, ...]:
    """The words of the command line that say where configs are, which every job needs too."""
    extra = [
        source.path for source in hydra.runtime.config_sources if source.provider == "command-line"
    ]
    folders = [word for path in extra for word in ("--config-dir", path.removeprefix("file://"))]
    words: Any = OmegaConf.to_container(hydra.overrides.hydra, resolve=False)
    searched = [word for word in words if word.startswith("hydra.searchpath=")]
    return (*folders, "--config-name", hydra.job.config_name, *searched)


def outcome(job, why: str | None) -> JobReturn:
    """What Hydra is told of a job that failed for this reason, or did not."""
    status = JobStatus.FAILED if why else JobStatus.COMPLETED
    error = CompactHydraException(f"{job.directory}: {why}") if why else None
    return JobReturn(list(job.overrides), status=status, _return_value=error)
