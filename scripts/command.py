"""A script as a command: its options, what its user can mend in one sentence, and a clock."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from progdtd.errors import UserError


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser whose --help shows a script's docstring as it is written."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=text, formatter_class=form)


def run(main: Callable[[], None]) -> None:
    """Run a script to its end."""
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(str(error))


def medians(rounds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The median of each thing that was timed in all rounds."""
    first, *others = rounds
    return {what: statistics.median(one[what] for one in (first, *others)) for what in first}


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds of wall time that a call takes, and what it returns."""
    started = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - started, result
