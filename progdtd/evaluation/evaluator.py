"""Rows of results for a model over a folder of images."""

import contextlib
import glob
import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from progdtd import data
from progdtd.codec.container import PLANES
from progdtd.errors import UserError
from progdtd.evaluation import results
from progdtd.evaluation.subjects import Choices, Way, open_subject
from progdtd.experiment import run
from progdtd.files import require_folder, write_json
from progdtd.images import pictures
from progdtd.machine import keep_freed_memory

log = logging.getLogger(__name__)

HELD_OUT = "held_out"

CURVE = {"p": "p", "bpp": "bpp", "psnr-rgb": "psnr", "ms-ssim-rgb": "ms_ssim"}
"""CompressAI's names of the columns of a curve."""


def evaluate(path: Path, images: str, chosen: Choices) -> list[Path]:
    """Evaluate one model and write its tables beside it, unless they are there: of these weights,
    images and options, by this code. Tables of another effort stay.

    Args:
        path: a run directory or anything else that `weights.load_model` takes.
        images: a folder, or `held_out` for the images that the run was not trained on.
        chosen: what is measured.

    Returns:
        the CSV files, one for each protocol and kind.

    Raises:
        UserError: model or images cannot be read, effort is refused, or tables cannot be written.
    """
    keep_freed_memory()
    subject = open_subject(path, chosen)
    dataset, paths = find_held_out(path) if images == HELD_OUT else find_images(images)
    of: dict[str, Any] = {"fingerprint": subject.fingerprint}
    of |= {"dataset": dataset, "images": data.digest(paths)}
    directory = directory_of(path)
    code = run.provenance() | {"host": None, "cores": None}  # it may go on elsewhere
    what = [of, subject.digest, asdict(chosen) | {"levels": [*subject.levels]}, code]
    evaluation = sha256(json.dumps(what).encode()).hexdigest()[:12]
    if written := finished(directory, dataset, evaluation):
        text = "%s was evaluated so before, and is not again; delete a table to measure anew: %s"
        log.info(text, path, ", ".join(map(str, written)))
        return written
    require_folder(directory)
    ways = subject.ways()
    if chosen.device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = False  # a GPU's numbers are to be those of a CPU
        for way in ways:  # the first picture waits for CUDA's libraries
            list(way(np.zeros((512, 768, 3), np.uint8), subject.levels))
    unfinished = directory / f"{dataset}_unfinished-{evaluation}.jsonl"
    rows = list(measure(ways, paths, subject.levels, str(path), unfinished))
    if not rows:
        raise UserError(f"None of the {len(paths)} images of {images} can be read.")
    name = directory.resolve().parent.name
    made = subject.identity | {"dataset": dataset, "run": name, "effort": chosen.effort}
    table = pd.DataFrame(row | made for row in rows)
    if small := table[table.ms_ssim.isna()].image.nunique():
        log.warning("%d images have no MS-SSIM, which takes sides of more than 160 pixels.", small)
    if table.image.nunique() == len(paths):
        of["evaluation"] = evaluation
    written = write_tables(table, directory, of)
    unfinished.unlink(missing_ok=True)
    return written


def finished(directory: Path, dataset: str, evaluation: str) -> list[Path]:
    """Returns the tables that an evaluation has written, if they are all still its own."""
    tables = sorted(directory.glob(f"{glob.escape(dataset)}_*.csv"))
    found = [table for table in tables if results.record(table).get("evaluation") == evaluation]
    return found if found and len(found) == results.record(found[0])["tables"] else []


def write_tables(table: pd.DataFrame, directory: Path, of: dict[str, Any]) -> list[Path]:
    """Write a CSV and a JSON for each protocol, kind and effort; say their means.

    Args:
        of: what names the weights, the images and the evaluation.
    """
    parts = table.groupby(["protocol", "kind", "effort"])
    of, written = of | {"tables": len(parts)}, []
    for (protocol, kind, effort), part in parts:
        planes = "_planes" if kind == PLANES else ""
        fitted = f"_effort-{effort}" if effort else ""
        csv = directory / f"{part.dataset.iloc[0]}_{protocol}{planes}{fitted}.csv"
        results.replace(csv, part.to_dict("records"), of["images"])
        mean = results.aggregate(results.read([csv]))
        write_json(csv.with_suffix(".json"), curve_of(mean, of))
        written.append(csv)
        columns = ["bpp", "psnr", "ms_ssim_db", "ssim"]
        log.info("%s\n%s", csv, mean.set_index("p")[columns].round(4).to_string())
    return written


