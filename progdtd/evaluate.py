"""Evaluate models over p: `python -m progdtd.evaluate run=outputs/train/...`; see `--help`."""

import glob
import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig, ListConfig

from progdtd.errors import UserError
from progdtd.paths import CONF

log = logging.getLogger(__name__)


@hydra.main(config_path=CONF, config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from progdtd.evaluation import evaluate
    from progdtd.tail_drop import P_LEVELS

    levels = [float(p) for p in cfg.levels or P_LEVELS]
    for p in levels:
        if not 0 <= p <= 1:
            raise UserError(f"levels: p={p} is not within [0, 1].")
    for path in find(cfg.run):
        evaluate(path, cfg.images, list(cfg.protocols), levels, cfg.device)


def find(run: str | ListConfig) -> list[Path]:
    """Run directories and weights files that paths and globs name.

    Raises:
        UserError: one of them names nothing.
    """
    found: list[Path] = []
    for pattern in [run] if isinstance(run, str) else run:
        matches = [Path(match) for match in sorted(glob.glob(str(Path(pattern).expanduser())))]
        if not matches:
            raise UserError(
                f"run={pattern} matches nothing. Train first (python -m progdtd.train ...), or "
                "give a run directory such as outputs/train/<run>, a weights file or a glob."
            )
        found += [path for path in matches if path.is_file() or any(path.glob("*.safetensors"))
                  or any(path.glob("*.pt"))]  # fmt: skip
    if not found:
        raise UserError(f"run={run} matches only directories without weights or checkpoints.")
    return found


if __name__ == "__main__":
    main()
