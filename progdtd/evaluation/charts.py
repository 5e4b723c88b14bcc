"""Rate-distortion figures: which curves go together, and how they are drawn."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from progdtd.evaluation import results

PANELS = {"ms_ssim_db": "MS-SSIM (dB)", "psnr": "PSNR (dB)"}

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart; one colour a lambda."""

MARKERS = "os^DvPX<>p*hd8"
"""One marker for each range of p, in the first place."""

GREY, DARK = "#999999", "#222222"
"""Colours of other codecs: measured, and published."""

LINESTYLES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 3)), (0, (7, 3)))
"""Line styles of other codecs."""

THIN: Any = {"linestyle": "--", "lw": 0.7, "ms": 2.2, "mfc": "white", "alpha": 0.8}
HOLLOW: Any = {"linestyle": (0, (4, 1)), "mfc": "white"}
BARE: Any = {"lw": 0.7, "label": "ours without effort"}
"""Styles of the published ProgDTD, of levels of planes, and of ours without effort beside it."""

OURS, PUBLISHED = "λ", "ProgDTD as published (512×512, last patch)"
TITLES = {
    "native": "whole images",
    "reference": "512×512, rate of the last patch (as published)",
    "reference-all-patches": "512×512, rate of all patches",
}

EVERY_RATE = 2.0
"""Bits per pixel up to which a stream for every rate is drawn, at least."""

MOST_COLUMNS = 4
"""Lambdas get panels of their own up to this many."""

KIN = ["range_low", "range_high", "codec", "effort", "model", "drop", "seed", "called"]
"""What curves of one marker share, but for what has colours."""

STYLE: Any = {
    "font.size": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "savefig.bbox": "tight",
    "savefig.dpi": 250,
}


def panels(ours: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, bool]]:
    """The figures of one protocol: a suffix of the name, what is drawn, and whether the published
    curves, which are of that protocol, are drawn beside it. Levels of planes, an effort in
    encoding (beside none), and other tail drops (with both kinds of level) have figures of their
    own."""
    planes, effort = ours.kind == "planes", ours.effort > 0
    double = ~ours["drop"].isin(results.CONTROLS)
    alike = (ours.protocol == "reference").all()
    main = double | ~double.any()
    if (main & ~planes & ~effort).any():
        yield "", ours[main & ~planes & ~effort], alike
    if (main & planes & ~effort).any():
        yield "_planes", ours[main & ~effort], False
    if (main & effort).any():
        same = ["codec", *(name for name in results.MODEL if name != "effort")]
        fitted = pd.MultiIndex.from_frame(ours.loc[effort, same])
        both = effort | pd.MultiIndex.from_frame(ours[same]).isin(fitted)
        yield "_effort", ours[main & both], alike
    controls = results.controls(ours[~effort])
    if controls["drop"].nunique() > 1:
        yield "_drops", controls, False


