"""Weights & Biases, when asked for: scalars, rate-distortion points and pictures over p."""

import contextlib
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from progdtd.experiment import run
from progdtd.experiment.signals import Requeue

log = logging.getLogger(__name__)


class Tracker:
    """One W&B run for one training run; does nothing with `logger=csv`.

    The run's record keeps the id, so a resumed run goes on in the same W&B run. Offline, W&B knows
    no resuming, and each start writes a folder of its own: `replay` makes the last one the whole
    run, but for earlier pictures. As a context it closes the W&B run, as a failed one where the
    training failed, rather than was told to stop. Nothing that W&B raises ends the training.

    Args:
        leads: whether this is the one of the run's processes that logs.
    """

    def __init__(self, cfg: DictConfig, directory: Path, leads: bool) -> None:
        self.run: Any = None
        if not cfg.logger.wandb or not leads:
            return
        options: dict[str, Any] = {
            "project": cfg.logger.project,
            "entity": cfg.logger.entity,
            "group": str(cfg.group).replace("/", "-"),
            "name": directory.name,
            "id": run.recorded(directory).get("wandb_id") or secrets.token_hex(6),
            "resume": "allow",
            "dir": directory.resolve(),
            "config": OmegaConf.to_container(cfg, resolve=True),
        }
        run.record(directory, wandb_id=options["id"])
        with self.spared():
            self.start(cfg.logger.mode, options)

    def start(self, mode: str, options: dict[str, Any]) -> None:
        """Start the W&B run as asked for or, where that fails, offline."""
        import wandb

        self.wandb, chosen = wandb, ""
        try:
            chosen = mode_of(mode)
            if chosen == "disabled":
                log.info("W&B is disabled: only the CSV files are written.")
                return
            self.run = wandb.init(mode=chosen, **options)
            log.info("Logging to W&B, %s.", chosen)
        except Exception as error:
            if chosen == "offline":
                raise
            wandb.teardown()  # it would go on waiting, and keep the run's id
            self.run = wandb.init(mode="offline", **options)
            log.warning("W&B cannot be reached, or refuses (%s): logging offline.", one_line(error))
        self.run.define_metric("*", step_metric="step")

    @contextlib.contextmanager
    def spared(self) -> Iterator[None]:
        """Spare the training whatever W&B raises here: say it, and go on without W&B."""
        try:
            yield
        except Exception as error:
            self.run = None
            log.warning("W&B cannot be used (%s): only the CSV files are written.", one_line(error))

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.run:
            failed = not isinstance(error, Requeue | KeyboardInterrupt | None)
            with self.spared():
                self.run.finish(exit_code=int(failed))

    def replay(self, metrics: run.Table, validation: run.Table) -> None:
        """Begin an offline folder with what a resumed run has measured before."""
        if self.run and self.run.offline:
            for row in metrics.rows():
                self.log(int(row.pop("step")), row)
            for row in validation.rows():
                self.point(int(row.pop("step")), row.pop("p"), row)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Means of the training since the last report."""
        self._log(step, {f"train/{key}": value for key, value in values.items()})

    def point(self, step: int, p: float, values: dict[str, float]) -> None:
        """One validation point of the rate-distortion curve."""
        self._log(step, {f"validation/p={p:g}/{key}": value for key, value in values.items()})

    def strip(self, step: int, pictures: list[Tensor], levels: list[float]) -> None:
        """Reconstructions of one image, each (3, H, W) in [0, 1], over p."""
        if self.run and pictures:
            with self.spared():
                images = [
                    self.wandb.Image(
                        picture.nan_to_num(0).permute(1, 2, 0).numpy(), caption=f"p={p:g}"
                    )
                    for picture, p in zip(pictures, levels, strict=True)
                ]
                self._log(step, {"validation/reconstructions": images})

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if self.run:
            with self.spared():
                self.run.log(values | {"step": step})


def mode_of(asked: str) -> Any:
    """How W&B is to log: as asked or, if that is `auto`, as its own settings say (WANDB_MODE,
    `wandb disabled`), and offline where there is no login."""
    import wandb

    if asked != "auto":
        return asked
    mode = wandb.setup().settings.mode
    login = mode != "online" or wandb.login(prompt=False, verify=False)
    return mode if login else "offline"


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
