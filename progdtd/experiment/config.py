"""Where the Hydra configs are, the functions that they call, and how Hydra shows our errors."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from progdtd.errors import UserError
from progdtd.files import PACKAGE
from progdtd.options import listed

CONF = str(next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir()))
"""The Hydra configs: inside an installed package, beside the package in a source tree."""

OPTIMIZERS = "trainer/optimizer"
GROUPS = ("experiment", "quality", OPTIMIZERS)
"""Groups that are no options of a configuration of their own."""

OURS = ("", "trainer", "dataset", "logger", "drop")
"""Where no options but those in the YAMLs are read: an optimizer and a model may take more."""


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """End the process with one sentence at bad input, be it an error of ours or of Hydra, which is
    made to raise what it would print."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except (UserError, HydraException) as error:
        sys.exit(_told(error))


def _told(error: Exception) -> str:
    """What to say of an error; where Hydra would have an option added that nothing reads, what is
    meant."""
    why: Any = error.__cause__
    unknown = isinstance(why, ConfigAttributeError | ConfigKeyError)
    group = str(why.full_key).rpartition(".")[0] if unknown else None
    if group in OURS:
        there = [f"{group}.{name}".lstrip(".") for name in why.parent_node]
        return no_option(why.full_key, there if group else [*there, *GROUPS])
    wrong = isinstance(why, OmegaConfBaseException) and not unknown
    return f"{error}\n{why}" if wrong else str(error)


def no_option(key: str, known: Iterable[str]) -> str:
    """What to say of an option that there is not: which choice has it, or which one is meant."""
    group, dot, name = key.rpartition(".")
    files = sorted(Path(CONF, group).glob("*.yaml")) if group else []
    if choices := [file.stem for file in files if name in OmegaConf.load(file)]:
        return f"{key} is an option of {group}={', '.join(choices)}, which is not chosen."
    beside = [other for other in known if other.rpartition(".")[0] == group]
    meant = closest(name, [other.removeprefix(group + dot) for other in beside])
    return f"There is no option {key}." + (f" Did you mean {group}{dot}{meant}?" if meant else "")


def closest(name: object, known: Iterable[str]) -> str | None:
    """The name that may be meant."""
    return next(iter(difflib.get_close_matches(str(name), [*known], 1)), None)


def dashed(values: Any) -> str:
    """What stands for numbers in a directory's name, however they are written: [0.3, 1] is
    0.3-1.0."""
    return "-".join(str(float(v) if isinstance(v, int) else v) for v in listed(values))


def minutes(time: Any) -> int:
    """A time limit in whole minutes, rounded up: 90, 1:30:00 and 0-1:30:00 are 90.

    Raises:
        UserError: it cannot be read.
    """
    days, dash, clock = str(time).rpartition("-")
    parts = clock.split(":")
    if not dash and len(parts) == 1:
        parts = ["0", *parts, "0"]
    elif dash:
        parts += ["0"] * (3 - len(parts))
    if len(parts) != 3 or not all(part.isdecimal() for part in [days if dash else "0", *parts]):
        raise UserError(
            f"launcher.time={time} is no time limit: give minutes (90), H:MM:SS (1:30:00) or "
            "D-HH:MM:SS (2-12:00:00)."
        )
    hours, mins, seconds = map(int, parts)
    total = (int(days or 0) * 24 + hours) * 60 + mins + (seconds > 0)
    if total < 1:
        raise UserError(f"launcher.time={time} is no time at all: give at least a minute.")
    return total


OmegaConf.register_new_resolver("dashed", dashed, replace=True)
OmegaConf.register_new_resolver("minutes", minutes, replace=True)
OmegaConf.register_new_resolver("or_null", lambda value: value or None, replace=True)
