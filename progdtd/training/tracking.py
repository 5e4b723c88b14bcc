"""Weights & Biases, when asked for: scalars, rate-distortion points and pictures over p."""

import logging
import secrets
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from progdtd.errors import UserError
from progdtd.experiment import run
from progdtd.experiment.signals import Requeue

log = logging.getLogger(__name__)


class Tracker:
    """One W&B run for one training run; does nothing with `logger=csv`.

    The run's record keeps the id, so a resumed run goes on in the same W&B run. Offline, W&B knows
    no resuming, and each start writes a folder of its own: `replay` makes the last one the whole
    run, but for earlier pictures. As a context it closes the W&B run, as a failed one where the
    training failed, rather than was told to stop.

    Args:
        leads: whether this is the one of the run's processes that logs.
    """

    def __init__(self, cfg: DictConfig, directory: Path, leads: bool) -> None:
        self.run: Any = None
        if not cfg.logger.wandb or not leads:
            return
        import wandb

        self.wandb = wandb
        mode = cfg.logger.mode
        if mode == "auto":
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        log.info("Logging to W&B, %s.", mode)
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
        try:
            try:
                self.run = wandb.init(mode=mode, **options)
            except wandb.errors.Error as error:
                if cfg.logger.mode != "auto" or mode == "offline":
                    raise
                log.warning("W&B cannot be reached, or refuses (%s): logging offline.", error)
                wandb.teardown()  # it would go on waiting, and keep the run's id
                self.run = wandb.init(mode="offline", **options)
        except wandb.errors.Error as error:
            raise UserError(f"W&B cannot be used: {error} (logger.mode={mode})") from error
        self.run.define_metric("*", step_metric="step")

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.run:
            failed = not isinstance(error, Requeue | KeyboardInterrupt | None)
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
        if self.run:
            named = {f"train/{key}": value for key, value in values.items()}
            self.run.log(named | {"step": step})

    def point(self, step: int, p: float, values: dict[str, float]) -> None:
        """One validation point of the rate-distortion curve."""
        if self.run:
            named = {f"validation/p={p:g}/{key}": value for key, value in values.items()}
            self.run.log(named | {"step": step})

    def strip(self, step: int, pictures: list[Tensor], levels: list[float]) -> None:
        """Reconstructions of one image, each (3, H, W) in [0, 1], over p."""
        if self.run and pictures:
            images = [
                self.wandb.Image(picture.nan_to_num(0).permute(1, 2, 0).numpy(), caption=f"p={p:g}")
                for picture, p in zip(pictures, levels, strict=True)
            ]
            self.run.log({"validation/reconstructions": images, "step": step})
