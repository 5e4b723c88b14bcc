"""Where things are: the Hydra configs and the data root."""

import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

PACKAGE = Path(__file__).resolve().parent

CONF = str(next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir()))
"""The Hydra configs: inside an installed package, beside the package in a source tree."""


def data_root() -> Path:
    """The folder that holds datasets: `$PROGDTD_DATA`, else `data/` in the working directory."""
    return Path(os.environ.get("PROGDTD_DATA", "data"))


def dashed(values: Any) -> str:
    """What stands for an option in a directory's name: [0.3, 1.0] is 0.3-1.0."""
    return "-".join(map(str, values)) if OmegaConf.is_list(values) else str(values)


OmegaConf.register_new_resolver("dashed", dashed, replace=True)
