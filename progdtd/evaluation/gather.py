"""Which results are compared: those of this machine or kept from earlier, and the published."""

import contextlib
import glob
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from progdtd.codec import model_store
from progdtd.errors import UserError
from progdtd.evaluation import curves, results
from progdtd.files import WEIGHTS, matching, weights_in
from progdtd.options import listed

log = logging.getLogger(__name__)


def published_curves(cfg: DictConfig, ours: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The published curves of ProgDTD and of the other codecs that can be compared with ours.

    Raises:
        UserError: no published curve of a codec asked for.
    """
    published, others = curves.progdtd(), curves.codecs()
    wanted = [*map(str, listed(cfg.codecs))]
    if unknown := set(wanted) - set(others.codec):
        raise UserError(f"codecs: no published curve of {', '.join(sorted(unknown))}; there are "
                        f"{', '.join(sorted(set(others.codec)))}.")  # fmt: skip
    others = others[others.codec.isin(wanted)]
    comparable = cfg.images == "kodak"
    if comparable and (some := ours.images[ours.images != curves.IMAGES].unique()).size:
        log.warning("Published curves are of all %d images of Kodak, and results here of %s: they "
                    "are left out.", curves.IMAGES, ", ".join(map(str, sorted(some))))  # fmt: skip
        comparable = False
    none = published.iloc[:0]
    return (published if comparable and cfg.published else none,
            others if comparable else others.iloc[:0])  # fmt: skip


def gather(cfg: DictConfig, chosen: set[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Aggregated results of models and of measured codecs: of this machine, or kept from earlier.

    Args:
        cfg: the configuration.
        chosen: those of its options that were asked for, rather than left as they are.

    Raises:
        UserError: there are none.
    """
    patterns = [*map(str, listed(cfg.runs))]
    tables = [*find(patterns, cfg.images)]
    measured = results.read(tables)
    warn_of_stale(tables, cfg.images)
    measured = measured[measured.dataset == cfg.images]
    if len(measured):
        ours = results.aggregate(measured)
        codecs = results.read(matching(cfg.baselines) if cfg.baselines else [])
        codecs = codecs[codecs.dataset == cfg.images]
        if other := results.of_other_images(pd.concat([measured, codecs])):
            log.warning("Not of the same images as the rest, so not to be compared with it: %s.",
                        "; ".join(other))  # fmt: skip
        if len(codecs) or "baselines" in chosen:
            means = results.aggregate(codecs)
            codecs = results.of_all_images(means)
            for codec, left_out in means.drop(codecs.index).groupby("codec"):
                log.warning("%s is left out at p = %s, where not all images have a level.", codec,
                            ", ".join(f"{p:g}" for p in left_out.p))  # fmt: skip
            return ours, codecs
        earlier = kept(cfg)
        earlier = earlier[earlier.model.isna() & (earlier.images == ours.images.max())]
        if len(earlier):
            log.info("No other codecs were measured here: drawing those in %s.", cfg.results)
        return ours, earlier
    elsewhere = "runs" not in chosen or "results" in chosen
    if not elsewhere or (earlier := kept(cfg)).empty:
        raise UserError(
            f"No results for {cfg.images} under {', '.join(patterns)}"
            f"{f', nor in {cfg.results}' if elsewhere and cfg.results else ''}: make some "
            "with `python -m progdtd.evaluate run=<run>`, or set runs= and images=."
        )
    log.info("No run under %s has results for %s: drawing those in %s.", ", ".join(patterns),
             cfg.images, cfg.results)  # fmt: skip
    return earlier[earlier.model.notna()], earlier[earlier.model.isna()]


def kept(cfg: DictConfig) -> pd.DataFrame:
    """The results that `results=` keeps of these images, if there are any."""
    path = Path(cfg.results or "")
    table = results.read_means(path) if path.is_file() else results.aggregate(results.read([]))
    return table[table.dataset == cfg.images]


def find(patterns: list[str], dataset: str) -> Iterator[Path]:
    """The results tables of a dataset in the runs that globs name."""
    for pattern in patterns:
        for directory in matching(pattern):
            yield from sorted((directory / "evaluation").glob(f"{glob.escape(dataset)}_*.csv"))


def warn_of_stale(tables: Iterable[Path], dataset: str) -> None:
    """Warn of tables of other weights than those that lie beside them now, or of a checkpoint, and
    of those of one dataset that are of images of other names or sizes in bytes."""
    first: dict[str, Path] = {}
    for table in tables:
        directory = table.parent.parent
        if weights_in(directory) not in (None, directory / WEIGHTS):
            log.warning("%s is of a run that is not finished: evaluate it again when it is.", table)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            measured = json.loads(table.with_suffix(".json").read_text())
            if model_store.fingerprint_in(directory) not in (None, measured["fingerprint"]):
                log.warning("%s is of other weights than those of its run now: evaluate it again.",
                            table)  # fmt: skip
            if measured["dataset"] == dataset:
                first.setdefault(measured["images"], table)
    if len(first) > 1:
        log.warning("Not of the same images, so not to be compared: %s.",
                    ", ".join(map(str, first.values())))  # fmt: skip