def pick_device(device: str) -> str:
    """A device as torch names it, for one of these or `auto`."""
    best = "cuda" if torch.cuda.is_available() else "cpu"
    return best if device == "auto" else device


def measure(
    ways: Sequence[Way],
    paths: Sequence[Path],
    levels: Sequence[float],
    title: str,
    unfinished: Path = Path(os.devnull),
) -> Iterator[dict[str, Any]]:
    """Rows of every image, way to measure and level; images that cannot be read are named and
    skipped.

    Args:
        unfinished: a file that keeps, should the evaluation end before its last image, a line of
            JSON for each: its name and its rows. Those that are there come first.
    """
    called = dict(zip(paths, data.names(paths), strict=True))
    known = measured_before(unfinished)
    left = [path for path in paths if called[path] not in known]
    if done := len(paths) - len(left):
        log.info("%s: %d of %d images were measured before.", title, done, len(paths))
    yield from itertools.chain.from_iterable(known.values())
    bar = partial(tqdm, unit="image", disable=None, dynamic_ncols=True, initial=done)
    for path, picture in pictures(bar(left, title, len(paths))):
        rows = [row | {"image": called[path]} for way in ways for row in way(picture, levels)]
        line = json.dumps([called[path], rows], default=lambda number: number.item())
        with contextlib.suppress(OSError), unfinished.open("a") as file:  # if there is room
            file.write(f"\n{line}")  # after a line that may have been cut
        yield from rows


def measured_before(unfinished: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of an evaluation that did not end, by the names of the images."""
    known: dict[str, list[dict[str, Any]]] = {}
    with contextlib.suppress(OSError):
        for line in unfinished.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # of a line that was cut
                known.update([json.loads(line)])
    return known


def find_images(images: str) -> tuple[str, list[Path]]:
    """The name of a folder and its images.

    Raises:
        UserError: the folder does not exist or holds no image.
    """
    try:
        return Path(images).resolve().name, data.folder(images)
    except UserError as error:
        hint = " To get Kodak: python scripts/download_kodak.py" if "kodak" in images else ""
        raise UserError(f"{error}{hint}") from error


def find_held_out(directory: Path) -> tuple[str, list[Path]]:
    """The name of a run's dataset and the images of it that the run was not trained on.

    Raises:
        UserError: the directory is not a run's, or the run does not say which.
    """
    config = directory / run.CONFIG
    if not config.is_file():
        raise UserError(
            f"held_out is of a run, and {directory} has no {run.CONFIG}: name images instead."
        )
    held_out = [Path(path) for path in run.recorded(directory).get("held_out", [])]
    if not held_out:
        raise UserError(
            f"{directory} does not say which images it held out, as released models do not, or "
            "held out none: name images instead."
        )
    return f"{OmegaConf.load(config).dataset.name}-held-out", held_out


def directory_of(path: Path) -> Path:
    """Where results go: into the run's directory, and for weights from elsewhere to a folder of
    outputs/ that is named after them and, as others may have their name, after where they are."""
    if path.is_dir():
        return path / "evaluation"
    if (path.parent / run.CONFIG).exists():
        return path.parent / "evaluation"
    place = path.resolve()
    name = f"{place.parent.name}_{path.stem}_{sha256(str(place).encode()).hexdigest()[:6]}"
    return Path("outputs", "weights", name, "evaluation")


def curve_of(mean: pd.DataFrame, of: dict[str, Any]) -> dict[str, Any]:
    """The curve in the form that `python -m compressai.utils.plot` reads, and what it is of."""
    row = mean.iloc[0]
    effort = f", effort {row.effort:g}" if row.effort else ""
    bits = "estimated bits" if pd.isna(row.bytes) else "whole streams, prefixes of one file"
    whole = {name: column for name, column in CURVE.items() if mean[column].notna().all()}
    return {
        "name": f"{row.run}, {row.kind}{effort}",
        **of,
        "description": f"{row.dataset}, protocol {row.protocol}, {bits}",
        "results": {name: mean[column].tolist() for name, column in whole.items()},
    }
