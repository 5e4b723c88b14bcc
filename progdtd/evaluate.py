"""Evaluate models over p: `python -m progdtd.evaluate run=outputs/train/...`; see `--help`."""

import glob
import logging
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig

from progdtd.errors import UserError
from progdtd.paths import CONF

log = logging.getLogger(__name__)


@hydra.main(config_path=CONF, config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from progdtd.evaluation import evaluate
    from progdtd.tail_drop import P_LEVELS

    levels = listed(cfg.levels) or list(P_LEVELS)
    for p in levels:
        if not isinstance(p, int | float) or not 0 <= p <= 1:
            raise UserError(f"levels: p={p} is not within [0, 1].")
    for path in find(listed(cfg.run)):
        evaluate(path, cfg.images, listed(cfg.protocols), levels, cfg.device, listed(cfg.kinds))


def listed(value: Any) -> list[Any]:
    """An option that may be one value, a list of them, or null."""
    if value is None:
        return []
    return list(value) if isinstance(value, ListConfig) else [value]


def find(run: list[str]) -> list[Path]:
    """Run directories and weights files that paths and globs name.

    Raises:
        UserError: one of them names nothing.
    """
    if not run:
        raise UserError("Which run? Give run=<run directory>, a weights file, a list or a glob.")
    found: list[Path] = []
    for pattern in map(str, run):
        matches = [Path(match) for match in sorted(glob.glob(str(Path(pattern).expanduser())))]
        if not matches:
            raise UserError(
                f"run={pattern} matches nothing. Train first (python -m progdtd.train ...), or "
                "give a run directory such as outputs/train/<run>, a weights file or a glob."
            )
        found += [path for path in matches if path.is_file() or any(path.glob("*.safetensors"))
                  or any(path.glob("*.pt"))]  # fmt: skip
    if not found:
        raise UserError(
            f"run={', '.join(run)} matches only directories without weights or checkpoints."
        )
    return found


if __name__ == "__main__":
    main()
