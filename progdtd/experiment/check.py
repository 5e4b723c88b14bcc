"""Is a training's configuration one that can be run? Answered before torch is loaded."""

import difflib
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from progdtd.errors import UserError, first_line
from progdtd.experiment.config import CONF
from progdtd.options import listed, number, whole
from progdtd.strides import STRIDE
from progdtd.tail_drop import TailDrop, build_drop

WHOLE = {
    "seed": 0, "dataset.validation": 0, "dataset.scene": 1, "trainer.steps": 1,
    "trainer.batch_size": 1, "trainer.crop": 1, "trainer.warmup": 0, "trainer.log_every": 1,
    "trainer.validate_every": 1, "trainer.checkpoint_every": 1,
}  # fmt: skip
"""Options that are whole numbers, with the least of each."""

NUMBERS = ("trainer.lr", "trainer.aux_lr", "trainer.final_lr", "dataset.cache_gib")
FLAGS = ("trainer.flip", "trainer.rounded", "trainer.compile", "logger.wandb")
PRECISIONS = ("auto", "32-true", "bf16-mixed")
OPTIONAL = ("trainer.resize", "dataset.workers")
"""Options that are whole numbers from 0, or null."""

OPTIMIZERS = "trainer/optimizer"
WAVELET = "progdtd.models.wavelet.Wavelet"
MISSING = object()
LARGEST_SEED = 2**63 - 1
"""That torch takes."""


def check_run_name(cfg: DictConfig) -> None:
    """Refuse names that are no names of a folder, before the run's is made.

    Raises:
        UserError: such as an empty run_name, which would make the group's folder a run.
    """
    for key in ("group", "run_name"):
        if str(OmegaConf.select(cfg, key) or "").strip(" ./") == "":
            raise UserError(f"{key}={OmegaConf.select(cfg, key)} is not the name of a folder.")


def check_options(cfg: DictConfig, command: str) -> None:
    """Refuse options that nothing reads, as `+lamda=0.5` and presets may add them. What a model, a
    drop, a launcher and a dataset of which there is no YAML here take is for these to say.

    Args:
        cfg: the configuration.
        command: whose, such as `train`.

    Raises:
        UserError: names the option, and the one that may be meant.
    """
    groups = {"": names_in(f"{command}.yaml")}
    if command == "train":
        recipe, optimizer = names_in("trainer/default.yaml"), names_in(f"{OPTIMIZERS}/adam.yaml")
        groups |= {"trainer": recipe | optimizer, "logger": names_in("logger/wandb.yaml")}
        every = [f"dataset/{path.name}" for path in sorted(Path(CONF, "dataset").glob("*.yaml"))]
        alike = [names_in(file) for file in every if called(file) == cfg.dataset.get("name")]
        if alike:
            groups["dataset"] = names_in("dataset/photos.yaml").union(*alike)
    for group, known in groups.items():
        for name in map(str, cfg[group] if group else cfg):
            if name not in known:
                raise UserError(no_option(command, name, known, f"{group}." if group else ""))


def no_option(
    command: str, name: str, known: Iterable[str], before: str = "", after: str = ""
) -> str:
    """What to say of an option that a command does not have: the one that may be meant.

    Args:
        before, after: what stands around the name, as `trainer.` does.
    """
    meant = closest(name, known)
    ask = f" Did you mean {before}{meant}{after}?" if meant else ""
    return f"{before}{name} is no option of progdtd.{command}.{ask}"


def closest(name: object, known: Iterable[str]) -> str | None:
    """The name that may be meant."""
    return next(iter(difflib.get_close_matches(str(name), list(known), 1)), None)


@functools.cache
def names_in(file: str) -> frozenset[str]:
    """The options that one of the project's configs sets, by itself or by one that it begins with,
    and the groups that it chooses from."""
    config, others = loaded(file)
    groups = [group for choice in config.get("defaults", []) if OmegaConf.is_dict(choice)
              for group in choice]  # fmt: skip
    own = frozenset(map(str, [*config, *groups])) - {"defaults", "hydra"}
    return own.union(*map(names_in, others))


