"""The results table: one row per image and level, the same columns for every codec."""

import contextlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from progdtd.errors import UserError
from progdtd.files import write_aside

log = logging.getLogger(__name__)

COLUMNS = [
    "codec", "model", "drop", "range_low", "range_high", "lambda", "seed", "run", "kind", "effort",
    "protocol", "dataset", "image", "width", "height", "p", "latent_channels", "hyper_channels",
    "bytes", "bpp", "bpp_estimated", "psnr", "ms_ssim", "ms_ssim_db", "ssim", "encode_s",
    "decode_s",
]  # fmt: skip
"""`kind` says what the levels are, `channels`, `planes` or `wavelet`: p is a fraction of the
channels, or for the other two of the stream's bytes. A wavelet model is measured at the paper's 16
fractions and at `subjects.LOW`, from 0.0025 on, since its stream goes on to high rates. `effort` is
the number of steps in which each latent was fitted to its image. `bytes` counts a real stream and
is empty where there is none; `bpp` comes from `bytes` where there are any and from the estimate
elsewhere, `bpp_estimated`, which only channels have; times are seconds; `ms_ssim_db` is in dB."""

MODEL = COLUMNS[: COLUMNS.index("protocol")]
"""What names a model and how it was used, or another codec, which has but a name."""

IDENTITY = COLUMNS[: COLUMNS.index("image")]
"""What names a rate-distortion curve."""

NUMBERS = dict.fromkeys(("range_low", "range_high", "lambda", "seed", "effort"), float)
"""Of these, 1 and 1.0 are the same model."""

NAMES = ("codec", "model", "drop", "run", "kind", "protocol", "dataset", "image")
"""Columns of text, whatever it looks like."""

CONTROLS = ("latent_only", "hyper_only", "none")
"""Tail drops that are not double: what the double one is compared with."""

LEVEL = [*IDENTITY, "p", "latent_channels", "hyper_channels"]
"""What names a point of a rate-distortion curve."""

MEANS = [column for column in COLUMNS if column not in (*LEVEL, "image", "width", "height")]
"""What is averaged over images."""


def write(rows: Iterable[dict], path: Path) -> pd.DataFrame:
    """Write rows as CSV in the order of `COLUMNS`, aside and then renamed.

    Raises:
        UserError: it cannot be written.
    """
    table = pd.DataFrame(list(rows)).reindex(columns=COLUMNS)
    write_aside(path, lambda aside: table.to_csv(aside, index=False))
    return table


