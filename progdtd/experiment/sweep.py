"""What a sweep needs beside its jobs: its plan, a table at its end, launchers that are there."""

import contextlib
import logging
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from progdtd.errors import UserError
from progdtd.experiment.config import CONF, minutes, sentences
from progdtd.experiment.run import PLAN
from progdtd.experiment.signals import LAUNCHER
from progdtd.files import write_json

log = logging.getLogger(__name__)

PLUGINS = {"slurm": "submitit", "ray": "ray"}
"""The Hydra plugins behind launchers, where they are packages of their own."""

VALUE = re.compile("|null|true|false|[-+.0-9][-+.0-9e]*")
"""What Hydra takes for a value rather than for the name of a choice."""


def check_words(arguments: Sequence[str]) -> None:
    """Refuse what Hydra would show a traceback for, or take for something else.

    Raises:
        UserError: a look at the configurations of a sweep, a launcher that is not installed, a
            group with no choice, a number, or a list, of which the last would win.
    """
    flags = {word.partition("=")[0] for word in arguments}
    if {"-m", "--multirun"} & flags and {"-c", "--cfg"} & flags:
        raise UserError(
            "--cfg shows one configuration: leave out -m, and give one value of each option (with "
            "an experiment that sweeps, hydra.mode=RUN)."
        )
    for word in arguments:
        group, given, choice = word.partition("=")
        if not given or not Path(CONF, group).is_dir():
            continue
        several = choice.startswith("[") and group != "experiment"
        if several or any(map(VALUE.fullmatch, choice.split(","))):
            choices = ", ".join(sorted(path.stem for path in Path(CONF, group).glob("*.yaml")))
            raise UserError(f"{word}: choose one of {choices}; or with -m some, as {group}=A,B.")
        plugin = PLUGINS.get(choice) if group == "launcher" else None
        if plugin and not find_spec(f"hydra_plugins.hydra_{plugin}_launcher"):
            remedy = f"pip install -e '.[{choice}]'"
            raise UserError(f"{word} needs a plugin that is not installed: {remedy}")


def check_sweep(config: DictConfig, names: Sequence[str]) -> None:
    """Refuse a sweep that could only fail, or would not do what it is told to.

    Args:
        names: of its runs' directories.

    Raises:
        UserError: a time limit that cannot be read, no Slurm here, a quality that the sweep's own
            lambdas would override without a word, two runs in one directory.
    """
    if config.launcher.name == "slurm":
        minutes(config.launcher.time)
        if not shutil.which("sbatch"):
            raise UserError(
                "launcher=slurm: there is no sbatch here. Start the sweep on a machine that "
                "submits to your cluster, or use launcher=local."
            )
    words = [word.partition("=")[0] for word in config.hydra.overrides.task]
    own = "lambda" in (config.hydra.sweeper.params or {}) and "lambda" not in words
    if own and "quality" in words:
        raise UserError(
            "quality= has no effect on a sweep that has lambdas of its own: choose among them with "
            "lambda=..."
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(
            f"Several runs of this sweep would be in {twice[0]}: name them after what varies, "
            "as run_name='lr-${trainer.lr}' does."
        )


def check_mode(cfg: DictConfig) -> None:
    """Warn of a launcher without a sweep, refuse a sweep that would start itself again.

    Raises:
        UserError: several devices in a sweep that runs inside one process.
    """
    launcher, devices = cfg.launcher.name, cfg.trainer.devices
    sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
    if not sweeps and launcher != "basic" and LAUNCHER not in os.environ:
        log.warning("launcher=%s has no effect without -m.", launcher)
    several = (devices if isinstance(devices, int) else len(devices)) > 1
    if sweeps and several and launcher == "basic":
        raise UserError(
            f"trainer.devices={devices} in a sweep needs a launcher that gives each run a process: "
            "add launcher=local (or slurm, ray)."
        )


class Plan(Callback):
    """Writes down which runs a sweep will have, before the first of them starts, unless it cannot
    be run."""

    directory: Path | None = None
    runs: ClassVar[list[Path]] = []
    """The directories of those runs, where it is known which they will be."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with sentences():  # Hydra would make warnings of errors
            names = [str(job.hydra.sweep.subdir) for job in planned(config)]
            check_sweep(config, names)
            Plan.directory = Path(config.hydra.sweep.dir)
            Plan.runs = [Plan.directory / name for name in names]
            write_json(Plan.directory / PLAN, {"started": time.time(), "runs": names})


def planned(config: DictConfig) -> list[DictConfig]:
    """The configurations of the runs that a sweep's configuration expands to."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra

    sweeper = config.hydra.sweeper
    if not str(sweeper._target_).endswith("BasicSweeper"):
        return []
    loader = GlobalHydra.instance().config_loader()
    told: Any = OmegaConf.to_container(config.hydra, resolve=False)  # `${...}` is each run's own
    axes = [f"{key}={value}" for key, value in (told["sweeper"]["params"] or {}).items()]
    words = [*axes, *told["overrides"]["task"]]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [job_config(loader, config, job, number) for number, job in enumerate(jobs)]


def job_config(
    loader: ConfigLoader, config: DictConfig, overrides: Sequence[str], number: int
) -> DictConfig:
    """The configuration of one job of a sweep, as Hydra's own launcher makes it."""
    job = loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = number
    return job


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Show what became of the runs of a sweep, however it ended, once one has begun."""
    Plan.directory = None
    try:
        yield
    finally:
        if Plan.directory:
            from progdtd.experiment import progress

            runs = Plan.runs or progress.runs([Plan.directory])
            progress.show(runs if any(run.exists() for run in runs) else [])
