"""What a sweep needs beside its jobs: its plan, a table at its end, launchers that are there."""

import contextlib
import itertools
import json
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
from omegaconf.errors import OmegaConfBaseException

from progdtd.errors import UserError, first_line
from progdtd.experiment.check import check, warnings
from progdtd.experiment.config import CONF, minutes, sentences
from progdtd.experiment.run import PLAN
from progdtd.experiment.signals import LAUNCHER
from progdtd.files import write_aside

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
        if any(map(VALUE.fullmatch, choice.split(","))):
            choices = ", ".join(sorted(path.stem for path in Path(CONF, group).glob("*.yaml")))
            own = " Lambdas of your own: lambda=..." if group == "quality" else ""
            raise UserError(f"{word}: choose one of {choices}, or leave it out.{own}")
        if choice.startswith("[") and group != "experiment":
            one = f"-m {group}={choice.strip('[]')}"
            raise UserError(f"{word}: give one choice, or to sweep, {one}")
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
        UserError: several devices in a sweep that runs inside one process, or on one GPU each.
    """
    launched, launcher = LAUNCHER in os.environ, cfg.launcher.name
    sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
    if not sweeps and launcher != "basic" and not launched:
        log.warning("launcher=%s has no effect without -m.", launcher)
    devices = cfg.trainer.devices
    if (devices if isinstance(devices, int) else len(devices)) <= 1:
        return
    if sweeps and launcher == "basic":
        raise UserError(
            f"trainer.devices={devices} in a sweep needs a launcher that gives each run a process: "
            "add launcher=local (or slurm, ray)."
        )
    if launched and launcher == "gpus":
        raise UserError(
            f"trainer.devices={devices}: launcher=gpus gives each run one GPU. Runs that each have "
            "several, one after another: launcher=local launcher.workers=1."
        )


LONGEST = 255
"""Bytes of a name that file systems take."""


def name_of(option: str, config: DictConfig) -> str:
    """The name that one of Hydra's options gives a directory.

    Raises:
        UserError: it gives none, or one that no directory can have.
    """
    words: Any = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
    given = [word.partition("=") for word in words]
    own = next((word for word in given if word[0] == option), ("run_name", "=", ""))
    try:
        name = str(OmegaConf.select(config, option, throw_on_missing=True))
    except OmegaConfBaseException as error:
        why = first_line(error)
        hint = "Every YAML of a model or a drop has a name, and that of a drop a range."
        if "HydraConfig" in why:
            hint = "It cannot use ${hydra:...}, but options, as ${trainer.optimizer._target_}."
        hint = f" {hint}" if own[0] == "run_name" else ""
        raise UserError(f"{''.join(own)} makes no name of a directory: {why}.{hint}") from error
    for part in Path(name).parts:
        if (length := len(os.fsencode(part))) > LONGEST:
            raise UserError(
                f"{own[0]}={part[:40]}... is too long: a name has at most {LONGEST} bytes, and "
                f"this has {length}."
            )
    return name


class Plan(Callback):
    """Writes down which runs a sweep will have, before the first of them starts."""

    directory: Path | None = None
    runs: ClassVar[list[Path]] = []
    """The directories of those runs, where it is known which they will be."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with sentences():  # Hydra would make warnings of errors
            name_of("hydra.run.dir", config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with sentences():
            self.plan(config)

    def plan(self, config: DictConfig) -> None:
        """Write the plan of a sweep, unless it cannot be run.

        Raises:
            UserError: says why it cannot.
        """
        jobs = planned(config)
        names = [name_of("hydra.sweep.subdir", job) for job in jobs]
        check_sweep(config, names)
        if config.launcher.name != "basic":  # whose runs say so themselves, where it is read
            for message in dict.fromkeys(itertools.chain.from_iterable(map(said_of, jobs))):
                log.warning(message)
        Plan.directory = Path(name_of("hydra.sweep.dir", config))
        Plan.runs = [Plan.directory / name for name in names]
        text = json.dumps({"started": time.time(), "runs": names}, indent=2) + "\n"
        write_aside(Plan.directory / PLAN, lambda aside: aside.write_text(text))


def said_of(job: DictConfig) -> list[str]:
    """The warnings of one run of a sweep; of one that cannot be run, none: it will say why."""
    try:
        check(job)
    except UserError:
        return []
    return warnings(job)


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
