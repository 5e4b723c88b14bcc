"""Classical codecs for comparison, with real bytes: `python -m progdtd.baselines`; see `--help`."""

import logging
import sys
from pathlib import Path

from progdtd.errors import NOT_INSTALLED, UserError

try:
    from omegaconf import DictConfig
except ModuleNotFoundError as error:
    sys.exit(NOT_INSTALLED.format(error.name))

from progdtd.evaluation import classical, results
from progdtd.experiment.words import command
from progdtd.files import require_folder, write_json
from progdtd.options import listed

log = logging.getLogger(__name__)


@command("baselines")
def main(cfg: DictConfig) -> None:
    from tqdm import tqdm

    from progdtd import data
    from progdtd.evaluation.evaluator import find_images
    from progdtd.images import pictures

    codecs = classical.available([*map(str, listed(cfg.codecs))] or list(classical.CODECS))
    dataset, paths = find_images(str(cfg.images))
    target = Path(str(cfg.out), f"{dataset}_native.csv")
    results.read([target] if target.exists() else [])  # refused before anything is measured
    require_folder(target.parent)
    rows: list[dict] = []
    bar = tqdm(paths, "baselines", unit="image", disable=None, dynamic_ncols=True)
    called = dict(zip(paths, data.names(paths), strict=True))
    for path, picture in pictures(bar):
        for codec in codecs:
            try:
                measured = list(classical.measure(codec, picture))
            except (OSError, ValueError) as error:
                log.warning("%s cannot code %s: %s", codec.name, called[path], error)
                continue
            rows += [row | {"image": called[path], "dataset": dataset} for row in measured]
    if not rows:
        raise UserError(f"None of the {len(paths)} images of {cfg.images} can be read.")
    images = data.digest(paths)
    table = results.replace(target, rows, images)
    write_json(target.with_suffix(".json"), {"dataset": dataset, "images": images})
    columns = ["bpp", "psnr", "ms_ssim_db"]
    log.info("%s", table.groupby(["codec", "p"])[columns].mean().round(3).to_string())
    log.info("%s", target)


if __name__ == "__main__":
    main()
