"""Where the Hydra configs are, the functions that they call, and how Hydra shows our errors."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from progdtd.errors import UserError
from progdtd.files import PACKAGE
from progdtd.options import listed

CONF = str(next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir()))
"""The Hydra configs: inside an installed package, beside the package in a source tree."""

P = ParamSpec("P")
T = TypeVar("T")


def as_a_sentence(function: Callable[P, T]) -> Callable[P, T]:
    """Have Hydra print a UserError of what it calls as it prints its own: the message alone."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise CompactHydraException(str(error)) from error

    return called


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
