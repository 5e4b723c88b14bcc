"""What runs are doing, as their files tell: a live table in a terminal, lines of text in a pipe."""

import csv
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import yaml
from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from progdtd.experiment import run
from progdtd.files import WEIGHTS

T = TypeVar("T")

COLOURS = {
    "finished": "green",
    "running": "cyan",
    "waiting": "dim",
    "interrupted": "yellow",
    "failed": "red",
}
"""States of a run."""

REFRESH = 2.0
"""Seconds between looks at the directories."""


@dataclass(frozen=True)
class Status:
    """One run, as its files tell.

    `state` is one of `COLOURS`; `step` of `steps` (0: unknown); `loss` is the lowest on held-out
    images, or without any the lowest in training (infinite: none yet); `eta` is in seconds (None:
    not running); `error` the last one.
    """

    name: str
    state: str
    step: int
    steps: int
    loss: float
    eta: float | None
    error: str


def read(directory: Path) -> Status:
    """The state of the run in a directory, which need not exist yet."""
    record, (row, lowest) = run.recorded(directory), metrics(directory)
    loss = validated(directory)
    loss = lowest if math.isinf(loss) else loss
    trainer = options(directory)
    steps = trainer["steps"] if isinstance(trainer.get("steps"), int) else 0
    step = int(row.get("step", 0))
    state = str(record.get("state", "waiting"))
    if (directory / WEIGHTS).exists():
        state, step = "finished", steps
    elif state in ("running", "finished"):
        state = "running" if run.is_locked(directory) else "interrupted"
    eta = None
    if state == "running" and row:
        images = (steps - step) * trainer.get("batch_size", 1) * int(record.get("processes", 1))
        eta = images / max(float(row["images_per_s"]), 1e-9)
    error = record.get("error") if state in ("failed", "interrupted") else None
    if state == "interrupted" and not error:
        error = "its process is gone"
    lines = str(error or "").strip().splitlines()
    name = directory.name or directory.resolve().name
    return Status(name, state, step, steps, loss, eta, lines[0] if lines else "")


def latest(name: str, otherwise: T) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """Make what reads a file of this name a function of a run's directory, which reads it again
    only after changes; where it cannot be read, the answer is `otherwise`."""

    def decorate(read: Callable[[Path], T]) -> Callable[[Path], T]:
        known = functools.lru_cache(4096)(lambda path, *changed: read(path))

        @functools.wraps(read)
        def reread(directory: Path) -> T:
            path = directory / name
            with suppress(OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
                stat = path.stat()
                return known(path, stat.st_mtime_ns, stat.st_size)
            return otherwise

        return reread

    return decorate


@latest(run.CONFIG, dict[str, Any]())
def options(path: Path) -> dict[str, Any]:
    """The options under `trainer` in a run's config, empty if there are none."""
    trainer = dict(yaml.safe_load(path.read_text())).get("trainer")
    return trainer if isinstance(trainer, dict) else {}


@latest("validation.csv", math.inf)
def validated(path: Path) -> float:
    """The lowest loss of a run's validations, each the mean over its fractions p (infinite: none
    is complete): of the same images and p each time, which the loss in training is not."""
    losses: dict[str, list[float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            losses.setdefault(row["step"], []).append(float(row["loss"]))
    levels = max(map(len, losses.values()), default=0)
    return min((fmean(of) for of in losses.values() if len(of) == levels), default=math.inf)


@latest("metrics.csv", (dict[str, str](), math.inf))
def metrics(path: Path) -> tuple[dict[str, str], float]:
    """The last complete row of a run's metrics.csv, and the lowest loss in it (infinite: none)."""
    last, lowest = dict[str, str](), math.inf
    whole = path.read_text(errors="replace").rpartition("\n")[0]
    for row in csv.DictReader(whole.splitlines()):
        with suppress(KeyError, ValueError, TypeError):  # of a row that somebody has edited
            int(row["step"]), float(row.get("images_per_s", 0))
            lowest = min(lowest, float(row["loss"]))  # in this order: not a NaN
            last = row
    return last, lowest


def runs(places: Iterable[Path]) -> list[Path]:
    """The run directories that places are or hold; those of a sweep in the order of its plan,
    also before they exist."""
    found: list[Path] = []
    for place in places:
        if run.begun(place):
            found.append(place)
            continue
        with suppress(OSError, ValueError, TypeError, KeyError):
            plan = json.loads((place / run.PLAN).read_text())
            found += [place / str(name) for name in plan["runs"]]
        found += sorted(path.parent for path in place.glob(f"*/{run.RECORD}"))
    return list(dict.fromkeys(found))


def table(directories: Sequence[Path]) -> Table:
    """Run, state, step, best loss, time left and last error of each run."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("run", "state", "step", "best loss", "left", "last error"):
        numeric = name in ("step", "best loss", "left")
        table.add_column(
            name, justify="right" if numeric else "left", no_wrap=name not in ("run", "last error")
        )
    groups = {directory.parent for directory in directories}
    for directory, status in zip(directories, map(read, directories), strict=True):
        table.add_row(
            Text(status.name if len(groups) == 1 else f"{directory.parent.name}/{status.name}"),
            Text(status.state, COLOURS[status.state]),
            f"{status.step}/{status.steps or '?'}" if status.step or status.steps else "",
            "" if math.isinf(status.loss) else f"{status.loss:.4g}",
            "" if status.eta is None else tqdm.format_interval(status.eta),
            Text(status.error),
        )
    return table


def console() -> Console:
    """The terminal; a pipe gets lines of whatever length they need."""
    return Console() if sys.stdout.isatty() else Console(width=240, no_color=True)


def show(directories: Sequence[Path]) -> None:
    """Print the table of some runs once, if there are any."""
    if directories:
        console().print(table(directories))


class Live:
    """The table of some runs, kept up to date; without a terminal, a line when a state changes."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directories, self.console = directories, console()
        self.live = RichLive(console=self.console, auto_refresh=False, transient=True)
        self.looked, self.states = 0.0, dict[Path, str]()

    def __enter__(self) -> "Live":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def refresh(self) -> None:
        """Look again, if the last look is some time ago."""
        if time.monotonic() - self.looked < REFRESH:
            return
        self.looked = time.monotonic()
        if self.console.is_terminal:
            self.live.update(table(self.directories), refresh=True)
            return
        for directory in self.directories:
            status = read(directory)
            if status.state != self.states.get(directory, "waiting"):
                self.states[directory] = status.state
                line = f"{status.name}: {status.state} {status.error}".rstrip()
                self.console.print(Text(line))
