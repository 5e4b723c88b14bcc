"""Where the Hydra configs are, the functions that they call, and how Hydra shows our errors."""

import contextlib
import difflib
import os
import re
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

OURS = ("", "trainer", "dataset", "logger", "drop")
"""Where no options but those in the YAMLs are read: an optimizer and a model may take more."""


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """End the process with what an error says and without a traceback, be it bad input, a file
    that cannot be read or written, or an error of Hydra, which is made to raise what it would
    print."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        sys.exit(_told(error))


def _told(error: Exception) -> str:
    """What to say of an error; where Hydra would have an option added that nothing reads, what is
    meant."""
    why: Any = error.__cause__
    if isinstance(why, ConfigAttributeError | ConfigKeyError):
        key = str(why.full_key)
        group = key.rpartition(".")[0]
        if group in OURS:
            return no_option(key, (f"{group}.{name}".lstrip(".") for name in why.parent_node))
    return f"{error}\n{why}" if isinstance(why, OmegaConfBaseException) else str(error)


def no_option(key: str, known: Iterable[str]) -> str:
    """What to say of an option that there is not: which choice has it, or which one is meant."""
    group, dot, name = key.rpartition(".")
    files = sorted(Path(CONF, group).glob("*.yaml")) if group else []
    if choices := [file.stem for file in files if name in OmegaConf.load(file)]:
        return f"{key} is an option of {group}={', '.join(choices)}, which is not chosen."
    beside = [other for other in known if other.rpartition(".")[0] == group]
    names = [other.removeprefix(group + dot) for other in beside]
    meant = difflib.get_close_matches(name, names, 1)
    return f"There is no option {key}." + "".join(f" Did you mean {group}{dot}{m}?" for m in meant)


def dashed(values: Any) -> str:
    """What stands for numbers in a directory's name, however they are written: [0.3, 1] is
    0.3-1.0."""
    return "-".join(str(float(v) if isinstance(v, int) else v) for v in listed(values))


def minutes(time: Any) -> int:
    """A time limit in whole minutes, rounded up: 90, 1:30:00 and 0-1:30:00 are 90.

    Raises:
        UserError: it cannot be read.
    """
    if str(time).isdecimal():
        return int(time)
    parts = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", str(time))
    if not parts:
        raise UserError(
            f"launcher.time={time} is no time limit: give minutes (90), H:MM:SS (1:30:00) or "
            "D-HH:MM:SS (2-12:00:00)."
        )
    days, hours, mins, seconds = (int(part or 0) for part in parts.groups())
    return (days * 24 + hours) * 60 + mins + (seconds > 0)


OmegaConf.register_new_resolver("dashed", dashed, replace=True)
OmegaConf.register_new_resolver("minutes", minutes, replace=True)
OmegaConf.register_new_resolver("or_null", lambda value: value or None, replace=True)
