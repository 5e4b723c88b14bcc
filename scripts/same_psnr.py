"""How many bits a model needs for the PSNR of other codecs, over all its prefixes.

    python scripts/same_psnr.py outputs/train/RUN/evaluation/kodak_native.csv
    python scripts/same_psnr.py MODEL.csv --beside outputs/baselines/kodak_native.csv

At some rates of the other codec, the rate at which the model has the same PSNR, relative to it; and
BD-rate between the first and the last of these rates. Both are of the curves of means over all
images, interpolated in the logarithm of the rate. A second line has, of codecs that were measured
image by image, the means over the images of the same comparisons: streams cut at a fraction of
their bytes give an image with more detail more bits, which is good for a curve of means.
"""

from collections.abc import Iterator
from pathlib import Path

import command
import numpy as np
import pandas as pd

from progdtd.evaluation import bd, curves, markdown, results
from progdtd.files import PACKAGE

RATES = (0.1, 0.25, 0.5, 1.0, 1.5)
PUBLISHED = ("bmshj2018-hyperprior", "DPICT", "CTC(tri_planet_23)")
MEANS = PACKAGE.parent / "outputs/reference/results.csv"


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("table", type=Path, help="by progdtd.evaluate, of the model")
    parser.add_argument(
        "--beside",
        type=Path,
        nargs="+",
        default=[MEANS],
        metavar="table",
        help="by progdtd.evaluate, baselines or figures (default: the project's own)",
    )
    options = parser.parse_args()
    model = results.read([options.table])
    rows = list(compared(model, options.beside))
    header = ("beside", *(f"{rate:g} bpp" for rate in RATES), "BD-rate")
    note = "Bits of the model for the same PSNR, relative to the other; negative is better."
    print(markdown.table(header, rows, note=note))


def compared(model: pd.DataFrame, tables: list[Path]) -> Iterator[tuple[str, ...]]:
    """A row for each codec, and one more for those measured image by image."""
    means = results.aggregate(model)
    for path in tables:
        whole = "images" in pd.read_csv(path, nrows=0)
        table = results.read_means(path) if whole else results.read([path])
        table = table[(table.protocol == "native") & (table.dataset == means.dataset.iloc[0])]
        table = table[table.kind.isna() | (table.kind != "channels")]
        for key, curve in table.groupby(results.MODEL, dropna=False):
            if dict(zip(results.MODEL, key, strict=True))["effort"] > 0:
                continue
            name = name_of(curve.iloc[0])
            yield name, *line(curve if whole else results.aggregate(curve), means)
            if not whole:
                ours = dict(iter(model.groupby("image")))
                pairs = [(c, ours[i]) for i, c in curve.groupby("image") if i in ours]
                parts = np.array([numbers(*pair) for pair in pairs])
                yield f"{name}, image by image", *shown(parts.mean(0))
    if means.dataset.iloc[0] == "kodak":
        published = curves.codecs()
        for codec in PUBLISHED:
            yield f"{codec} (published)", *line(published[published.codec == codec], means)


def name_of(row: pd.Series) -> str:
    """What a codec or a model is called."""
    if pd.isna(row.model):
        return str(row.codec)
    if pd.isna(row["lambda"]):
        return f"{row.model} ({row.run})"
    return f"λ = {row['lambda']:g}, [{row.range_low:g}, {row.range_high:g}], {row.kind}"


def line(other: pd.DataFrame, model: pd.DataFrame) -> list[str]:
    return shown(numbers(other, model))


def numbers(other: pd.DataFrame, model: pd.DataFrame) -> np.ndarray:
    """Of each of RATES, and of BD-rate between them: percent more bits than the other; NaN where
    one of the two curves has nothing."""
    theirs, ours = bd.rising(other), bd.rising(model)
    if min(len(theirs), len(ours)) < 2:
        return np.full(len(RATES) + 1, np.nan)
    log_rates = np.log(RATES)
    psnr = np.interp(log_rates, np.log(theirs.bpp), theirs.psnr, np.nan, np.nan)
    needed = np.interp(psnr, ours.psnr, np.log(ours.bpp), np.nan, np.nan)
    inside = theirs[theirs.bpp.between(RATES[0], RATES[-1], inclusive="neither")]
    ends = pd.DataFrame({"bpp": RATES, "psnr": psnr}).iloc[[0, -1]].dropna()
    within = pd.concat([inside, ends]).sort_values("bpp")
    return np.array([*100 * np.expm1(needed - log_rates), bd.delta(within, ours)["bd_rate"]])


def shown(percent: np.ndarray) -> list[str]:
    return ["" if np.isnan(value) else f"{value:+.1f} %" for value in percent]


if __name__ == "__main__":
    command.run(main)
