r"""The tables of results in the pages, from those that `progdtd.figures` wrote.

python scripts/report.py outputs/reference --controls outputs/controls --priors outputs/priors \
    --readme
"""

import argparse
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import command
import numpy as np
import pandas as pd
import readme

from progdtd.errors import UserError
from progdtd.evaluation import bd, curves, markdown, results

RATES = (0.1, 0.25, 0.5, 1.0)
BESIDE = ("bmshj2018-hyperprior", "DPICT", "CTC(tri_planet_23)")
SHOWN = (0.05, 0.1, 0.3, 0.5, 1.0)
AT_RATES, AT_LEVELS = [f"{rate:g} bpp" for rate in RATES], [f"p = {p:g}" for p in SHOWN]
AGAINST = (
    "ProgDTD (published)",
    "JPEG progressive (prefix)",
    "JPEG 2000 (prefix)",
    "JPEG",
    "AVIF",
    "bmshj2018-hyperprior (published)",
    "DPICT (published)",
)

CALLED = {
    "bmshj2018-hyperprior (published)": "single-rate hyperprior (published)",
    "CTC(tri_planet_23) (published)": "CTC (published)",
}
"""What the pages call curves whose own names say little."""

SUMMARY = {
    "JPEG progressive (prefix)": "progressive JPEG of quality 75, one file",
    "JPEG 2000 (prefix)": "JPEG 2000, one file",
    "WebP": "WebP, a file for each rate",
    "AVIF": "AVIF, a file for each rate",
    "bmshj2018-hyperprior (published)": "single-rate hyperprior, published, a model for each rate",
    "DPICT (published)": "DPICT, published, one file",
    "CTC(tri_planet_23) (published)": "CTC, published, one file",
}
"""What stands beside ours in the README."""


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("folder", type=Path, help="what `progdtd.figures out=` was given")
    parser.add_argument("--controls", type=Path, help="the same of models with other tail drops")
    parser.add_argument("--priors", type=Path, help="the same of models with other priors")
    parser.add_argument("--readme", action="store_true", help="put the tables into the pages")
    options = parser.parse_args()
    report = {section: "\n\n".join(parts) for section, parts in sections(options).items()}
    readme.show(report, options.readme)


