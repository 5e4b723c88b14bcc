"""Where the Hydra configs are, and the functions that they call."""

from omegaconf import OmegaConf

from progdtd.files import PACKAGE
from progdtd.options import dashed, minutes

CONF = str(next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir()))
"""The Hydra configs: inside an installed package, beside the package in a source tree."""

OmegaConf.register_new_resolver("dashed", dashed, replace=True)
OmegaConf.register_new_resolver("minutes", minutes, replace=True)
OmegaConf.register_new_resolver("or_null", lambda value: value or None, replace=True)
