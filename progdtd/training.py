"""The training loop, from top to bottom.

Every random number of a step is a function of (seed, step, rank), so a run that was killed at any
moment and started again computes what the uninterrupted run would have, bit for bit on a CPU.
"""

import logging
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from progdtd import checkpoint, data, protocols, run
from progdtd.errors import UserError
from progdtd.losses import RateDistortion
from progdtd.models import Progressive
from progdtd.tail_drop import TailDrop
from progdtd.tracking import Tracker

log = logging.getLogger(__name__)

VALIDATION_LEVELS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
VALIDATION_SIDE = 256
EXPLODED = 50.0
"""A loss this many times the lowest so far is not coming back."""

METRICS = ["step", "loss", "bpp", "psnr", "aux", "lr", "images_per_s"]
VALIDATION = ["step", "p", "loss", "bpp", "psnr", "ms_ssim_db"]


def train(cfg: DictConfig) -> Path:
    """Train one model as configured, resuming where an earlier start of the same run ended.

    Returns:
        the run's directory, with the finished weights in it.

    Raises:
        UserError: bad configuration or data, a directory with another run in it, a diverging loss.
    """
    directory = Path(HydraConfig.get().runtime.output_dir)
    options, lmbda = cfg.trainer, float(cfg["lambda"])
    if not (lmbda > 0 and math.isfinite(lmbda)):
        raise UserError(f"lambda={lmbda} must be above 0; the paper's are 0.01, 0.1 and 1.0.")
    drop = checkpoint.build_drop(OmegaConf.to_container(cfg.drop, resolve=True))  # type: ignore[arg-type]
    run.claim(directory, cfg)
    if (directory / checkpoint.WEIGHTS).exists():
        log.info("%s is finished: nothing to do. Delete it to train again.", directory)
        return directory

    fabric = make_fabric(options)
    torch.manual_seed(cfg.seed)
    model = checkpoint.build_model(OmegaConf.to_container(cfg.model, resolve=True))  # type: ignore[arg-type]
    if cfg.init_from:
        checkpoint.load_state(model, checkpoint.read_weights(cfg.init_from)[0], cfg.init_from)
    if options.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    main_optimizer, aux_optimizer = make_optimizers(model, options)
    state = resume(directory, model, main_optimizer, aux_optimizer)
    if options.compile:
        model.g_a.compile()
        model.g_s.compile()
    module, main_optimizer, aux_optimizer = fabric.setup(
        RateDistortion(model, lmbda), main_optimizer, aux_optimizer
    )

    train_paths, held_paths = data.split(instantiate(cfg.dataset.paths), cfg.dataset.validation)
    batches = data.Batches(
        train_paths, options.batch_size, options.crop, options.resize, options.flip, cfg.seed,
        cfg.dataset.cache_gib, fabric.global_rank, fabric.world_size,
    )  # fmt: skip
    held = held_out(held_paths)
    meta = describe(cfg, train_paths)
    if fabric.is_global_zero:
        facts = {"device": device_name(fabric.device), "precision": options.precision}
        run.record(directory, **run.provenance(), **facts, state="running")

    step, seconds, lowest = state["step"], state["seconds"], state["lowest"]
    steps = range(step, options.steps)
    metrics = run.Table(directory / "metrics.csv", METRICS, step)
    validation = run.Table(directory / "validation.csv", VALIDATION, step)
    sums, started, mark = None, time.monotonic(), time.monotonic()
    images_per_step = options.batch_size * fabric.world_size
    with (
        closing(Tracker(cfg, directory)) as tracker,
        closing(Progress(step, options.steps, images_per_step)) as progress,
    ):
        for step, images in zip(
            steps, data.loader(batches, steps, cfg.dataset.workers), strict=True
        ):
            lr = learning_rate(step, options)
            for group in main_optimizer.param_groups:
                group["lr"] = lr
            seed_step(cfg.seed, step, fabric.global_rank)
            x = fabric.to_device(images).float() / 255
            fractions = drop.fractions(drop.draw(len(x), torch.default_generator))
            out = module(x, *(fabric.to_device(p) for p in fractions))
            fabric.backward(out["loss"] + out["aux"])
            if options.clip:
                fabric.clip_gradients(
                    module, main_optimizer, max_norm=options.clip, error_if_nonfinite=False
                )
            main_optimizer.step()
            aux_optimizer.step()
            main_optimizer.zero_grad()
            aux_optimizer.zero_grad()

            now = torch.stack([out[key].detach() for key in ("loss", "bpp", "mse", "aux")])
            sums = now if sums is None else sums + now
            progress.advance()
            done = step + 1
            if done % options.log_every == 0 or done == options.steps:
                count = done - max(steps.start, (done - 1) // options.log_every * options.log_every)
                loss, bpp, mse, aux = (sums / count).tolist()
                lowest = check_loss(loss, lowest, step, directory)
                rate = count * images_per_step / (time.monotonic() - mark)
                psnr = -10 * math.log10(mse)
                row = dict(zip(METRICS, (done, loss, bpp, psnr, aux, lr, rate), strict=True))
                metrics.append(row)
                tracker.log(done, {f"train/{key}": row[key] for key in METRICS[1:]})
                progress.show(loss, bpp, psnr, rate)
                sums, mark = None, time.monotonic()
            if fabric.is_global_zero and (
                done % options.checkpoint_every == 0 or done == options.steps
            ):
                check_loss(out["loss"].item(), lowest, step, directory)
                elapsed = seconds + time.monotonic() - started
                save(
                    directory, model, main_optimizer, aux_optimizer,
                    {"step": done, "seconds": elapsed, "lowest": lowest, "meta": meta},
                )  # fmt: skip
            if fabric.is_global_zero and (
                done % options.validate_every == 0 or done == options.steps
            ):
                progress.say(
                    f"step {done}: {validate(model, drop, lmbda, held, done, validation, tracker)}"
                )
                mark = time.monotonic()

    if fabric.is_global_zero:
        elapsed = seconds + time.monotonic() - started
        model.update(force=True)
        finish(directory, model, meta, options.steps, options.steps * images_per_step, elapsed)
    return directory


def make_fabric(options: DictConfig) -> Fabric:
    """Devices, strategy and precision, with `precision=auto` resolved for the device."""
    where = {key: options[key] for key in ("accelerator", "strategy", "devices")}
    if options.precision == "auto":
        options.precision = "bf16-mixed" if fast_bf16(Fabric(**where).device) else "32-true"
    fabric = Fabric(**where, precision=options.precision)
    fabric.launch()
    return fabric


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def make_optimizers(model: Progressive, options: DictConfig) -> tuple[torch.optim.Adam, ...]:
    """Adam for the model and another for the quantiles of its entropy bottleneck."""
    quantiles = [p for name, p in model.named_parameters() if name.endswith("quantiles")]
    others = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    main = torch.optim.Adam(others, lr=options.lr, fused=True)
    return main, torch.optim.Adam(quantiles, lr=options.aux_lr)


def learning_rate(step: int, options: DictConfig) -> float:
    """Linear warm-up, then a cosine from `lr` to `lr * final_lr` at the last step."""
    warm = min(1.0, (step + 1) / (options.warmup + 1))
    done = max(0, step - options.warmup) / max(1, options.steps - options.warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return options.lr * warm * (options.final_lr + (1 - options.final_lr) * cosine)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make everything random in a step (the draw of p, the noise) a function of its number."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def resume(directory: Path, model: Progressive, *optimizers: torch.optim.Optimizer) -> dict:
    """Load the run's last checkpoint, if there is one, into the model and optimizers."""
    path = directory / checkpoint.LAST
    if not path.exists():
        return {"step": 0, "seconds": 0.0, "lowest": math.inf}
    state = checkpoint.load_checkpoint(path)
    checkpoint.load_state(model, state["model"], path)
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    log.info("Resuming %s at step %d.", directory, state["step"])
    return state


def save(directory: Path, model: Progressive, main: Any, aux: Any, progress: dict) -> None:
    """Write the checkpoint that `resume` reads."""
    state = {"model": model.state_dict(), "optimizers": [main.state_dict(), aux.state_dict()]}
    checkpoint.save_checkpoint(directory / checkpoint.LAST, state | progress)


def check_loss(loss: float, lowest: float, step: int, directory: Path) -> float:
    """The lowest loss so far.

    Raises:
        UserError: the loss is not finite or has exploded.
    """
    if not math.isfinite(loss) or loss > EXPLODED * lowest:
        kept = directory / checkpoint.LAST
        where = f"{kept} is from before and is kept" if kept.exists() else "nothing was saved yet"
        raise UserError(
            f"The loss became {loss:.4g} at step {step + 1} (lowest so far {lowest:.4g}): training "
            f"diverged; {where}. Try a smaller trainer.lr, trainer.clip=1.0 or precision 32-true."
        )
    return min(loss, lowest)


def held_out(paths: list[Path]) -> list[np.ndarray]:
    """The central 256x256 pixels (or less) of each held-out image."""
    pictures = []
    for path in paths:
        try:
            picture = data.read_image(path)
        except data.UNREADABLE as error:
            log.warning("Skipped %s: %s.", path, error)
            continue
        top, left = (max(0, (side - VALIDATION_SIDE) // 2) for side in picture.shape[:2])
        pictures.append(picture[top:, left:][:VALIDATION_SIDE, :VALIDATION_SIDE])
    return pictures


def validate(
    model: Progressive,
    drop: TailDrop,
    lmbda: float,
    pictures: list[np.ndarray],
    step: int,
    table: run.Table,
    tracker: Tracker,
) -> str:
    """Measure the held-out images over p, record the points, and say them in one line."""
    low = drop.range[0] if drop.progressive else 1.0
    levels = [p for p in VALIDATION_LEVELS if p >= low]
    device = next(model.parameters()).device
    points: dict[float, list[dict]] = {p: [] for p in levels}
    strip: list[Tensor] = []
    model.eval()
    for picture in pictures:
        for row, x_hat in protocols.native(model, drop, picture, levels, device):
            points[row["p"]].append(row)
            if picture is pictures[0]:
                strip.append(x_hat)
    model.train()
    said = []
    for p, rows in points.items():
        if not rows:
            continue
        mean = {key: float(np.mean([row[key] for row in rows])) for key in VALIDATION[3:]}
        mean["loss"] = float(
            np.mean([r["bpp"] + lmbda * 255**2 * 10 ** (-r["psnr"] / 10) for r in rows])
        )
        table.append({"step": step, "p": p} | mean)
        tracker.point(step, p, mean)
        said.append(f"p={p:g} {mean['bpp']:.3f} bpp {mean['psnr']:.2f} dB")
    tracker.strip(step, strip, levels)
    return ", ".join(said)


def describe(cfg: DictConfig, paths: list[Path]) -> dict[str, Any]:
    """What weights say about themselves: enough to rebuild the model, and how it was made."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    made = {key: config[key] for key in ("model", "drop", "lambda", "seed", "trainer", "init_from")}
    return made | {"dataset": config["dataset"]["name"], "training_images": len(paths)}


def finish(
    directory: Path, model: Progressive, meta: dict, steps: int, images: int, seconds: float
) -> None:
    """Write the finished weights and close the run's record."""
    made = {"steps": steps, "images_seen": images, "wall_time_s": round(seconds, 1)}
    checkpoint.save_weights(directory / checkpoint.WEIGHTS, model, meta | made)
    run.record(directory, **made, state="finished")
    log.info("Finished: %s after %d steps.", directory / checkpoint.WEIGHTS, steps)
    log.info("Evaluate it with: python -m progdtd.evaluate run=%s", directory)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class Progress:
    """A bar with loss, bpp, PSNR, images/s and ETA; without a terminal, a line now and then."""

    def __init__(self, step: int, steps: int, images_per_step: int) -> None:
        self.bar = tqdm(
            total=steps, initial=step, unit="step", desc="training", disable=None,
            dynamic_ncols=True, smoothing=0.05,
        )  # fmt: skip
        self.step, self.steps, self.start = step, steps, step
        self.started = self.said = time.monotonic()

    def advance(self) -> None:
        self.step += 1
        self.bar.update()

    def show(self, loss: float, bpp: float, psnr: float, rate: float) -> None:
        """Show the means since the last call."""
        text = f"loss {loss:.3f} bpp {bpp:.3f} psnr {psnr:.2f} {rate:.1f} img/s"
        self.bar.set_postfix_str(text)
        if self.bar.disable and time.monotonic() - self.said > 30:
            self.said = time.monotonic()
            pace = (self.said - self.started) / (self.step - self.start)
            eta = tqdm.format_interval(pace * (self.steps - self.step))
            log.info("step %d/%d %s ETA %s", self.step, self.steps, text, eta)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        log.info(text) if self.bar.disable else self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
