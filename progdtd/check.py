"""Is a training's configuration one that can be run? Answered before torch is loaded."""

import math
from numbers import Real
from typing import Any

from omegaconf import DictConfig, OmegaConf

from progdtd.errors import UserError
from progdtd.tail_drop import build_drop

WHOLE = {
    "seed": 0, "dataset.validation": 0, "dataset.scene": 1, "trainer.steps": 1,
    "trainer.batch_size": 1, "trainer.crop": 1, "trainer.warmup": 0, "trainer.log_every": 1,
    "trainer.validate_every": 1, "trainer.checkpoint_every": 1,
}  # fmt: skip
"""Options that are whole numbers, with the least of each."""

NUMBERS = ("trainer.lr", "trainer.aux_lr", "trainer.final_lr", "dataset.cache_gib")
FLAGS = ("drop.latent", "drop.hyper", "trainer.flip", "trainer.compile", "logger.wandb")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
OPTIONAL = ("trainer.clip", "trainer.resize", "dataset.workers")


def check(cfg: DictConfig) -> None:
    """Refuse values that no run can have, before anything of it but its record is written.

    Raises:
        UserError: names the option and what it may be.
    """
    lmbda, options = cfg["lambda"], cfg.trainer
    if not number(lmbda) or not lmbda > 0:
        raise UserError(f"lambda={lmbda} must be a number above 0; the paper's: 0.01, 0.1, 1.0.")
    for key, least in WHOLE.items():
        value = OmegaConf.select(cfg, key)
        if not (isinstance(value, int) and number(value) and value >= least):
            raise UserError(f"{key}={value} must be a whole number, at least {least}.")
    for key in NUMBERS:
        value = OmegaConf.select(cfg, key)
        if not number(value) or value < 0:
            raise UserError(f"{key}={value} must be a number and must not be negative.")
    for key in FLAGS:
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, bool):
            raise UserError(f"{key}={value} must be true or false.")
    if options.channels_last not in (True, False, "auto"):
        raise UserError(f"trainer.channels_last={options.channels_last}: true, false or auto.")
    if options.precision not in PRECISIONS:
        raise UserError(f"trainer.precision={options.precision}: one of {', '.join(PRECISIONS)}.")
    for key in OPTIONAL:
        value = OmegaConf.select(cfg, key)
        if value is not None and (not number(value) or value < 0):
            raise UserError(f"{key}={value} must be a number, not negative, or null.")
    if cfg.logger.get("mode", "auto") not in ("auto", "online", "offline"):
        raise UserError(f"logger.mode={cfg.logger.mode} must be auto, online or offline.")
    if options.resize is not None and options.resize < options.crop:
        raise UserError(f"trainer.resize={options.resize} is below trainer.crop={options.crop}.")
    build_drop(cfg.drop)


def number(value: Any) -> bool:
    """Whether a value is a finite number, and not merely a truth value that counts as one."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