def called(file: str) -> str | None:
    """The name that one of the project's configs sets, by itself or by one that it begins with."""
    config, others = loaded(file)
    return config.get("name") or next(filter(None, map(called, others)), None)


@functools.cache
def loaded(file: str) -> tuple[DictConfig, list[str]]:
    """One of the project's configs, and those that it begins with."""
    config = OmegaConf.load(Path(CONF, file))
    assert isinstance(config, DictConfig)
    folder = Path("/", file).parent
    others = [str(folder / f"{choice.partition('@')[0]}.yaml").lstrip("/")
              for choice in config.get("defaults", []) if isinstance(choice, str)]  # fmt: skip
    return config, [other for other in others if Path(CONF, other).is_file()]


def warnings(cfg: DictConfig) -> list[str]:
    """What of a training that `check` has passed may not be meant, though it can be run."""
    said = []
    if cfg.dataset.name == "photos":
        said.append("dataset=photos is eight photographs, to try things out: for a model of use, "
                    "give dataset=folder dataset.root=DIR, or dataset=vimeo90k.")  # fmt: skip
    if (warmup := cfg.trainer.warmup) >= (steps := cfg.trainer.steps):
        said.append(f"trainer.warmup={warmup}: the learning rate rises to the end of the run, of "
                    f"{steps} steps, and never reaches trainer.lr.")  # fmt: skip
    drop = build_drop(cfg.drop)
    idle, why = idle_options(drop)
    for name, value, usual in (("range", [*drop.range], [0, 1]), ("power", drop.power, 1),
                               ("full", drop.full, 0)):  # fmt: skip
        if name in idle and value != usual:
            said.append(f"drop.{name}={value} has no effect: {why}.")
    return said


def idle_options(drop: TailDrop) -> tuple[tuple[str, ...], str]:
    """Options of a tail drop that change nothing beside the others, and why."""
    low, high = drop.range
    if not drop.progressive:  # and `full`, which controls have like what they are compared with
        return ("range", "power"), f"drop={drop.name} drops nothing"
    if low == high:
        return ("power", "full"), f"p is always {high:g}"
    if drop.full == 1:
        return ("power",), f"drop.full=1 makes p always {high:g}"
    return (), ""


def check(cfg: DictConfig) -> None:
    """Refuse options and values that no run can have, before more of it than its record is written.

    Raises:
        UserError: names the option and what it may be.
    """
    check_options(cfg, "train")
    check_values(cfg)
    check_trainer(cfg.trainer)
    check_logger(cfg.logger)
    if cfg.seed > LARGEST_SEED:
        raise UserError(f"seed={cfg.seed} must be at most {LARGEST_SEED}.")
    if not (cfg.init_from is None or (isinstance(cfg.init_from, str) and cfg.init_from)):
        raise UserError(f"init_from={cfg.init_from} must be a path, or null.")
    if "name" not in cfg.dataset:
        raise UserError("The dataset has no name: give its YAML one, as those in conf/dataset/.")
    build_drop(cfg.drop)


def check_values(cfg: DictConfig) -> None:
    """Refuse what is not of its option's kind, wherever that is.

    Raises:
        UserError: names the option and what it may be.
    """
    lmbda = cfg["lambda"]
    if cfg.model.get("_target_") == WAVELET:
        if lmbda is not None:
            raise UserError(
                f"lambda={lmbda} has no meaning with model=wavelet: one stream serves every rate. "
                "Leave it out."
            )
        if not (cfg.drop.latent or cfg.drop.hyper):
            raise UserError(f"drop={cfg.drop.name} drops nothing, and model=wavelet learns from "
                            "tails that are dropped: use drop=dtd.")  # fmt: skip
    elif not number(lmbda) or not lmbda > 0:
        raise UserError(f"lambda={lmbda} must be a number above 0; the paper's: 0.01, 0.1, 1.0.")
    for key, least in WHOLE.items():
        value = chosen(cfg, key)
        if not whole(value, least):
            raise UserError(f"{key}={value} must be a whole number, at least {least}.")
    for key in NUMBERS:
        value = chosen(cfg, key)
        if not number(value) or value < 0:
            raise UserError(f"{key}={value} must be a number and must not be negative.")
    for key in FLAGS:
        value = chosen(cfg, key)
        if not isinstance(value, bool):
            raise UserError(f"{key}={value} must be true or false.")
    for key in OPTIONAL:
        value = chosen(cfg, key)
        if not (value is None or whole(value, 0)):
            raise UserError(f"{key}={value} must be a whole number, not negative, or null.")


