"""A run's directory: its config, where it came from, and what was measured on the way."""

import contextlib
import csv
import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from progdtd.errors import UserError
from progdtd.files import write_aside, write_json

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
RECORD = "run.json"
LOCK = ".lock"

PLAN = "sweep.json"
"""Within a sweep's directory: the names of its runs."""

PATIENCE = 10
"""Seconds to wait for a lock: the readers of a run that was killed share it until they notice."""

IRRELEVANT = (
    "logger",
    "group",
    "run_name",
    "launcher",
    "dataset.workers",
    "dataset.cache_gib",
    "dataset.root",
    "dataset.paths.root",
    "trainer.log_every",
    "trainer.validate_every",
    "trainer.checkpoint_every",
    "trainer.compile",
)
"""Options that do not change what a run computes; it may be resumed with others. That the images
are the same wherever they are now is found out when they are read."""


MOVED = {"progdtd.soap.SOAP": "progdtd.training.optimizer.SOAP"}
"""Where classes are now that configs of earlier versions name."""


def begun(directory: Path) -> bool:
    """Whether this is the directory of a run."""
    return (directory / CONFIG).exists() or (directory / RECORD).exists()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep a run's directory to this process; a crash of any kind lets it go.

    Raises:
        UserError: another process has locked it, which the message names; or it cannot be made.
    """
    lock = FileLock(directory / LOCK)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        who = holder(directory)
        named = "process {pid} on {host} since {since}".format_map(who) if who else "a process"
        raise UserError(
            f"{directory} is being trained by {named}. Wait for it or stop it "
            "(a SIGTERM makes it save a checkpoint), or give this run another name (run_name=...)."
        ) from None
    except OSError as error:
        raise UserError(f"{directory} cannot hold a run ({error.strerror}).") from error
    try:
        yield
    finally:
        lock.release()


def is_locked(directory: Path) -> bool:
    """Whether some process, on any machine that shares the directory, is training there."""
    if not (directory / LOCK).exists():
        return False
    try:
        with FileLock(directory / LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def holder(directory: Path) -> dict[str, Any]:
    """Who trains or last trained in a directory: `pid`, `host`, `since`; empty if nobody did."""
    return dict(recorded(directory).get("holder") or {})


@contextlib.contextmanager
def recording(directory: Path) -> Iterator[None]:
    """Record who works in a directory that this process has locked, and how that ends."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    job = os.environ.get("SLURM_JOB_ID")
    who = {"pid": os.getpid(), "host": platform.node(), "since": since, "slurm_job": job}
    record(directory, state="running", error=None, holder=who)
    try:
        yield
    except BaseException as error:
        told = isinstance(error, KeyboardInterrupt | SystemExit)
        stopped = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        text = str(error).strip() or stopped
        with contextlib.suppress(UserError):  # a full disk, which is the error already
            record(directory, state="interrupted" if told else "failed", error=text)
        raise


def claim(directory: Path, cfg: DictConfig) -> None:
    """Record the resolved config in a run directory that has none.

    Raises:
        UserError: it cannot be written.
    """
    path = directory / CONFIG
    if not path.exists():
        write_aside(path, lambda aside: OmegaConf.save(cfg, aside, resolve=True))


def compare(directory: Path, cfg: DictConfig) -> None:
    """Check the config against the one that the directory's run has recorded, if there is a run.

    Raises:
        UserError: the directory holds a run with another config; the message shows what differs.
    """
    path = directory / CONFIG
    if not path.exists():
        return
    try:
        there = _flat(OmegaConf.to_container(OmegaConf.load(path)))
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(
            f"{path} is damaged ({error}). Delete {directory} to start over."
        ) from error
    there = {key: MOVED.get(str(value), value) for key, value in there.items()}
    here = _flat(OmegaConf.to_container(cfg, resolve=True))
    differing = [
        key
        for key in sorted(set(there) | set(here))
        if there.get(key) != here.get(key) and not {key, key.split(".")[0]} & {*IRRELEVANT}
    ]
    if differing:
        shown = (f"  {key}: {there.get(key)} there, {here.get(key)} now" for key in differing)
        raise UserError(
            f"{directory} holds a run with another configuration:\n"
            + "\n".join(shown)
            + "\nGive the new run a name of its own (run_name=...), or delete that directory."
        )


