"""Is a training's configuration one that can be run? Answered before torch is loaded."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from progdtd.downsampling_factor import HYPER_FACTOR
from progdtd.errors import UserError
from progdtd.experiment.config import CONF, no_option
from progdtd.options import listed, number, whole
from progdtd.tail_drop import build_drop

WAVELET = "progdtd.models.wavelet.Wavelet"

Kind = tuple[str, Callable[[Any], bool]]
"""What an option must be, in words, and whether a value is."""


def at_least(least: int) -> Kind:
    return f"a whole number, at least {least}", lambda value: whole(value, least)


def one_of(*choices: str) -> Kind:
    return f"one of {', '.join(choices)}", lambda value: value in choices


def or_null(kind: Kind, meaning: str = "null") -> Kind:
    words, fits = kind
    return f"{words}, or {meaning}", lambda value: value is None or fits(value)


def devices(value: Any) -> bool:
    least = 0 if OmegaConf.is_list(value) else 1
    return bool(listed(value)) and all(whole(device, least) for device in listed(value))


FOLDER: Kind = "the name of a folder", lambda value: str(value or "").strip(" ./") != ""
NAME: Kind = "a name or a path", lambda value: isinstance(value, str) and value != ""
FLAG: Kind = "true or false", lambda value: isinstance(value, bool)
SIZE: Kind = "a number and must not be negative", lambda value: number(value) and value >= 0
ABOVE_0: Kind = "a number above 0", lambda value: number(value) and value > 0
LAMBDA: Kind = f"{ABOVE_0[0]}; the paper's: 0.01, 0.1, 1.0", ABOVE_0[1]

OPTIONS: dict[str, Kind] = {
    "seed": at_least(0),
    "group": FOLDER,
    "run_name": FOLDER,
    "init_from": or_null(NAME),
    "dataset.validation": at_least(0),
    "dataset.scene": at_least(1),
    "dataset.cache_gib": SIZE,
    "dataset.workers": or_null(at_least(0)),
    "trainer.steps": at_least(1),
    "trainer.batch_size": at_least(1),
    "trainer.crop": (
        f"a whole number, and a multiple of {HYPER_FACTOR}",
        lambda value: whole(value, 1) and value % HYPER_FACTOR == 0,
    ),
    "trainer.resize": or_null(at_least(0)),
    "trainer.flip": FLAG,
    "trainer.rounded": FLAG,
    "trainer.lr": SIZE,
    "trainer.aux_lr": SIZE,
    "trainer.warmup": at_least(0),
    "trainer.final_lr": (
        "a fraction of trainer.lr, from 0 to 1",
        lambda value: number(value) and 0 <= value <= 1,
    ),
    "trainer.clip": or_null(ABOVE_0, "null: none"),
    "trainer.precision": one_of("auto", "32-true", "bf16-mixed"),
    "trainer.channels_last": ("true, false or auto", lambda value: value in (True, False, "auto")),
    "trainer.compile": FLAG,
    "trainer.devices": ("a whole number, at least 1, or the numbers of GPUs, as [0,1]", devices),
    "trainer.log_every": at_least(1),
    "trainer.validate_every": at_least(1),
    "trainer.checkpoint_every": at_least(1),
    "logger.wandb": FLAG,
    "logger.project": or_null(NAME),
    "logger.entity": or_null(NAME),
    "logger.mode": one_of("auto", "online", "offline"),
}
"""What an option must be that `conf/` explains; those of a logger are only there if it has them."""

OTHERS = {
    "dataset.name",
    "dataset.paths",
    "dataset.steps",
    "trainer.optimizer",
    "trainer.accelerator",
    "trainer.strategy",
}
"""Options of groups that are checked elsewhere."""


def check(cfg: DictConfig) -> None:
    """Refuse options and values that no run can have, before more of it than its record is written.

    Raises:
        UserError: names the option and what it may be.
        OmegaConfBaseException: an option is missing, or refers to one that is.
    """
    check_names(cfg)
    for key, (words, fits) in OPTIONS.items():
        group, _, name = key.rpartition(".")
        options = cfg[group] if group else cfg
        if (group != "logger" or name in options) and not fits(value := options[name]):
            raise UserError(f"{key}={value} must be {words}.")
    check_together(cfg)


def check_names(cfg: DictConfig) -> None:
    """Refuse options that nothing reads, as `+lamda=0.5` and presets may add them: no training, nor
    `${dataset.option}` anywhere.

    Raises:
        UserError: names the option, and the one that may be meant.
    """
    groups_there = (path.stem for path in Path(CONF).iterdir())
    used = re.findall(r"(?:dataset|\{)\.+(\w+)", OmegaConf.to_yaml(cfg))
    known = {*map(str, OmegaConf.load(Path(CONF, "train.yaml"))), *groups_there}
    known |= {*OPTIONS, *OTHERS, *(f"dataset.{name}" for name in used)}
    groups = ("trainer", "dataset", "logger")
    for key in [*map(str, cfg), *(f"{group}.{name}" for group in groups for name in cfg[group])]:
        if key not in known:
            raise UserError(no_option(key, known))


def check_together(cfg: DictConfig) -> None:
    """Refuse options that do not fit each other.

    Raises:
        UserError: names the option and what to do.
    """
    lmbda, drop = cfg["lambda"], build_drop(cfg.drop)
    if cfg.model.get("_target_") != WAVELET:
        words, fits = LAMBDA
        if not fits(lmbda):
            raise UserError(f"lambda={lmbda} must be {words}.")
    elif lmbda is not None:
        raise UserError(
            f"lambda={lmbda} has no meaning with model=wavelet: one stream serves every rate. "
            "Leave it out."
        )
    elif not drop.progressive:
        raise UserError(
            f"drop={drop.name} drops nothing, and model=wavelet learns from tails that are "
            "dropped: use drop=dtd."
        )
    optimizer, resize, crop = cfg.trainer.optimizer, cfg.trainer.resize, cfg.trainer.crop
    if not (OmegaConf.is_dict(optimizer) and "_target_" in optimizer):
        raise UserError(
            f"trainer.optimizer={optimizer} does not say what to build: choose one of "
            "conf/trainer/optimizer/, as trainer/optimizer=soap does."
        )
    if "lr" in optimizer:
        raise UserError("trainer.optimizer.lr has no effect: the learning rate is trainer.lr.")
    if resize is not None and resize < crop:
        raise UserError(f"trainer.resize={resize} is below trainer.crop={crop}.")
    if cfg.logger.wandb and "mode" not in cfg.logger:
        raise UserError("logger.wandb=true needs the options of logger=wandb: use that.")


def warnings(cfg: DictConfig) -> list[str]:
    """What of a training that `check` has passed may not be meant, though it can be run."""
    said = []
    if cfg.dataset.name == "photos":
        said.append(
            "dataset=photos is eight photographs, to try things out: for a model of use, give "
            "dataset=folder dataset.root=DIR, or dataset=vimeo90k."
        )
    if (warmup := cfg.trainer.warmup) >= (steps := cfg.trainer.steps):
        said.append(
            f"trainer.warmup={warmup}: the learning rate rises to the end of the run, of {steps} "
            "steps, and never reaches trainer.lr."
        )
    drop = build_drop(cfg.drop)
    if not drop.progressive and (drop.range, drop.power) != ((0.0, 1.0), 1.0):
        said.append(f"drop.range and drop.power have no effect: drop={drop.name} drops nothing.")
    return said
