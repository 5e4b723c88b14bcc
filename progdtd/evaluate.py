"""Evaluate models over p: `python -m progdtd.evaluate run=outputs/train/...`; see `--help`."""

import logging
import sys
import zipfile
from pathlib import Path
from typing import Any

from progdtd.errors import NOT_INSTALLED, UserError

try:
    from omegaconf import DictConfig
except ModuleNotFoundError as error:
    sys.exit(NOT_INSTALLED.format(error.name))


from progdtd.experiment.run import begun
from progdtd.experiment.words import command
from progdtd.files import MODEL, matching, weights_in
from progdtd.machine import loading
from progdtd.options import listed, number

log = logging.getLogger(__name__)


@command("evaluate")
def main(cfg: DictConfig) -> None:
    with loading():
        from progdtd.evaluation.evaluator import HELD_OUT, evaluate, find_images, pick_device
        from progdtd.evaluation.subjects import Choices

    levels = list(dict.fromkeys(listed(cfg.levels)))
    for p in levels:
        if not (number(p) and 0 <= p <= 1):
            raise UserError(f"levels: p={p} is not within [0, 1].")
    names, images, device = listed(cfg.protocols), str(cfg.images), pick_device(str(cfg.device))
    chosen = Choices(names, levels or None, device, listed(cfg.kinds), cfg.effort)
    runs = find(listed(cfg.run))
    if images != HELD_OUT:
        find_images(images)
    failed = []
    for path in runs:
        try:
            evaluate(path, images, chosen)
        except KeyboardInterrupt:
            raise SystemExit(
                f"Interrupted: the same command goes on with {path} at the image where it was."
            ) from None
        except UserError as error:
            if len(runs) == 1:
                raise
            log.error("%s: %s", path, error)
            failed.append(str(path))
    if failed:
        which = ", ".join(failed)
        raise UserError(f"{len(failed)} of {len(runs)} could not be evaluated: {which}.")


def find(run: list[Any]) -> list[Path]:
    """Run directories and weights files that paths and globs name, each once.

    Raises:
        UserError: one of them names nothing.
    """
    if not run:
        raise UserError("Which run? Give run=<run directory>, a weights file, a list or a glob.")
    found: list[Path] = []
    for pattern in map(str, run):
        matches = matching(pattern)
        if not matches:
            raise UserError(
                f"run={pattern} matches nothing. Train first (python -m progdtd.train ...), or "
                "give a run directory such as outputs/train/<run>, a weights file or a glob."
            )
        named = matches == [Path(pattern).expanduser()]
        if bare := [match for match in matches if begun(match) and not has_weights(match)]:
            log.warning("Without weights, and left out: %s", ", ".join(map(str, bare)))
        found += [path for path in matches if has_weights(path) or (named and path.is_file())]
    if not found:
        raise UserError(
            f"run={', '.join(map(str, run))} matches only directories without weights or "
            "checkpoints, and files that hold no weights."
        )
    return list(dict.fromkeys(found))


def has_weights(path: Path) -> bool:
    """Whether a directory holds a run's weights or checkpoints, or a file may be some: beside runs
    lie plans, tables and pictures."""
    if path.is_dir():
        return weights_in(path) is not None or (path / MODEL).exists()
    return path.suffix in (".safetensors", ".onnx") or zipfile.is_zipfile(path)


if __name__ == "__main__":
    main()
