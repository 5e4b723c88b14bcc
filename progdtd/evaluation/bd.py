"""BD-rate and BD-PSNR of every model against what it should be compared with.

Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001; with Akima
interpolation, as Herglotz, Kränzler, Mons, Kaup recommend, "Beyond Bjøntegaard: limits of video
compression performance comparisons", ICIP 2022.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from bjontegaard import bd_psnr, bd_rate

from progdtd.evaluation import markdown, results
from progdtd.evaluation.results import MODEL
from progdtd.files import write_aside

EXPLANATION = (
    "BD-rate (%): bits that the model needs for the same PSNR, relative to the other; negative is "
    "better. BD-PSNR (dB): its PSNR at the same rate, minus the other's; positive is better. Both "
    "are averages over what the two curves share; empty where they share nothing."
)

DELTA = ("bd_rate", "bd_psnr", "bpp_from", "bpp_to")
"""What `delta` says of two curves."""

ITS_CHANNELS, WITHOUT_EFFORT = "its levels of channels", "itself without effort"
"""What a model is compared with that is the same model."""


def compare(
    ours: pd.DataFrame, published: pd.DataFrame, baselines: pd.DataFrame, others: pd.DataFrame
) -> pd.DataFrame:
    """A row for each model and each curve that it is comparable with, like with like.

    Args:
        ours: aggregated results. Those of protocol `reference` meet the published curve of the
            same lambda and range, those of protocol `native` meet other codecs on whole images.
        published: published ProgDTD curves.
        baselines: aggregated results of measured codecs.
        others: published curves of other codecs.
    """
    rows = []
    for key, run in ours.groupby([*MODEL, "protocol"], dropna=False):
        named = dict(zip([*MODEL, "protocol"], key, strict=True))
        curve = results.trained(run)
        anchors = [*_same_weights(named, ours), *_anchors(named, published, baselines, others)]
        for against, anchor in anchors:
            rows.append(named | {"against": against} | delta(anchor, curve))
    return pd.DataFrame(rows, columns=[*MODEL, "protocol", "against", *DELTA])


def _same_weights(named: dict, ours: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """For levels of planes, the levels of channels of the same model; for an effort, the same
    levels without it."""
    for name, other in ((ITS_CHANNELS, {"kind": "channels"}), (WITHOUT_EFFORT, {"effort": 0})):
        key = named | other
        same = [(ours[column] == value) | (ours[column].isna() & pd.isna(value))
                for column, value in key.items()]  # fmt: skip
        curve = results.trained(ours[np.logical_and.reduce(same)])
        if key != named and len(curve):
            yield name, curve


def _anchors(
    named: dict, published: pd.DataFrame, baselines: pd.DataFrame, others: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    if named["protocol"] == "reference":
        same = published[
            (published["lambda"] == named["lambda"])
            & (published.range_low == named["range_low"])
            & (published.range_high == named["range_high"])
            & (published.p >= named["range_low"])
        ]
        if len(same):
            yield "ProgDTD (published)", same
    elif named["protocol"] == "native":
        yield from ((str(codec), curve) for codec, curve in baselines.groupby("codec"))
        for codec, curve in others.groupby("codec"):
            yield f"{codec} (published)", curve


def delta(anchor: pd.DataFrame, curve: pd.DataFrame) -> dict[str, float]:
    """`bd_rate` in percent and `bd_psnr` in dB of `curve` against `anchor`, and the bits per pixel
    between which the latter is an average, `bpp_from` and `bpp_to`; NaN without overlap.

    Args:
        anchor, curve: tables with columns `bpp` and `psnr`.
    """
    a, b = rising(anchor), rising(curve)
    low = pd.concat([a.min(), b.min()], axis=1).max(axis=1)
    high = pd.concat([a.max(), b.max()], axis=1).min(axis=1)
    if min(len(a), len(b)) < 3 or not (high > low).all():
        return dict.fromkeys(DELTA, math.nan)
    arguments = (a.bpp, a.psnr, b.bpp, b.psnr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about small overlaps
        options = {"method": "akima", "require_matching_points": False, "min_overlap": 0}
        return {
            "bd_rate": float(bd_rate(*arguments, **options)),
            "bd_psnr": float(bd_psnr(*arguments, **options)),
            "bpp_from": float(low.bpp),
            "bpp_to": float(high.bpp),
        }


def rising(curve: pd.DataFrame) -> pd.DataFrame:
    """The points of a curve where rate and PSNR both rise; the repeated points of channels that
    carry nothing are left out."""
    points, last = [], (-math.inf, -math.inf)
    finite = curve[np.isfinite(curve[["bpp", "psnr"]].astype(float)).all(axis=1)]
    for bpp, psnr in finite[["bpp", "psnr"]].sort_values("bpp").itertuples(index=False):
        if bpp > last[0] + 1e-6 and psnr > last[1] + 1e-6:
            points.append((bpp, psnr))
            last = (bpp, psnr)
    return pd.DataFrame(points, columns=["bpp", "psnr"])


def write(table: pd.DataFrame, out: Path) -> list[Path]:
    """Write `bd.csv` and, for people, `bd.md`."""
    paths = [out / "bd.csv", out / "bd.md"]
    rounded = table.round(dict.fromkeys(DELTA, 4))  # beyond, machines differ
    write_aside(paths[0], lambda aside: rounded.to_csv(aside, index=False))
    write_aside(paths[1], lambda aside: aside.write_text(described(table)))
    return paths


def described(deltas: pd.DataFrame) -> str:
    """The rows of `compare` as Markdown."""
    header = ("codec", "model", "drop", "range of p", "lambda", "seed", "run", "levels", "effort",
              "protocol", "against", "BD-rate (%)", "BD-PSNR (dB)")  # fmt: skip
    rows = [
        (
            row["codec"], row["model"], row["drop"],
            f"{row['range_low']:g} to {row['range_high']:g}",
            f"{row['lambda']:g}", f"{row['seed']:.0f}", row["run"], row["kind"],
            f"{row['effort']:g}", row["protocol"], row["against"],
            _number(row["bd_rate"], ".1f"), _number(row["bd_psnr"], ".2f"),
        )
        for row in deltas.to_dict("records")
    ]  # fmt: skip
    return f"{markdown.table(header, rows, 'llllrrllrllr')}\n\n{EXPLANATION}\n"


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, f"+{form}")
