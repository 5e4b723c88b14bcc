"""How trainings compare on the images that they held out: `python scripts/compare.py RUN...`.

A line for each run, from the last validation in its `validation.csv`: bits per pixel, PSNR in dB
and the loss at each fraction p. Only runs with the same held-out images and the same lambda can be
compared.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from progdtd import data
from progdtd.errors import UserError
from progdtd.evaluation import markdown
from progdtd.experiment import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="run directories")
    options = parser.parse_args()
    try:
        runs = [path for path in options.runs if path.is_dir() or not path.exists()]
        if not runs:
            raise UserError(f"{options.runs[0]} is no run: give directories.")
        rows = {str(directory): last(directory) for directory in runs}
        lambdas, held_out = zip(*map(what_is_measured, runs), strict=True)
    except UserError as error:
        sys.exit(str(error))
    if len({*lambdas}) > 1 or len({*held_out} - {""}) > 1:
        print(
            "Not to be compared: these runs differ in lambda or in their held-out images.",
            file=sys.stderr,
        )
    levels = sorted({p for points in rows.values() for p in points})
    header = ("p", *(f"{p:g}" for p in levels))
    cells = ((name, *(points.get(p, "") for p in levels)) for name, points in rows.items())
    print(markdown.table(header, cells))
    print("\nBits per pixel: PSNR in dB, loss.")


def what_is_measured(directory: Path) -> tuple[float, str]:
    """The lambda of a run and a name of its held-out images, wherever the folder that has them is;
    none where it does not say, as one released.

    Raises:
        UserError: it has no config.
    """
    try:
        lmbda = OmegaConf.load(directory / run.CONFIG)["lambda"]
    except (OSError, KeyError) as error:
        raise UserError(f"{directory} is no run: it has no {run.CONFIG}.") from error
    held_out = [Path(path) for path in run.recorded(directory).get("held_out", [])]
    return lmbda, data.digest(held_out) if held_out else ""


def last(directory: Path) -> dict[float, str]:
    """Rate, PSNR and loss at each p, as a run last validated them.

    Raises:
        UserError: it has not yet.
    """
    try:
        table = pd.read_csv(directory / "validation.csv")
        points = table[table.step == table.step.max()]
        cells = {
            row.p: f"{row.bpp:.3f}: {row.psnr:.2f}, {row.loss:.3f}" for row in points.itertuples()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{directory} has no validation that can be read ({error}).") from error
    if not cells:
        raise UserError(f"{directory} has not been validated yet.")
    return cells


if __name__ == "__main__":
    main()
