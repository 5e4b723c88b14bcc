"""What sweeping costs: `python scripts/benchmark_sweep.py [--readme]`.

Six runs of a small model on the bundled photographs, swept with one worker and with two, and the
time that a run takes beside its steps: to start, to resume, to be skipped when finished, to answer
`--help` and a mistake. Nothing else should run on the machine meanwhile.
"""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import command
import readme

from progdtd.evaluation import markdown
from progdtd.machine import cores

TRAIN = [sys.executable, "-m", "progdtd.train"]
QUIET = ["trainer.validate_every=100000", "trainer.checkpoint_every=100000", "dataset.validation=2"]
SMALL = ["model.N=64", "model.M=96", "trainer.batch_size=8", "trainer.crop=128"]
SWEEP = ["-m", *SMALL, "lambda=0.01,0.1,1.0", "drop.range=[0.0,1.0],[0.3,1.0]"]


def seconds(folder: str, *arguments: str, code: int = 0) -> float:
    """Wall time of a training command, which must end with the given exit code."""
    train = partial(subprocess.run, cwd=folder, capture_output=True, text=True)
    taken, done = command.timed(train, [*TRAIN, *arguments])
    if done.returncode != code:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return taken


def swept(workers: int, steps: int) -> tuple[float, float]:
    """Wall time of the six-run sweep, and of the same command again when all are finished."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"trainer.steps={steps}", "launcher=local", f"launcher.workers={workers}"]
        return tuple(seconds(folder, *SWEEP, *QUIET, *settings) for _ in range(2))  # type: ignore


def single() -> dict[str, float]:
    """Wall time of what surrounds the steps of one run."""
    with tempfile.TemporaryDirectory() as folder:
        run = [*SMALL, *QUIET, "trainer.steps=1", "run_name=run"]
        times = {
            "`--help`": seconds(folder, "--help"),
            "a mistake in the configuration": seconds(folder, "lambda=-1", code=1),
            "a run of one step": seconds(folder, *run),
            "a finished run, skipped": seconds(folder, *run),
        }
        next(Path(folder).rglob("weights.safetensors")).unlink()
        return times | {"the same, resumed at its end": seconds(folder, *run)}


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--steps", type=int, default=150, help="of each of the six runs")
    parser.add_argument("--rounds", type=int, default=3, help="of the single runs")
    parser.add_argument("--readme", action="store_true", help="put the result into its page")
    arguments = parser.parse_args()
    one, again = swept(1, arguments.steps)
    two, _ = swept(2, arguments.steps)
    times = {
        f"six runs of {arguments.steps} steps, one at a time": one,
        "the same, two at a time": two,
        "the finished sweep again": again,
    } | command.medians(single() for _ in range(arguments.rounds))
    rows = [(what, f"{taken:.1f}") for what, taken in times.items()]
    note = f"{cores()} cores; two workers take {two / one:.2f} of the time of one. "
    note += f"Single runs: medians of {arguments.rounds}."
    text = markdown.table(("", "seconds"), rows, note=note)
    readme.show({"benchmark_sweep": text}, arguments.readme)


if __name__ == "__main__":
    command.run(main)
