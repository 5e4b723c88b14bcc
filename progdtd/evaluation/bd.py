"""BD-rate and BD-PSNR of every model against what it should be compared with.

Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001; with Akima
interpolation, as Herglotz, Kränzler, Mons, Kaup recommend, "Beyond Bjøntegaard: limits of video
compression performance comparisons", ICIP 2022.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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

FORMS = {"lambda": "g", "seed": ".0f", "effort": "g", "bd_rate": "+.1f", "bd_psnr": "+.2f"}
HEADINGS = {"range_low": "range of p", "kind": "levels"}
HEADINGS |= {"bd_rate": "BD-rate (%)", "bd_psnr": "BD-PSNR (dB)"}
"""How `bd.md` shows numbers, and what it calls columns."""

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
    identity, rows = [*MODEL, "protocol"], []
    curves: dict[tuple[str, ...], tuple[dict[str, Any], pd.DataFrame]] = {
        tuple(map(str, key)): (dict(zip(identity, key, strict=True)), results.trained(run))
        for key, run in ours.groupby(identity, dropna=False)
    }
    for named, curve in curves.values():
        anchors, without = [], {"effort": 0 * named["effort"]}
        for against, other in ((ITS_CHANNELS, {"kind": "channels"}), (WITHOUT_EFFORT, without)):
            _, same = curves.get(tuple(map(str, (named | other).values())), (named, curve))
            anchors += [(against, same)] if same is not curve and len(same) else []
        anchors += _anchors(named, published, baselines, others)
        rows += [named | {"against": against} | delta(anchor, curve) for against, anchor in anchors]
    return pd.DataFrame(rows, columns=[*identity, "against", *DELTA])


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
    """Returns the rows of `compare` as Markdown."""
    shown = deltas.drop(columns=["range_high", "bpp_from", "bpp_to"])
    bounds = zip(deltas.range_low, deltas.range_high, strict=True)
    shown["range_low"] = [f"{low:g} to {high:g}" for low, high in bounds]
    for name, form in FORMS.items():
        shown[name] = ["" if pd.isna(value) else f"{value:{form}}" for value in deltas[name]]
    rows = shown.itertuples(index=False)
    header = [*shown.rename(columns=HEADINGS)]
    return markdown.table(header, rows, "llllrrllrllr", EXPLANATION) + "\n"
