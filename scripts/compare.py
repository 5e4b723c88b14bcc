"""How trainings compare on the images that they held out: `python scripts/compare.py RUN...`.

A line for each run, from the last validation in its `validation.csv`: bits per pixel, PSNR in dB
and the loss at each fraction p. Only runs with the same held-out images and the same lambda can be
compared.
"""

from pathlib import Path

import command
import pandas as pd

from progdtd.errors import UserError
from progdtd.evaluation import markdown


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="run directories")
    rows = {str(directory): last(directory) for directory in parser.parse_args().runs}
    levels = sorted({p for points in rows.values() for p in points})
    header = ("p", *(f"{p:g}" for p in levels))
    cells = ((name, *(points.get(p, "") for p in levels)) for name, points in rows.items())
    print(markdown.table(header, cells, note="Bits per pixel: PSNR in dB, loss."))


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
    command.run(main)
