"""Rate-distortion figures and BD tables: `python -m progdtd.figures`; see `--help`."""

import logging
import os
import sys
from pathlib import Path

from progdtd.errors import NOT_INSTALLED, UserError

try:
    import pandas as pd
except ModuleNotFoundError as error:
    sys.exit(NOT_INSTALLED.format(error.name))

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from progdtd.evaluation import bd, charts, curves, gather, results
from progdtd.experiment.words import command
from progdtd.files import require_folder, write_aside

log = logging.getLogger(__name__)

STRIP_LEVELS = (0.05, 0.1, 0.2, 0.4, 1.0)
"""Fractions p of a stream on a strip."""


@command("figures")
def main(cfg: DictConfig) -> None:
    if not isinstance(cfg.published, bool):
        raise UserError(f"published={cfg.published} must be true or false.")
    cfg.images = str(cfg.images)  # a folder may be called 2020
    chosen = {word.partition("=")[0] for word in HydraConfig.get().overrides.task}
    ours, baselines = gather.gather(cfg, chosen)
    published, others = gather.published_curves(cfg, ours)

    named = f"{cfg.images[:1].upper()}{cfg.images[1:]}"
    if {*(counts := ours.images.unique())} != {curves.IMAGES}:
        named += f" ({' or '.join(map(str, sorted(counts)))} images)"
    require_folder(out := Path(str(cfg.out)))
    means = pd.concat([table for table in (ours, baselines) if len(table)])
    write_aside(out / "results.csv", lambda aside: means.to_csv(aside, index=False))
    written = [out / "results.csv"]
    if cfg.strip.run:
        written += draw_strip(cfg.strip, out)
    for protocol, part in ours.groupby("protocol"):
        whole_images, left = slice(None if protocol == "native" else 0), part
        for suffix, curves_of, beside in charts.panels(part):
            left = left.drop(curves_of.index, errors="ignore")
            theirs = published if beside else published.iloc[:0]
            codecs = baselines[whole_images], others[whole_images]
            title = f"{named}, {charts.TITLES[str(protocol)]}"
            figure = charts.rate_distortion(curves_of, theirs, *codecs, title)
            written += charts.save(figure, out / f"rate_distortion_{protocol}{suffix}")
        for key, _ in left.groupby(results.MODEL, dropna=False):
            log.warning("In no figure of %s, but in the tables: %s", protocol, results.spelled(key))
    deltas = bd.compare(ours, published, baselines, others)
    written += bd.write(deltas, out)
    for path in written:
        log.info("%s", os.path.relpath(path))


def draw_strip(cfg: DictConfig, out: Path) -> list[Path]:
    """One image as decoded at several levels, beside the original, as JPEG of high quality."""
    from progdtd.codec import Codec
    from progdtd.codec.contact_sheet import contact_sheet
    from progdtd.evaluation.evaluator import HELD_OUT, find_held_out
    from progdtd.images import read_image, readable

    codec = Codec.load(cfg.run)
    path = find_held_out(Path(cfg.run))[1][0] if cfg.image == HELD_OUT else Path(cfg.image)
    with readable(f"strip.image={path}"):
        picture = read_image(path)
    stream = codec.encode(picture)
    levels = {codec.decoder().level_at(p, stream) for p in STRIP_LEVELS}
    drawn = out / f"strip_{path.stem}.jpg"
    figure = contact_sheet(codec, stream, picture, levels)
    figure.savefig(drawn, bbox_inches="tight", pil_kwargs={"quality": 90, "subsampling": 0})
    return [drawn]


if __name__ == "__main__":
    main()
