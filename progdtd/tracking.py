"""Weights & Biases, when asked for: scalars, rate-distortion points and pictures over p."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

log = logging.getLogger(__name__)


class Tracker:
    """One W&B run for one training run; does nothing with `logger=csv`.

    The id is derived from the run's directory, so a resumed run goes on in the same W&B run.
    """

    def __init__(self, cfg: DictConfig, directory: Path) -> None:
        self.run: Any = None
        if not cfg.logger.wandb:
            return
        import wandb

        self.wandb = wandb
        mode = cfg.logger.mode
        if mode == "auto":
            mode = "online" if wandb.api.api_key else "offline"
        log.info("Logging to W&B, %s.", mode)
        self.run = wandb.init(
            project=cfg.logger.project,
            entity=cfg.logger.entity,
            group=cfg.group.replace("/", "-"),
            name=directory.name,
            id=hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12],
            resume="allow",
            mode=mode,
            dir=directory,
            config=OmegaConf.to_container(cfg, resolve=True),  # type: ignore[arg-type]
        )

    def log(self, step: int, scalars: dict[str, float]) -> None:
        if self.run:
            self.run.log(scalars | {"step": step})

    def point(self, step: int, p: float, values: dict[str, float]) -> None:
        """One validation point of the rate-distortion curve."""
        if self.run:
            named = {f"validation/p={p:g}/{key}": value for key, value in values.items()}
            self.run.log(named | {"step": step})

    def strip(self, step: int, pictures: list[Tensor], levels: list[float]) -> None:
        """Reconstructions of one image, each (3, H, W) in [0, 1], over p."""
        if self.run and pictures:
            images = [
                self.wandb.Image(picture.permute(1, 2, 0).numpy(), caption=f"p={p:g}")
                for picture, p in zip(pictures, levels, strict=True)
            ]
            self.run.log({"validation/reconstructions": images, "step": step})

    def close(self) -> None:
        if self.run:
            self.run.finish()