def rate_distortion(
    ours: pd.DataFrame,
    published: pd.DataFrame,
    baselines: pd.DataFrame,
    others: pd.DataFrame,
    title: str,
) -> Figure:
    """MS-SSIM and PSNR over the rate, a curve for each model.

    Panels  one for each metric; with planes, whose curves are close to each other, and several
            lambdas, one for each metric and lambda
    colour  lambda, or what else differs first: the drop, the model, the run; where lambda has its
            own panels, the drop, the model, the run or the range of p
    marker  the range of p, and all that tells models apart beside lambda and colour
    line    solid for channels, dashed with hollow markers for planes, thin for the published, and
            beside those with an effort, for the same without

    A model without a lambda, whose one stream is for every rate, is black and in every panel.

    Args:
        ours: aggregated results of one protocol.
        published: published ProgDTD curves, dashed: those of our lambdas in their colours, or
            where none is of one of them, all in grey.
        baselines: aggregated results of measured codecs.
        others: published curves of other codecs.
    """
    ours = _described(ours)
    every_rate, effort = ours["lambda"].isna(), ours.effort > 0
    tuned = ours if every_rate.all() else ours[~every_rate]
    lambdas = sorted(tuned["lambda"].unique())
    apart = (ours.kind == "planes").any() and 1 < len(lambdas) <= MOST_COLUMNS
    first = ["drop", "model", "called"]
    first = [*first, "bounds"] if apart else ["lambda", *first]
    shade = next((key for key in first if tuned[key].nunique() > 1), first[0])
    colours = _palette(tuned[shade].dropna())
    kin = [key for key in KIN if key != shade]
    ours["mark"] = ours[effort | ~effort.any()].groupby(kin, dropna=False).ngroup()
    if (alike := published["lambda"].isin(lambdas)).any():
        published = published[alike]
    theirs = published.groupby(["range_low", "range_high", "lambda"])
    marks = ours.groupby(["range_low", "range_high"]).mark.min().dropna().to_dict()
    free = itertools.count(ours.mark.nunique())
    for bounds in zip(published.range_low, published.range_high, strict=True):
        if bounds not in marks:
            marks[bounds] = next(free)
    parts = [ours[(ours["lambda"] == lmbda) | every_rate] for lmbda in lambdas] if apart else [ours]
    with matplotlib.rc_context(STYLE):
        rows, columns = (2, len(parts)) if apart else (1, 2)
        figure = Figure(figsize=(7.0, 1.2 + 2.4 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axis, (metric, part) in zip(grid.flat, itertools.product(PANELS, parts), strict=True):
            for codec, style, curve in _curves(baselines, others):
                _line(axis, curve, metric, **style, lw=0.9, label=codec)
            for (low, high, lmbda), curve in theirs:
                style = {"color": colours.get(lmbda, GREY), "marker": _marker(marks[low, high])}
                _line(axis, curve[curve.p >= low], metric, **style | THIN, label=PUBLISHED)
            for _, curve in part.groupby(results.MODEL, dropna=False):
                named = curve.iloc[0]
                alone = pd.isna(named["lambda"]) and len(tuned) < len(ours)
                colour = "black" if alone else colours.get(named[shade], "black")
                style = {"color": colour, "marker": _marker(named["mark"])}
                style |= {"lw": 1.3, "ms": 3.2, "label": _label(named, tuned, apart)}
                style |= HOLLOW if named["kind"] == "planes" else {}
                style |= BARE if effort.any() and not named["effort"] else {}
                _line(axis, results.trained(curve), metric, **style)
            rates = part.bpp.where(part["lambda"].notna(), part.bpp.clip(upper=EVERY_RATE))
            _frame(axis, 1.04 * pd.concat([rates, published.bpp]).max())
        for axis in grid[-1]:
            axis.set_xlabel("Rate (bit per pixel)")
        for axis, lmbda in zip(grid[0], lambdas if apart else (), strict=False):
            axis.set_title(f"{OURS} = {lmbda:g}", fontsize=8)
        for axis, name in zip(grid[:, 0] if apart else grid[0], PANELS.values(), strict=True):
            axis.set_ylabel(name)
        _legend(figure)
        figure.suptitle(title, fontsize=8)
    return figure


def _marker(number: float) -> str:
    """Returns a marker by its number, none for NaN."""
    return "" if pd.isna(number) else MARKERS[int(number) % len(MARKERS)]


def _legend(figure: Figure) -> None:
    """Name below the panels what is seen in any of them, our models first."""
    lines = {
        str(line.get_label()): line
        for axis in figure.axes
        for line in axis.lines
        if len(_up_to(axis.get_xlim()[1], line))
    }
    for label, style in ((PUBLISHED, {"marker": "o", **THIN}), (BARE["label"], {"lw": BARE["lw"]})):
        if label in lines:  # in no one's colour, for it stands for all of them
            lines[label] = Line2D([], [], color=GREY, **style)
    order = sorted(lines, key=lambda label: (not label.startswith((OURS, "p ", "wavelet")), label))
    look: Any = {"loc": "outside lower center", "ncols": 3, "frameon": False, "handlelength": 2.6}
    figure.legend([lines[label] for label in order], order, **look)


def _palette(values: Iterable) -> dict[Any, str]:
    """A colour for each value, in their order: of the palette or, where they are more, of a map."""
    each = sorted(set(values))
    if len(each) <= len(COLOURS):
        return dict(zip(each, COLOURS, strict=False))
    shades = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(each)))
    return dict(zip(each, map(to_hex, shades), strict=True))


