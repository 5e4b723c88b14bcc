"""Where things are: the Hydra configs and the data root."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

CONF = str(next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir()))
"""The Hydra configs: inside an installed package, beside the package in a source tree."""


def data_root() -> Path:
    """The folder that holds datasets: `$PROGDTD_DATA`, else `data/` in the working directory."""
    return Path(os.environ.get("PROGDTD_DATA", "data"))