def sections(options: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """The tables of each section of the pages.

    Raises:
        UserError, OSError: the folders do not have what they are made of.
    """
    levels = results.read_means(options.folder / "results.csv")
    deltas = pd.read_csv(options.folder / "bd.csv")
    alike = levels[levels.model.notna()].groupby([*NAMED, "drop", "kind", "effort"], dropna=False)
    if (alike.run.nunique() > 1).any():
        raise UserError(
            "These tables have one line for each lambda, range and drop: draw and "
            "report one run of each (seeds, models and the like apart)."
        )
    native = levels[levels.protocol == "native"]
    models, beside = native[native.model.notna()], native[native.model.isna()]
    double, deltas = (table[table["drop"] == "dtd"] for table in (models, deltas))
    fitted, fitted_deltas = (table[table.effort > 0] for table in (double, deltas))
    double, deltas = (table[table.effort == 0] for table in (double, deltas))
    ours = pd.concat([double, models[models.kind == "wavelet"]])
    channels = double[double.kind == "channels"]
    if channels.empty:
        raise UserError(f"{options.folder}/results.csv has no levels of channels of drop=dtd.")
    report = {
        "summary": (summary(ours, beside_ours(beside)),),
        "results": (quality(channels), published(deltas)),
        "others": (kinds(double), at_rates(ours, beside_ours(beside)), comparison(deltas)),
        "groups": (groups(channels), falls(double)),
        "overhead": (overhead(channels),),
    }
    if len(fitted):
        report["effort"] = (
            effort(double, fitted, fitted_deltas),
            differences(double, fitted),
            at_rates(fitted),
        )
    for section, folder, option in (
        ("drops", options.controls, "drop"),
        ("priors", options.priors, "model"),
    ):
        if folder:
            means = results.read_means(folder / "results.csv")
            ours = means[means.model.notna() & (means.protocol == "native")]
            report[section] = beside_each_other(ours, option)
    return report


NAMED = ["lambda", "range_low", "range_high"]
"""What names a model where all have the same drop."""


def named(key: tuple[float, float, float]) -> tuple[str, str]:
    """The first two cells of a model's line."""
    lmbda, low, high = key
    return f"{lmbda:g}", f"[{low:g}, {high:g}]"


def table(columns: Iterable[str], rows: Iterable[Sequence[str]], note: str) -> str:
    """A line for each model, and what its numbers are."""
    return markdown.table(("λ", "range of p", *columns), rows, "rlr", note)


def by_model(
    ours: pd.DataFrame, cells: Callable[[pd.DataFrame], Iterable[str]]
) -> list[tuple[str, ...]]:
    """The line of each model: its name, and the cells of its curve."""
    return [(*named(key), *cells(curve)) for key, curve in ours.groupby(NAMED)]


def at_levels(curve: pd.DataFrame) -> list[str]:
    """The points of a curve at the levels that it has of those that are shown."""
    points = curve.set_index("p")
    return [point(points.loc[p]) if p in points.index else "" for p in SHOWN]


def quality(ours: pd.DataFrame) -> str:
    """Rate, PSNR and MS-SSIM of every model at some levels, whole images and real bytes."""
    return table(
        AT_LEVELS,
        by_model(ours, at_levels),
        f"Bits per pixel, PSNR and MS-SSIM (dB), means of {ours.images.iloc[0]} images; bits are "
        "those of the prefix of one file.",
    )


def published(deltas: pd.DataFrame) -> str:
    """Every model beside the published curve of the same lambda and range, by its own protocol."""
    same = deltas[(deltas.against == "ProgDTD (published)") & (deltas.protocol == "reference")]
    rows = []
    for key, row in same.set_index(NAMED).iterrows():
        cells = [f"{row.bd_rate:+.1f} %", f"{row.bd_psnr:+.2f} dB"]
        cells.append(f"{row.bpp_from:.3f} to {row.bpp_to:.3f}")
        rows.append((*named(key), *(["", "", ""] if pd.isna(row.bd_psnr) else cells)))
    return table(
        ("BD-rate", "BD-PSNR", "over bpp"),
        rows,
        "Against the published curve of the same model, with the published protocol: the rate of "
        "the last patch, estimated. Negative rates and positive PSNR are better; PSNR is compared "
        "over the rates that both curves have, and empty where these do not overlap.",
    )


GROUPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def groups(ours: pd.DataFrame) -> str:
    """What each group of channels costs and brings: whether the tail is alive."""
    spans = list(itertools.pairwise(GROUPS))

    def cells(curve: pd.DataFrame) -> Iterable[str]:
        at = curve.set_index("p")
        for a, b in spans:
            there = {a, b} <= {*at.index}
            yield f"{at.bpp[b] - at.bpp[a]:.3f}: {at.psnr[b] - at.psnr[a]:+.2f}" if there else ""

    return table(
        (f"{a:g} to {b:g}" for a, b in spans),
        by_model(ours, cells),
        "Bits per pixel that the channels between two fractions p cost, and the PSNR (dB) that "
        "they bring.",
    )


def falls(ours: pd.DataFrame) -> str:
    """The largest fall of PSNR and the smallest growth of rate from one row to the next."""
    steps_of = {
        "channels": "level of channels",
        "planes": "of the 16 fractions of a stream of planes",
    }
    lines = []
    for kind, part in ours.groupby("kind"):
        steps = [
            results.trained(curve).sort_values("p")[["bpp", "psnr"]].diff().min()
            for _, curve in part.groupby(NAMED)
        ]
        rate, psnr = min(step.bpp for step in steps), min(step.psnr for step in steps)
        lines.append(
            f"From one {steps_of[str(kind)]} to the next, the mean rate grows by at least "
            f"{rate:.5f} bpp and the mean PSNR changes by at least {psnr:+.3f} dB, in all models."
        )
    return "\n".join(lines)


def overhead(ours: pd.DataFrame) -> str:
    """By how much real streams are longer than the model's estimate for coding a prefix alone."""

    def cells(curve: pd.DataFrame) -> list[str]:
        more = (curve.bpp / curve.bpp_estimated - 1).set_axis(curve.p)
        return [f"{more[p]:+.1%}" if p in more.index else "" for p in SHOWN]

    return table(
        AT_LEVELS,
        by_model(ours, cells),
        "Bytes of the prefix over what the model estimates for its channels coded at once, mean "
        "rates of all images.",
    )


def beside_each_other(ours: pd.DataFrame, option: str) -> tuple[str, str]:
    """Models that differ in one option, as `drop`: levels of channels, then of planes."""
    channels, planes = [], []
    for (kind, lmbda, choice), curve in ours.groupby(["kind", "lambda", option]):
        name = f"{lmbda:g}", f"`{option}={choice}`"
        if kind == "channels":
            distinct = curve.sort_values("p").drop_duplicates("bytes", keep="last")
            channels.append((*name, *at_levels(distinct)))
        elif kind == "planes":
            planes.append((*name, *interpolated(curve), point(curve.loc[curve.bpp.idxmax()])))
    return (
        markdown.table(
            ("λ", "channels", *AT_LEVELS),
            channels,
            "rlr",
            "Bits per pixel, PSNR and MS-SSIM (dB); empty where the level is that of p = 1.",
        ),
        markdown.table(
            ("λ", "planes", *AT_RATES, "whole"),
            planes,
            "rlr",
            "PSNR and MS-SSIM (dB) of planes of the same weights.",
        ),
    )


def interpolated(curve: pd.DataFrame) -> list[str]:
    """PSNR and MS-SSIM at each of RATES, as far as they are known there."""
    found = [value_at(RATES, curve, metric) for metric in ("psnr", "ms_ssim_db")]
    cells = []
    for psnr, ms_ssim in zip(*found, strict=True):
        both = ["–" if np.isnan(psnr) else f"{psnr:.2f}"]
        both += [] if np.isnan(ms_ssim) else [f"{ms_ssim:.2f}"]
        cells.append(", ".join(both) if both != ["–"] else "")
    return cells


def value_at(rates: Sequence[float] | pd.Series, curve: pd.DataFrame, metric: str) -> np.ndarray:
    """What a curve has at some rates (bits per pixel), interpolated in the logarithm of the rate;
    NaN outside of it."""
    points = curve.dropna(subset=[metric]).sort_values("bpp")
    if points.empty:
        return np.full(len(rates), np.nan)
    return np.interp(np.log(rates), np.log(points.bpp), points[metric], left=np.nan, right=np.nan)


def point(row: pd.Series) -> str:
    return f"{row.bpp:.3f}: {row.psnr:.2f}, {row.ms_ssim_db:.2f}"


def beside_ours(measured: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The curves of other codecs, measured and published."""
    others = curves.codecs()
    others = others[others.codec.isin(BESIDE)]
    published = {f"{codec} (published)": curve for codec, curve in others.groupby("codec")}
    return dict(list(measured.groupby("codec"))) | published


def at_rates(ours: pd.DataFrame, beside: Mapping[str, pd.DataFrame] | None = None) -> str:
    """PSNR and MS-SSIM of every model and of other codecs at some rates, whole images."""
    found = {}
    for (*key, kind, steps), curve in ours.groupby([*NAMED, "kind", "effort"]):
        name = f"λ = {', '.join(named(key))}, {kind}"
        name += f", effort {steps:g}" if steps else ""
        found[name] = results.trained(curve)
    found |= wavelet(ours) | (beside or {})
    rows = [(CALLED.get(name, name), *interpolated(curve)) for name, curve in found.items()]
    return markdown.table(
        ("levels or codec", *AT_RATES),
        [row for row in rows if any(row[1:])],
        note="PSNR and MS-SSIM (dB), interpolated between the points of each curve of means, in "
        "the logarithm of the rate, as are the bit savings; empty outside of it.",
    )


def wavelet(ours: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The curve of the wavelet model, which has no lambda, if there is one."""
    curve = ours[ours.kind == "wavelet"]
    return {"ours, wavelet, one file": curve} if len(curve) else {}


def summary(ours: pd.DataFrame, beside: Mapping[str, pd.DataFrame]) -> str:
    """PSNR of the wavelet model, of the paper's of the middle lambda, and of other codecs."""
    middle = ours[(ours["lambda"] == 0.1) & (ours.range_low == 0)]
    found = wavelet(ours) | {
        f"ours, {kind}, one file": middle[middle.kind == kind]
        for kind in ("planes", "channels")
        if (middle.kind == kind).any()
    }
    found |= {says: beside[codec] for codec, says in SUMMARY.items() if codec in beside}
    rows = []
    for name, curve in found.items():
        values = value_at(RATES, curve, "psnr")
        rows.append((name, *("" if np.isnan(value) else f"{value:.2f}" for value in values)))
    return markdown.table(("PSNR in dB at", *AT_RATES), rows)


def effort(plain: pd.DataFrame, fitted: pd.DataFrame, deltas: pd.DataFrame) -> str:
    """What fitting latents to their images brings: at p = 1, and over the whole curves."""
    whole, fitted_whole = (
        table[(table.kind == "channels") & (table.p == 1)].set_index(index).sort_index()
        for table, index in ((plain, NAMED), (fitted, [*NAMED, "effort"]))
    )
    against = deltas.set_index([*NAMED, "effort", "kind", "protocol", "against"]).sort_index()
    rows = []
    for (*key, steps), end in fitted_whole.iterrows():
        compared = (
            (*key, steps, "channels", "native", bd.WITHOUT_EFFORT),
            (*key, steps, "planes", "native", bd.WITHOUT_EFFORT),
            (*key, steps, "channels", "reference", "ProgDTD (published)"),
        )
        rows.append(
            (
                *named(key),
                f"{steps:g}",
                point(whole.loc[tuple(key)]) if tuple(key) in whole.index else "",
                point(end),
                *(difference(against.loc[row]) if row in against.index else "" for row in compared),
            )
        )
    return table(
        ("effort", "p = 1 without", "p = 1 with", "channels", "planes", "against the published"),
        rows,
        "Bits per pixel, PSNR and MS-SSIM (dB) of whole images; BD-rate and BD-PSNR of effort "
        "against none, levels of channels and of planes, and against the published curve of the "
        "same model, with the published protocol; empty where rates do not overlap, or where "
        "nothing was measured.",
    )


def differences(plain: pd.DataFrame, fitted: pd.DataFrame) -> str:
    """The least and the most that effort brings at one rate, over all models of a kind."""
    lines = []
    for kind, part in fitted.groupby("kind"):
        found = []
        for (*key, _), curve in part.groupby([*NAMED, "effort"]):
            before = plain[(plain[[*NAMED, "kind"]] == [*key, kind]).all(axis=1)]
            points = results.trained(curve)
            more = points.psnr - value_at(points.bpp, results.trained(before), "psnr")
            found += more.dropna().tolist()
        if found:
            lines.append(
                f"At the rates of their levels, {kind} with effort have from {min(found):+.3f} to "
                f"{max(found):+.3f} dB more than without."
            )
    return "\n".join(lines)


def difference(row: pd.Series) -> str:
    return "" if pd.isna(row.bd_psnr) else f"{row.bd_rate:+.1f} %, {row.bd_psnr:+.2f} dB"


def kinds(ours: pd.DataFrame) -> str:
    """Levels of planes beside those of channels of the same weights, whole images."""
    rows, least = [], ""
    ahead: dict[str, list[float]] = {"psnr": [], "ms_ssim_db": []}
    for key, both in ours.groupby(NAMED):
        found = dict(list(both.groupby("kind")))
        if len(found) < 2:
            continue
        channels, planes = results.trained(found["channels"]), found["planes"]
        full = channels.bpp.max()
        cells, parts = [f"{planes.bpp.max() / full - 1:+.2%}"], (full / 4, full / 2)
        at_parts = (value_at(parts, curve, "psnr") for curve in (channels, planes))
        for there, here in zip(*at_parts, strict=True):
            cells.append(f"{here:.2f}" + ("" if np.isnan(there) else f", {here - there:+.2f}"))
        rows.append((*named(key), *cells))
        for metric, differences in ahead.items():
            more = value_at(channels.bpp, planes, metric) - channels[metric]
            differences += more.dropna().tolist()
    if ahead["psnr"]:
        least = (
            " At the rates of those of their levels that planes reach too, planes have from "
            "{:+z.3f} to {:+z.3f} dB more, and in MS-SSIM from {:+z.3f} to {:+z.3f} dB."
        ).format(*(limit(values) for values in ahead.values() for limit in (min, max)))
    return table(
        ("whole stream, planes over channels", "at 1/4", "at 1/2"),
        rows,
        "PSNR (dB) of planes at a quarter and at half of the rate of all channels, and how much "
        "more it is than theirs, where they have a level within the range of p." + least,
    )


def comparison(deltas: pd.DataFrame) -> str:
    """BD-rate of every model against other codecs."""
    columns = [name for name in AGAINST if name in set(deltas.against)]
    rows = []
    for (*key, kind), part in deltas.groupby([*NAMED, "kind"]):
        rates = part.set_index("against").bd_rate
        cells = ("" if pd.isna(rates.get(name)) else f"{rates[name]:+.0f} %" for name in columns)
        rows.append((*named(key), kind, *cells))
    header = ("λ", "range of p", "levels", *(CALLED.get(name, name) for name in columns))
    return markdown.table(
        header,
        rows,
        "rllr",
        "BD-rate: bits for the same PSNR, relative to the other codec; negative is better. Against "
        "the published ProgDTD with its own protocol, against the others on whole images. The "
        "progressive JPEG is of quality 75; JPEG 2000 is counted without the markers that no "
        "decoder needs, packet lengths and comment.",
    )


if __name__ == "__main__":
    command.run(main)