def provenance() -> dict[str, Any]:
    """What a result depends on beside its config: code, packages, machine."""
    packages = (
        "progdtd",
        "torch",
        "compressai",
        "pytorch-optimizer",
        "lightning-fabric",
        "numpy",
        "constriction",
        "pillow",
        "hydra-core",
    )
    return _code() | {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "host": platform.node(),
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
    }


def _code() -> dict[str, Any]:
    """The commit of the source tree and what differs from it, unless git does not know this tree,
    as within an environment that lies in somebody's own repository."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {"git_commit": None, "git_diff": None, "git_untracked": {}}
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_diff": _git("diff", "HEAD", "--", ":/", ":(exclude,top)outputs"),
        "git_untracked": _untracked(),
    }


def _version(package: str) -> str | None:
    """Of an installed package; None of one that is only on the path, as a checkout may be."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def recorded(directory: Path) -> dict[str, Any]:
    """The run's record, `run.json`; empty if it is missing or damaged."""
    try:
        return dict(json.loads((directory / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def record(directory: Path, **values: Any) -> None:
    """Add values to the run's record.

    Raises:
        UserError: it cannot be written.
    """
    write_json(directory / RECORD, recorded(directory) | values)


def record_start(directory: Path, step: int, **facts: Any) -> None:
    """Add to the run's record what this start of it depends on.

    What was otherwise in earlier starts stays there, under `earlier`, with the step up to which it
    holds; that the code was another is said.

    Args:
        step: that this start begins at.

    Raises:
        UserError: it cannot be written.
    """
    before = recorded(directory) if step else {}
    changed = {k: before[k] for k, fact in facts.items() if k in before and before[k] != fact}
    earlier = before.get("earlier", []) + ([{"until_step": step} | changed] if changed else [])
    record(directory, **facts, earlier=earlier)
    if code := {key for key in changed if key.startswith("git_")}:
        message = "The code has changed since this run began (%s): %s records both versions."
        log.warning(message, ", ".join(sorted(code)), directory / RECORD)


class Table:
    """A CSV file that grows by rows while a run goes on.

    On resume it is cut back to the step of the checkpoint, so that no row appears twice and a line
    that a kill left half-written is gone.

    Args:
        path: the file.
        columns: the first is `step`.
        step: keep rows up to this step.
    """

    def __init__(self, path: Path, columns: list[str], step: int) -> None:
        self.path, self.columns = path, columns
        rows = [row for row in self._complete_rows() if int(row[0]) <= step]

        def write(aside: Path) -> None:
            with aside.open("w", newline="") as file:
                csv.writer(file).writerows([columns, *rows])

        write_aside(path, write)

    def append(self, row: dict[str, Any]) -> None:
        """Write a row, a value for each column that it has."""
        values = [f"{v:.6g}" if isinstance(v, float) else v for v in map(row.get, self.columns)]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(values)

    def rows(self) -> list[dict[str, float]]:
        """Its rows so far, without empty cells."""
        rows = (zip(self.columns, row, strict=True) for row in self._complete_rows())
        return [{column: float(cell) for column, cell in row if cell} for row in rows]

    def _complete_rows(self) -> list[list[str]]:
        if not self.path.exists():
            return []
        whole = self.path.read_text().rpartition("\n")[0]
        rows = list(csv.reader(whole.splitlines()))[1:]
        return [row for row in rows if len(row) == len(self.columns)]


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _untracked() -> dict[str, str]:
    """Code and configs that the source tree has and git does not know, with their contents."""
    root = _git("rev-parse", "--show-toplevel")
    found = ("--others", "--exclude-standard", "--full-name", "-z")
    names = _git("ls-files", *found, ":/progdtd", ":/conf", ":/hydra_plugins")
    paths = {name: Path(root or "", name) for name in (names or "").split("\0") if name}
    return {
        name: path.read_text(errors="replace")
        for name, path in paths.items()
        if path.suffix in (".py", ".yaml") and path.is_file()
    }


def _git(*arguments: str) -> str | None:
    """Output of a git command in the source tree, None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
