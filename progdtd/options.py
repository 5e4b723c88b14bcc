"""What an option may be: a whole number, a number, one value or a list."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


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
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if several else [value]