def check_trainer(options: DictConfig) -> None:
    """Refuse what the training cannot do, of options whose values are of the right kind.

    Raises:
        UserError: names the option and what it may be.
    """
    if options.channels_last not in (True, False, "auto"):
        raise UserError(
            f"trainer.channels_last={options.channels_last} must be true, false or auto."
        )
    if options.crop % STRIDE:
        raise UserError(f"trainer.crop={options.crop} must be a multiple of {STRIDE}.")
    if options.precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision={options.precision} must be one of {', '.join(PRECISIONS)}."
        )
    if options.clip is not None and not (number(options.clip) and options.clip > 0):
        raise UserError(f"trainer.clip={options.clip} must be a number above 0, or null: none.")
    if options.final_lr > 1:
        raise UserError(
            f"trainer.final_lr={options.final_lr} is a fraction of trainer.lr: it must "
            "be at most 1."
        )
    devices, least = listed(options.devices), 0 if OmegaConf.is_list(options.devices) else 1
    if not devices or not all(whole(device, least) for device in devices):
        raise UserError(f"trainer.devices={options.devices} must be a whole number, at least 1, "
                        "or the numbers of GPUs, as [0,1].")  # fmt: skip
    if not (OmegaConf.is_dict(options.optimizer) and "_target_" in options.optimizer):
        meant = closest(options.optimizer, (path.stem for path in Path(CONF, OPTIMIZERS).glob("*")))
        raise UserError(f"trainer.optimizer={options.optimizer} does not say what to build: use "
                        f"{OPTIMIZERS}={meant or 'soap'}.")  # fmt: skip
    if "lr" in options.optimizer:
        raise UserError("trainer.optimizer.lr has no effect: the learning rate is trainer.lr.")
    if options.resize is not None and options.resize < options.crop:
        raise UserError(f"trainer.resize={options.resize} is below trainer.crop={options.crop}.")


def check_logger(logger: DictConfig) -> None:
    """Refuse what W&B cannot be asked for.

    Raises:
        UserError: names the option and what it may be.
    """
    if logger.wandb and "mode" not in logger:
        raise UserError("logger.wandb=true needs the options of logger=wandb: use that.")
    for key in ("project", "entity"):
        if not isinstance(logger.get(key), str | None):
            raise UserError(f"logger.{key}={logger[key]} must be a name, or null.")
    if logger.get("mode", "auto") not in ("auto", "online", "offline"):
        raise UserError(f"logger.mode={logger.mode} must be auto, online or offline.")


def chosen(cfg: DictConfig, key: str) -> Any:
    """The value of an option, with dots between its keys.

    Raises:
        UserError: it is missing, or refers to one that is.
    """
    try:
        value = OmegaConf.select(cfg, key, default=MISSING)
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: {first_line(error)}.") from error
    if value is MISSING:
        group = key.partition(".")[0]
        if key == "trainer.lr":
            raise UserError(
                f"trainer.lr is missing: the YAML of an optimizer begins with `# @package trainer` "
                f"and sets lr and optimizer._target_, as conf/{OPTIMIZERS}/adam.yaml does."
            )
        raise UserError(
            f"{key} is missing: let your YAML begin with `defaults:` and one of those in "
            f"conf/{group}/, for what it does not say itself."
        )
    return value
