"""How options are read: numbers, lists, time limits, and what stands for them in names."""

import math
from numbers import Integral, Real
from typing import Any

from omegaconf import OmegaConf

from progdtd.errors import UserError


def whole(value: Any, least: int) -> bool:
    """Whether a value is a whole number of at least `least`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def number(value: Any) -> bool:
    """Whether a value is a finite number, and not merely a truth value that counts as one."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def listed(value: Any) -> list[Any]:
    """An option that may be one value, a list of them, or null."""
    if value is None:
        return []
    return list(value) if OmegaConf.is_list(value) else [value]


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
