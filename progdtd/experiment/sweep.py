"""What a sweep needs beside its jobs: its plan, a table at its end, launchers that are there."""

import contextlib
import itertools
import json
import logging
import math
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
from progdtd.experiment.check import OPTIMIZERS, check, loaded, names_in, no_option, warnings
from progdtd.experiment.config import CONF, minutes
from progdtd.experiment.run import PLAN
from progdtd.experiment.signals import LAUNCHER
from progdtd.files import write_aside

log = logging.getLogger(__name__)

CHECKED = ("trainer.", "dataset.", "logger.")
"""How options begin of groups whose options are all in their YAMLs."""

PLUGINS = {"slurm": "submitit", "ray": "ray"}
"""The Hydra plugins behind launchers, where they are packages of their own."""


def check_words(arguments: Sequence[str]) -> None:
    """End with a sentence at what Hydra would show a traceback for, say in its own words, or take
    for something else: a launcher that is not installed, a group with no choice, a number or a
    list, of which the last would win, a look at the configurations of a sweep, an option that there
    is not, such as `lamda` or `trainr.lr`."""
    flags = {word.partition("=")[0] for word in arguments}
    if {"-m", "--multirun"} & flags and {"-c", "--cfg"} & flags:
        raise SystemExit("--cfg shows one configuration: leave out -m, and give one value of each "
                         "option (with an experiment that sweeps, hydra.mode=RUN).")  # fmt: skip
    known = names_in("train.yaml") | {"hydra"}
    for word in arguments:
        group, given, choice = word.partition("=")
        first = re.split("[./@]", group)[0]
        if given and first not in known and first[:1] not in "-+~":
            known |= {OPTIMIZERS}
            raise SystemExit(no_option("train", first, known, after=group[len(first) :]))
        if given and group.startswith(CHECKED):
            check_option(group, arguments)
        if given and Path(CONF, group).is_dir():
            check_choice(group, choice)
        plugin = PLUGINS.get(choice) if group == "launcher" else None
        if plugin and not find_spec(f"hydra_plugins.hydra_{plugin}_launcher"):
            raise SystemExit(
                f"launcher={choice} needs a plugin that is not installed: "
                f"pip install -e '.[{choice}]'"
            )


def check_option(option: str, arguments: Sequence[str]) -> None:
    """End with a sentence where the choice taken of a group, as far as it is one of the project's
    and is named, does not have an option."""
    group, _, rest = option.partition(".")
    name = re.split("[.@]", rest)[0]
    more = names_in(f"{OPTIMIZERS}/adam.yaml") if group == "trainer" else frozenset()
    takers = {path.stem: more | names_in(f"{group}/{path.name}")
              for path in sorted(Path(CONF, group).glob("*.yaml"))}  # fmt: skip
    words = dict(word.partition("=")[::2] for word in arguments)
    preset = "experiment" in words and group != "trainer"  # which may choose for itself
    taken = words.get(group, "" if preset else default_of(group))
    if name in takers.get(taken, {name}):
        return
    if those := [choice for choice, names in takers.items() if name in names]:
        raise SystemExit(
            f"{group}.{name} is of {group}={', '.join(those)}, not of {group}={taken}."
        )
    raise SystemExit(no_option("train", name, takers[taken], f"{group}."))


def default_of(group: str) -> str:
    """The choice of a group that a training has by default."""
    choices = loaded("train.yaml")[0]["defaults"]
    return next(entry[group] for entry in choices if OmegaConf.is_dict(entry) and group in entry)


def check_choice(group: str, choice: str) -> None:
    """End with a sentence where the word for a group is none of its choices, nor several, comma
    between them, for a sweep."""
    numeric = any(map(is_number, choice.split(",")))
    if choice in ("", "null") or numeric:
        choices = ", ".join(sorted(path.stem for path in Path(CONF, group).glob("*.yaml")))
        own = " Lambdas of your own: lambda=..." if group == "quality" and numeric else ""
        raise SystemExit(f"{group}={choice}: choose one of {choices}, or leave it out.{own}")
    if choice.startswith("[") and group != "experiment":
        raise SystemExit(
            f"{group}={choice}: give one choice, or to sweep, -m {group}={choice.strip('[]')}"
        )


def is_number(text: str) -> bool:
    """Whether YAML would take a word for a number."""
    with contextlib.suppress(ValueError):
        return math.isfinite(float(text))
    return False


def check_launch(launcher: DictConfig) -> None:
    """Refuse what a launcher could only fail at.

    Raises:
        UserError: no Slurm here, a time limit that cannot be read.
    """
    if launcher.name == "slurm":
        minutes(launcher.time)
        if not shutil.which("sbatch"):
            raise UserError(
                "launcher=slurm: there is no sbatch here. Start the sweep on a machine that "
                "submits to your cluster, or use launcher=local."
            )


def check_axes(config: DictConfig) -> None:
    """Refuse a quality in a sweep that goes over lambdas by itself.

    Raises:
        UserError: the sweep's own lambdas would win without a word.
    """
    words = [word.partition("=")[0] for word in config.hydra.overrides.task]
    axes = config.hydra.sweeper.params or {}
    if "quality" in words and "lambda" not in words and "lambda" in axes:
        raise UserError("quality= has no effect on a sweep that has lambdas of its own: choose "
                        "among them with lambda=...")  # fmt: skip


def check_distinct(names: Sequence[str]) -> None:
    """Refuse a sweep that varies what its runs' directories are not named after.

    Raises:
        UserError: two runs would be in one directory.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
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
        SystemExit: it gives none, or one that no directory can have.
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
        raise SystemExit(f"{''.join(own)} makes no name of a directory: {why}.{hint}") from error
    for part in Path(name).parts:
        if (length := len(os.fsencode(part))) > LONGEST:
            raise SystemExit(f"{own[0]}={part[:40]}... is too long: a name has at most {LONGEST} "
                             f"bytes, and this has {length}.")  # fmt: skip
    return name


class Plan(Callback):
    """Writes down which runs a sweep will have, before the first of them starts."""

    directory: Path | None = None
    runs: ClassVar[list[Path]] = []
    """The directories of those runs, where it is known which they will be."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        name_of("hydra.run.dir", config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        jobs = planned(config)
        names = [name_of("hydra.sweep.subdir", job) for job in jobs]
        try:
            check_launch(config.launcher)
            check_axes(config)
            check_distinct(names)
        except UserError as error:
            raise SystemExit(str(error)) from error  # Hydra would make a warning of it
        if config.launcher.name != "basic":  # whose runs say so themselves, where it is read
            for message in dict.fromkeys(itertools.chain.from_iterable(map(said_of, jobs))):
                log.warning(message)
        Plan.directory = Path(name_of("hydra.sweep.dir", config))
        Plan.runs = [Plan.directory / name for name in names]
        text = json.dumps({"started": time.time(), "runs": names}, indent=2) + "\n"
        write_aside(Plan.directory / PLAN, lambda aside: aside.write_text(text))


def said_of(job: DictConfig) -> list[str]:
    """The warnings of one run of a sweep; of one that cannot be run, none: it will say why."""
    cfg = OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])
    try:
        check(cfg)
    except UserError:
        return []
    return warnings(cfg)


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