def set_aside(path: Path, table: pd.DataFrame, sizes: Mapping[str, int]) -> None:
    """Rename a table that is going to be written anew without some of its points, hours of work
    perhaps, to the first free `<name>.before-1`, `-2`, ...

    Args:
        sizes: of the image files, as `of_other_files` takes them.
    """
    if not path.is_file():
        return
    try:
        old = points(read([path]))
    except UserError:
        return
    other = of_other_files(path, sizes, table)
    lost = old if other else old - points(table)
    if lost:
        names = (path.with_name(f"{path.name}.before-{n}") for n in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        path.replace(aside)
        log.warning("The new %s lacks %d of the %d points (image and level) of the old one, which "
                    "is kept as %s.%s", path, len(lost), len(old), aside,
                    " They are of other images of the same names." if other else "")  # fmt: skip


def of_other_files(path: Path, sizes: Mapping[str, int], table: pd.DataFrame) -> bool:
    """Whether what is at `path` is of other images than those of the same names in a new table.

    Args:
        path: of a table; the JSON beside it says of which images it is, by their sizes.
        sizes: bytes of the image files now, by the names that tables call them.
        table: the new one.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        before = json.loads(path.with_suffix(".json").read_text())["sizes"]
        return any(before.get(name, sizes[name]) != sizes[name] for name in set(table.image))
    return False


def points(table: pd.DataFrame) -> set[tuple]:
    """What a table has a row for: codec, image and level."""
    return {*zip(table.codec, table.image.astype(str), table.p.astype(float), strict=True)}


def read(paths: Iterable[Path]) -> pd.DataFrame:
    """Read per-image results CSVs into one table, each once. If runs in two groups share a name,
    the second is called `<group>/<name>`.

    Raises:
        UserError: a file is not a results table, or has rows twice, or two of them are of runs that
            nothing in the table tells apart; the message names them.
    """
    tables: list[pd.DataFrame] = []
    origin: dict[tuple, Path] = {}
    homes: dict[str, Path] = {}
    for real, path in {path.resolve(): path for path in paths}.items():
        try:
            table = _read(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as CSV ({error}).") from error
        missing = [column for column in COLUMNS if column not in table]
        if missing:
            raise UserError(
                f"{path} is not a results table: it lacks {', '.join(missing)}. One of an earlier "
                "version has to be measured again: delete it first."
            )
        home = real.parent.parent
        if real.parent.name == "evaluation":  # of a run, whose directory may have been renamed
            table["run"] = table["run"].where(table["run"].isna(), home.name)
        taken = {n for n in table["run"].dropna().unique() if homes.setdefault(n, home) != home}
        table["run"] = table["run"].replace({n: f"{home.parent.name}/{n}" for n in taken})
        try:
            texts = [
                name
                for name in COLUMNS
                if name not in NAMES and not pd.api.types.is_numeric_dtype(table[name])
            ]
            table = table.astype(dict.fromkeys(texts, float))
            named = table[IDENTITY].astype(NUMBERS).drop_duplicates().astype(str)
        except ValueError as error:
            raise UserError(f"{path} is not a results table ({error}).") from error
        if table.duplicated([*LEVEL, "image"]).any():
            raise UserError(f"{path} has several rows of one image and level: delete one of them.")
        for key in map(tuple, named.to_numpy()):
            if origin.setdefault(key, path) is not path:
                raise UserError(
                    f"{origin[key]} and {path} are results of runs of the same name: choose one of "
                    "them (runs=...), or rename a run's directory."
                )
        tables.append(table[COLUMNS])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def read_means(path: Path) -> pd.DataFrame:
    """Read a table of means that `progdtd.figures` wrote.

    Raises:
        UserError: the file is none.
    """
    try:
        table = _read(path)
        return table[[*LEVEL, *MEANS, "images"]]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a table that progdtd.figures wrote ({error}).") from error


def _read(path: Path) -> pd.DataFrame:
    """What was written: numbers to the last digit, names also where they look like numbers."""
    return pd.read_csv(path, float_precision="round_trip", dtype=dict.fromkeys(NAMES, str),
                       keep_default_na=False, na_values=[""])  # fmt: skip


def trained(curve: pd.DataFrame) -> pd.DataFrame:
    """The points of models within the range of p that they were trained for; of planes all."""
    within = curve.p.between(curve.range_low, curve.range_high)
    return curve[within | (curve.kind == "planes")]


def spelled(key: Iterable) -> str:
    """What names a curve, as a message says it."""
    return " ".join(part for part in map(str, key) if part != "nan")


def of_other_images(table: pd.DataFrame) -> list[str]:
    """The curves that are of other images than most: their means cannot be compared with those."""
    images = {
        spelled(key): frozenset(curve["image"])
        for key, curve in table.groupby([*IDENTITY], dropna=False)
    }
    usual = Counter(images.values()).most_common(1)
    return [f"{name} ({len(of)} images)" for name, of in images.items() if of != usual[0][0]]


def controls(table: pd.DataFrame) -> pd.DataFrame:
    """The models over the whole range of p, or without any, of lambdas that were also trained with
    another tail drop than the double one."""
    other = table["drop"].isin(CONTROLS)
    low = table.range_low.where(table["drop"] != "none", 0.0)
    return table[table["lambda"].isin(table[other]["lambda"]) & (low == 0)]


def aggregate(table: pd.DataFrame) -> pd.DataFrame:
    """Average per-image values (dB included) over the images of each level, with their number. What
    some of them lack, such as the MS-SSIM of small images, has no mean: it would be one of others
    than that of the rate.
    """
    levels = table.astype(NUMBERS).groupby(LEVEL, dropna=False, sort=True)
    images = levels["image"].nunique()
    means = levels[MEANS].mean().where(levels[MEANS].count().eq(images, axis=0))
    return means.assign(images=images).reset_index()


def of_all_images(means: pd.DataFrame) -> pd.DataFrame:
    """The levels of each curve that are means over as many images as any of its levels: of small
    images, the shortest prefixes of some codecs cannot be decoded."""
    most = means.groupby(IDENTITY, dropna=False)["images"].transform("max")
    return means[means.images == most]
