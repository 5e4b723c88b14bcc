"""The results table: one row per image and level, the same columns for every codec."""

import contextlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from progdtd.errors import UserError
from progdtd.files import write_aside

log = logging.getLogger(__name__)

MODEL = ["codec", "model", "drop", "range_low", "range_high", "lambda", "seed"]
MODEL += ["run", "kind", "effort"]
"""What names a model and how it was used, or another codec, which has only a name. `kind` says what
the levels are, `channels`, `planes` or `wavelet`; `effort` is the number of steps in which each
latent was fitted to its image."""

IDENTITY = [*MODEL, "protocol", "dataset"]
"""What names a rate-distortion curve."""

CHANNELS_KNOWN = ["latent_channels", "hyper_channels"]

LEVEL = [*IDENTITY, "p", *CHANNELS_KNOWN]
"""What names a point of a rate-distortion curve. `p` is a fraction of the channels, or for planes
and wavelet models of the stream's bytes. A wavelet model is measured at the paper's 16 fractions
and at `subjects.LOW`, from 0.0025 on, since its stream goes on to high rates."""

MEANS = ["bytes", "bpp", "bpp_estimated", "psnr", "ms_ssim", "ms_ssim_db", "ssim"]
MEANS += ["encode_s", "decode_s"]
"""What is averaged over images. `bytes` counts a real stream and is empty where there is none;
`bpp` comes from `bytes` where there are any and else from the estimate, `bpp_estimated`, which only
channels have; times are seconds; `ms_ssim_db` is in dB."""

COLUMNS = [*IDENTITY, "image", "width", "height", "p", *CHANNELS_KNOWN, *MEANS]

NAMES = ("codec", "model", "drop", "run", "kind", "protocol", "dataset", "image")
"""Columns of text, also where it looks like numbers."""

NUMBERS = ("range_low", "range_high", "lambda", "seed", "effort")
"""What of `MODEL` is a number, of which 1 and 1.0 are the same."""

CONTROLS = ("latent_only", "hyper_only", "none")
"""Tail drops that are not double: what the double one is compared with."""


def write(rows: Iterable[dict], path: Path) -> pd.DataFrame:
    """Write rows as CSV in the order of `COLUMNS`, aside and then renamed.

    Raises:
        UserError: it cannot be written.
    """
    table = pd.DataFrame(list(rows)).reindex(columns=COLUMNS)
    write_aside(path, lambda aside: table.to_csv(aside, index=False))
    return table