def _frame(axis: Axes, rate: float) -> None:
    """Show a panel up to a rate, and as high and low as its points up to there."""
    axis.set_xlim(0, rate)
    shown = np.concatenate([_up_to(rate, line) for line in axis.lines])
    if len(shown):
        margin = 0.04 * np.ptp(shown) or 0.5
        axis.set_ylim(shown.min() - margin, shown.max() + margin)


def _up_to(rate: float, line: Line2D) -> np.ndarray:
    """The heights of a curve's points up to a rate."""
    x, y = (np.asarray(values, float) for values in line.get_data())
    return y[x <= rate]


def _described(ours: pd.DataFrame) -> pd.DataFrame:
    """Returns a table with two more columns: `called`, the names of runs that differ in nothing
    else, and `bounds`, the range of p in words."""
    alike = [column for column in results.MODEL if column not in ("run", "kind", "effort")]
    runs = ours[[*alike, "run"]].drop_duplicates()
    ours = ours.merge(runs.assign(called=runs["run"].where(runs.duplicated(alike, keep=False), "")))
    pairs = zip(ours.range_low, ours.range_high, strict=True)
    bounds = [f"p ∈ [{low:g}, {high:g}]" if low < high else f"p = {low:g}" for low, high in pairs]
    return ours.assign(bounds=bounds)


def _curves(
    baselines: pd.DataFrame, others: pd.DataFrame
) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Measured codecs in grey and published ones in nearly black, each with its line style."""
    for table, colour, remark in ((baselines, GREY, ""), (others, DARK, " (published)")):
        for i, (codec, curve) in enumerate(table.groupby("codec")):
            style = {"color": colour, "linestyle": LINESTYLES[i % len(LINESTYLES)]}
            yield f"{codec}{remark}", style, curve


def _line(axis: Axes, curve: pd.DataFrame, metric: str, **style) -> Line2D:
    curve = curve[np.isfinite(curve[metric].astype(float))].sort_values("bpp")
    return axis.plot(curve.bpp, curve[metric], **style)[0]


def _label(named: pd.Series, ours: pd.DataFrame, apart: bool) -> str:
    """What the legend says: of a model without λ its name; else λ, unless it is the panels' title,
    the range of p, and model, drop, seed and the run's name only where they are needed to tell
    curves apart."""
    if pd.isna(named["lambda"]) and pd.notna(named["model"]):
        return f"{named['model']} {named['called']}".strip()
    parts = [] if apart else [f"{OURS} = {named['lambda']:g}"]
    parts += [named["bounds"], "planes" if named["kind"] == "planes" else ""]
    parts += [f"effort {named['effort']:g}" if named["effort"] else ""]
    parts += [str(named[key]) for key in ("model", "drop") if ours[key].nunique() > 1]
    parts += [f"seed {named['seed']:.0f}" if ours.seed.nunique() > 1 else "", named["called"]]
    return ", ".join(filter(None, parts))


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PDF and PNG, the same bytes for the same figure."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
        figure.savefig(stem.with_suffix(".png"))
    return [stem.with_suffix(".pdf"), stem.with_suffix(".png")]


def named_at_ends(curves: Mapping[str, pd.DataFrame], rate: float, lowest: float = 20.0) -> Figure:
    """PSNR over rate, whole images: a few curves, each named where it ends, without a legend.

    Args:
        curves: means with `bpp` and `psnr`, by the names that they get in the chart.
        rate: bits per pixel up to which they are drawn.
        lowest: PSNR (dB) from which they are.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 3.4), layout="constrained")
        axis, ends = figure.subplots(), []
        for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
            line = _line(axis, curve, "psnr", color=colour, lw=1.4)
            x, y = (np.asarray(values, float) for values in line.get_data())
            last = min(rate, x.max())
            ends.append((float(np.interp(last, x, y)), last, name, colour))
        highest = max(end[0] for end in ends) + 0.8
        axis.set(xlim=(0, rate), ylim=(lowest, highest))
        axis.set(xlabel="Rate (bit per pixel)", ylabel="PSNR (dB)")
        above = math.inf
        for height, last, name, colour in sorted(ends, reverse=True):
            above = min(height, above - (highest - lowest) / 26)  # names do not overlap
            look: Any = {"textcoords": "offset points", "va": "center", "fontsize": 7}
            axis.annotate(name, (last, above), (4, 0), color=colour, **look)
    return figure
