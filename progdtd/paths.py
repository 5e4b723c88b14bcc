"""Where things are: the Hydra configs, with the functions that they call, and the data root."""

import os
from pathlib import Path

from omegaconf import OmegaConf

from progdtd.options import dashed, minutes

PACKAGE = Path(__file__).resolve().parent

CONF = str(next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir()))
"""The Hydra configs: inside an installed package, beside the package in a source tree."""

OmegaConf.register_new_resolver("dashed", dashed, replace=True)
OmegaConf.register_new_resolver("minutes", minutes, replace=True)
OmegaConf.register_new_resolver("or_null", lambda value: value or None, replace=True)


def data_root() -> Path:
    """The folder that holds datasets: `$PROGDTD_DATA`, else `data/` in the working directory."""
    return Path(os.environ.get("PROGDTD_DATA", "data")).expanduser()