def replace(path: Path, rows: list[dict], images: str) -> pd.DataFrame:
    """Write rows over the table at a path, in which rows of other codecs stay.

    If the old table is of other images or has points that the new one lacks, hours of work perhaps,
    it is first renamed to the first free `<name>.before-1`, `-2`, ...

    Args:
        images: their digest; `record` has that of the old table.

    Raises:
        UserError: it cannot be written.
    """
    old = read([])
    with contextlib.suppress(UserError):
        old = read([path] if path.is_file() else [])
    other = record(path).get("images", images) != images
    if not other:
        codecs = {row["codec"] for row in rows}
        rows = [*old[~old.codec.isin(codecs)].to_dict("records"), *rows]
    if len(old) and (other or points(old) - points(pd.DataFrame(rows))):
        names = (path.with_name(f"{path.name}.before-{n}") for n in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        path.replace(aside)
        log.warning("The old %s had other images or levels, and is kept as %s.", path, aside)
    return write(rows, path)


def points(table: pd.DataFrame) -> set[tuple]:
    """Returns what a table has a row for: codec, image and level."""
    return {*zip(table.codec, table.image.astype(str), table.p.astype(float), strict=True)}


def record(table: Path) -> dict[str, Any]:
    """Returns what the JSON beside a table says of it: nothing without one."""
    with contextlib.suppress(OSError, ValueError):
        said = json.loads(table.with_suffix(".json").read_text())
        return said if isinstance(said, dict) else {}
    return {}


def read(paths: Iterable[Path]) -> pd.DataFrame:
    """Read per-image results CSVs into one table, each once. If runs in two groups share a name,
    the second is called `<group>/<name>`.

    Raises:
        UserError: a file is not a results table, or several rows are of one image and level, as of
            two runs that nothing in the table tells apart; the message names the files.
    """
    tables = [pd.DataFrame(columns=[*COLUMNS, "path"])]
    homes: dict[str, Path] = {}
    for real, path in {path.resolve(): path for path in paths}.items():
        table = _read(path, COLUMNS).assign(path=str(path))
        if real.parent.name == "evaluation":  # its run's directory may have been renamed
            home = real.parent.parent
            alone = homes.setdefault(home.name, home) == home
            table["run"] = home.name if alone else f"{home.parent.name}/{home.name}"
        tables.append(table)
    whole = pd.concat(tables[1:] or tables, ignore_index=True)
    twice = whole[whole.duplicated([*LEVEL, "image"], keep=False)]
    if len(twice):
        raise UserError(
            f"{' and '.join(twice.path.unique())}: several rows are of one image and level. If two "
            "runs have the same name, choose one (runs=...) or rename a directory; else delete one "
            "of the rows."
        )
    return whole[COLUMNS]


def read_means(path: Path) -> pd.DataFrame:
    """Read a table of means that `progdtd.figures` wrote.

    Raises:
        UserError: the file is something else.
    """
    return _read(path, [*LEVEL, *MEANS, "images"])


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read what was written: numbers to the last digit, and names as text."""
    try:
        table = pd.read_csv(
            path,
            usecols=columns,
            dtype=dict.fromkeys(NAMES, str),
            float_precision="round_trip",
            keep_default_na=False,
            na_values=[""],
        )[columns]
        texts = table.drop(columns=[*NAMES], errors="ignore").select_dtypes(exclude="number")
        return table.astype(dict.fromkeys(texts, float))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a results table ({error}). One of an earlier version has to be "
            "measured again: delete it first."
        ) from error


def trained(curve: pd.DataFrame) -> pd.DataFrame:
    """Returns the points within the range of p that a model was trained for; of planes all."""
    within = curve.p.between(curve.range_low, curve.range_high)
    return curve[within | (curve.kind == "planes")]


def spelled(key: Iterable) -> str:
    """Returns what names a curve, as a message says it."""
    return " ".join(part for part in map(str, key) if part != "nan")


def of_other_images(table: pd.DataFrame) -> list[str]:
    """Returns the curves that are of other images than most: their means cannot be compared."""
    images = {
        spelled(key): frozenset(curve["image"])
        for key, curve in table.groupby(IDENTITY, dropna=False)
    }
    usual = Counter(images.values()).most_common(1)
    return [f"{name} ({len(of)} images)" for name, of in images.items() if of != usual[0][0]]


def controls(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the models over the whole range of p, or without any, of lambdas that were also
    trained with another tail drop than the double one."""
    other = table["drop"].isin(CONTROLS)
    low = table.range_low.where(table["drop"] != "none", 0.0)
    return table[table["lambda"].isin(table[other]["lambda"]) & (low == 0)]


def aggregate(table: pd.DataFrame) -> pd.DataFrame:
    """Average per-image values (dB included) over the images of each level, and count these.

    What some images lack, such as the MS-SSIM of small ones, has no mean: it would be one of other
    images than that of the rate.
    """
    levels = table.astype(dict.fromkeys(NUMBERS, float)).groupby(LEVEL, dropna=False)
    images = levels["image"].nunique()
    means = levels[MEANS].mean().where(levels[MEANS].count().eq(images, axis=0))
    return means.assign(images=images).reset_index()


def of_all_images(means: pd.DataFrame) -> pd.DataFrame:
    """Returns the levels of each curve that are means over as many images as any of its levels: of
    small images, the shortest prefixes of some codecs cannot be decoded."""
    most = means.groupby(IDENTITY, dropna=False)["images"].transform("max")
    return means[means.images == most]
