"""What sweeping costs: `python scripts/benchmark_sweep.py [--readme]`.

Six runs of a small model on the bundled photographs, swept with one worker and with two, and the
time that a run takes beside its steps: to start, to resume, to be skipped when finished, to answer
`--help` and a mistake. Nothing else should run on the machine meanwhile.
"""

import statistics
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


def single(rounds: int) -> dict[str, float]:
    """Medians of what surrounds the steps of one run."""
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            run = [*SMALL, *QUIET, "trainer.steps=1", "run_name=run"]
            times.setdefault("`--help`", []).append(seconds(folder, "--help"))
            mistake = seconds(folder, "lambda=-1", code=1)
            times.setdefault("a mistake in the configuration", []).append(mistake)
            times.setdefault("a run of one step", []).append(seconds(folder, *run))
            times.setdefault("a finished run, skipped", []).append(seconds(folder, *run))
            weights = next(Path(folder).rglob("weights.safetensors"))
            weights.unlink()
            times.setdefault("the same, resumed at its end", []).append(seconds(folder, *run))
    return {name: statistics.median(values) for name, values in times.items()}


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
    } | single(arguments.rounds)
    rows = [(what, f"{taken:.1f}") for what, taken in times.items()]
    text = "\n\n".join(
        (
            markdown.table(("", "seconds"), rows),
            f"{cores()} cores; two workers take {two / one:.2f} of the time of "
            f"one. Single runs: medians of {arguments.rounds}.",
        )
    )
    print(text)
    if arguments.readme:
        readme.put("benchmark_sweep", text)


if __name__ == "__main__":
    command.run(main)
