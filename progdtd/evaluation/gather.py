"""Which results are compared: those of this machine or kept from earlier, and the published."""

import glob
import logging
from collections.abc import Iterable
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
    """Returns the published curves of ProgDTD and of other codecs that can be compared with ours.

    Raises:
        UserError: a codec asked for has no published curve.
    """
    published, others = curves.progdtd(), curves.codecs()
    wanted = [*map(str, listed(cfg.codecs))]
    if unknown := ", ".join(sorted({*wanted} - {*others.codec})):
        known = ", ".join(sorted({*others.codec}))
        raise UserError(f"codecs: no published curve of {unknown}; there are {known}.")
    comparable = cfg.images == "kodak"
    if comparable and len(some := ours.images[ours.images != curves.IMAGES].unique()):
        text = "Published curves are of all %d images of Kodak, and results here of %s: left out."
        log.warning(text, curves.IMAGES, ", ".join(map(str, sorted(some))))
        comparable = False
    shown = published if comparable and cfg.published else published.iloc[:0]
    return shown, others[others.codec.isin(wanted) & comparable]


def gather(cfg: DictConfig, chosen: set[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the means of models and of measured codecs: of this machine, or kept from earlier.

    Args:
        cfg: the configuration.
        chosen: those of its options that were asked for, rather than left as they are.

    Raises:
        UserError: there are no results to draw.
    """
    patterns = [*map(str, listed(cfg.runs))]
    where = ", ".join(patterns)
    runs = [run for pattern in patterns for run in matching(pattern)]
    named = f"{glob.escape(cfg.images)}_*.csv"
    tables = [table for run in runs for table in sorted((run / "evaluation").glob(named))]
    measured = results.read(tables)
    warn_of_stale(tables)
    measured = measured[measured.dataset == cfg.images]
    if measured.empty:
        elsewhere = cfg.results and ("runs" not in chosen or "results" in chosen)
        earlier = kept(cfg)
        if not elsewhere or earlier.empty:
            nor = f", nor in {cfg.results}" if elsewhere else ""
            raise UserError(
                f"No results for {cfg.images} under {where}{nor}: make some with `python -m "
                "progdtd.evaluate run=<run>`, or set runs= and images=."
            )
        text = "No run under %s has results for %s: drawing those in %s."
        log.info(text, where, cfg.images, cfg.results)
        return earlier[earlier.model.notna()], earlier[earlier.model.isna()]
    ours = results.aggregate(measured)
    codecs = results.read(matching(cfg.baselines) if cfg.baselines else [])
    codecs = codecs[codecs.dataset == cfg.images]
    if other := results.of_other_images(pd.concat([measured, codecs])):
        text = "Not of the same images as the rest, so not to be compared with it: %s."
        log.warning(text, "; ".join(other))
    if codecs.empty and "baselines" not in chosen:
        earlier = kept(cfg)
        earlier = earlier[earlier.model.isna() & (earlier.images == ours.images.max())]
        if len(earlier):
            log.info("No other codecs were measured here: drawing those in %s.", cfg.results)
        return ours, earlier
    means = results.aggregate(codecs)
    codecs = results.of_all_images(means)
    for codec, left_out in means.drop(codecs.index).groupby("codec"):
        text = "%s is left out at p = %s, where not all images have a level."
        log.warning(text, codec, ", ".join(f"{p:g}" for p in left_out.p))
    return ours, codecs


def kept(cfg: DictConfig) -> pd.DataFrame:
    """Returns the results of these images that `results=` keeps, if there are any."""
    path = Path(cfg.results or "")
    table = results.read_means(path) if path.is_file() else results.aggregate(results.read([]))
    return table[table.dataset == cfg.images]


def warn_of_stale(tables: Iterable[Path]) -> None:
    """Warn of tables of other weights than those that lie beside them now, or of a checkpoint."""
    for table in tables:
        directory, of = table.parent.parent, results.record(table)
        if weights_in(directory) not in (None, directory / WEIGHTS):
            log.warning("%s is of a run that is not finished: evaluate it again when it is.", table)
        now = model_store.fingerprint_in(directory)
        if now and of.get("fingerprint", now) != now:
            text = "%s is of other weights than those of its run now: evaluate it again."
            log.warning(text, table)
