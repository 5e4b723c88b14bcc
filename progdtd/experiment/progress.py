"""What runs are doing, as their files tell: a live table in a terminal, lines of text in a pipe."""

import csv
import functools
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from progdtd.experiment import run
from progdtd.files import WEIGHTS

COLOURS = {
    "finished": "green", "running": "cyan", "waiting": "dim",
    "interrupted": "yellow", "failed": "red",
}  # fmt: skip
"""States of a run, in the order in which a summary counts them."""

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
    loss = validated(directory / "validation.csv")
    loss = lowest if math.isinf(loss) else loss
    trainer = options(directory / run.CONFIG)
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


def options(path: Path) -> dict[str, Any]:
    """The options under `trainer` in a run's config, empty if there are none."""
    with suppress(OSError, yaml.YAMLError, TypeError, AttributeError):
        trainer = _parsed(path, path.stat().st_mtime_ns).get("trainer")
        return trainer if isinstance(trainer, dict) else {}
    return {}


def validated(path: Path) -> float:
    """The lowest loss of a run's validations, each the mean over its fractions p (infinite: none
    is complete): of the same images and p each time, which the loss in training is not."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return _lowest(path, path.stat().st_mtime_ns)
    return math.inf


@functools.lru_cache
def _lowest(path: Path, changed: int) -> float:
    losses: dict[str, list[float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            losses.setdefault(row["step"], []).append(float(row["loss"]))
    levels = max(map(len, losses.values()), default=0)
    return min((fmean(of) for of in losses.values() if len(of) == levels), default=math.inf)


@functools.lru_cache
def _parsed(path: Path, changed: int) -> dict[str, Any]:
    """A YAML file, read once for each time at which it was changed."""
    return dict(yaml.safe_load(path.read_text()))


@dataclass
class _Read:
    """How far a metrics.csv has been read: its inode, the bytes of whole lines, its columns, the
    last row and the lowest loss (infinite: none)."""

    inode: int
    end: int = 0
    columns: list[str] = field(default_factory=list)
    row: dict[str, str] = field(default_factory=dict)
    loss: float = math.inf


_known: dict[Path, _Read] = {}


def metrics(directory: Path) -> tuple[dict[str, str], float]:
    """The last complete row of a run's metrics.csv, and the lowest loss in it (infinite: none);
    looking again costs only what was written since."""
    path = directory.absolute() / "metrics.csv"
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            known = _known.get(path)
            if known is None or known.inode != stat.st_ino or known.end > stat.st_size:
                known = _known[path] = _Read(stat.st_ino)
            file.seek(known.end)
            new = file.read()
    except OSError:
        return {}, math.inf
    whole = new[: new.rfind(b"\n") + 1]
    known.end += len(whole)
    for cells in csv.reader(whole.decode(errors="replace").splitlines()):
        if not known.columns:
            known.columns = cells
        elif len(cells) == len(known.columns):
            row = dict(zip(known.columns, cells, strict=True))
            with suppress(KeyError, ValueError):  # of a row that somebody has edited
                int(row["step"]), float(row.get("images_per_s", 0))
                known.loss = min(known.loss, float(row["loss"]))  # in this order: not a NaN
                known.row = row
    return known.row, known.loss


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
        colour = COLOURS.get(status.state, "white")
        table.add_row(
            Text(status.name if len(groups) == 1 else f"{directory.parent.name}/{status.name}"),
            Text(status.state, colour),
            f"{status.step}/{status.steps or '?'}" if status.step or status.steps else "",
            "" if math.isinf(status.loss) else f"{status.loss:.4g}",
            "" if status.eta is None else duration(status.eta),
            Text(status.error),
        )
    return table


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


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
