"""The training loop, from top to bottom.

Every random number of a step is a function of (seed, step, rank), so a run that was killed at any
moment and started again computes what the uninterrupted run would have, bit for bit on a CPU.
"""

import copy
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from tqdm import tqdm

from progdtd import data, readers
from progdtd.errors import UserError, first_line
from progdtd.experiment import run
from progdtd.experiment.signals import Requeue, StopSignals
from progdtd.experiment.words import printed
from progdtd.files import LAST, PREVIOUS
from progdtd.images import centre, pictures
from progdtd.machine import gpus, keep_freed_memory
from progdtd.models import weights
from progdtd.models.wavelet import Wavelet
from progdtd.tail_drop import build_drop
from progdtd.training.losses import RateDistortion
from progdtd.training.tracking import Tracker
from progdtd.training.wavelet import DigitsAndPicture

log = logging.getLogger(__name__)
logging.getLogger("lightning_fabric").handlers.clear()  # it would say everything a second time
logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="The `srun` command is available")  # nor need it be used

VALIDATION_SIDE = 256
EXPLODED, ENOUGH = 50.0, 64
"""A loss this many times the lowest so far is not coming back, if both are means of ENOUGH images;
of fewer, whose p and content weigh more, so many times more."""

SUMS = ("loss", "bpp", "mse", "aux")
METRICS = ["step", "loss", "bpp", "psnr", "aux", "lr", "images_per_s"]
VALIDATION = ["step", "p", "loss", "bpp", "psnr", "ms_ssim_db"]

Objective = RateDistortion | DigitsAndPicture
"""A model with its loss, what validation says of it, and how it is saved."""


def train(cfg: DictConfig, directory: Path) -> None:
    """Train one model as configured, resuming where an earlier start of the same run ended.

    Args:
        cfg: a configuration that `check` has passed.
        directory: the run's, locked by this process; the finished weights end up in it.

    Raises:
        UserError: options or data that cannot be, a diverging loss, a disk or a GPU that is full.
        Requeue: a signal asked for the end; a checkpoint was saved.
    """
    keep_freed_memory()
    torch.backends.cudnn.benchmark = True  # as all crops are of one size
    try:
        trainer = Trainer(copy.deepcopy(cfg), directory)  # which settles what is `auto`
        if trainer.leads:
            run.claim(directory, cfg)
        trainer.fit()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The GPU's memory is full ({first_line(error)}). Use fewer images a step "
            "(trainer.batch_size), or fewer runs at a time (launcher.workers)."
        ) from error


class Trainer:
    """One training run: everything it needs, resumed from its last checkpoint if there is one."""

    def __init__(self, cfg: DictConfig, directory: Path) -> None:
        self.cfg, self.options, self.directory = cfg, cfg.trainer, directory
        self.fabric = make_fabric(self.options)
        self.leads = self.fabric.is_global_zero
        self.drop = build_drop(cfg.drop)
        paths, held = data.split_dataset(cfg.dataset)
        self.batches = data.Batches(
            paths,
            self.options.batch_size,
            self.options.crop,
            self.options.resize,
            self.options.flip,
            cfg.seed,
            cfg.dataset.cache_gib,
            self.fabric.global_rank,
            self.fabric.world_size,
        )
        self.held = held_out(held) if self.leads else []
        log.info("%s: %d images to train on, %d held out.", cfg.dataset.name, len(paths), len(held))

        torch.manual_seed(cfg.seed)
        self.model = weights.build_model(cfg.model)
        began: dict[str, list] = {"ancestors": []}
        if cfg.init_from is not None and not checkpoints(directory):
            began["ancestors"] = weights.warm_start(self.model, cfg.model, cfg.init_from)
        channels_last = self.options.channels_last
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=self.layout)
        state = resume(directory, self.model)
        self.first, self.since, self.sums = state["step"], state["since"], state["sums"]
        self.lowest, self.seconds = state["lowest"], state["seconds"]
        self.objective: Objective = (
            DigitsAndPicture(self.model)
            if isinstance(self.model, Wavelet)
            else RateDistortion(self.model, cfg["lambda"], self.options.rounded)
        )
        if self.options.compile:
            self.objective.compile_parts()
        self.module, *self.optimizers = self.fabric.setup(
            self.objective, *make_optimizers(self.model, self.options)
        )
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=False):
            optimizer.load_state_dict(saved)

        described = describe(cfg, paths, held)
        images = described["images_digest"]
        if state.get("meta", described).get("images_digest", images) != images:
            raise UserError(  # some of those trained on might be held out now
                f"The images of dataset={cfg.dataset.name} are not those that this run began with: "
                "put them back as they were, or start another run (run_name=...)."
            )
        self.meta = state.get("meta", began) | described
        if self.leads:
            self.metrics = run.Table(directory / "metrics.csv", METRICS, self.first)
            self.validation = run.Table(directory / "validation.csv", VALIDATION, self.first)
            facts = run.provenance() | {
                "device": device_name(self.fabric.device),
                "precision": self.options.precision,
                "processes": self.fabric.world_size,
                "held_out": [str(path.absolute()) for path in held],
            }
            run.record_start(directory, self.first, **facts)

    def fit(self) -> None:
        """Train to the last step, with a report, a checkpoint and a validation every so often."""
        options, started = self.options, time.monotonic() - self.seconds
        steps = range(self.first, options.steps)
        alone = self.fabric.world_size == 1  # several have to agree when to stop
        with (
            StopSignals() as stop,
            Tracker(self.cfg, self.directory, self.leads) as tracker,
            Progress(self.first, options.steps, self.leads) as progress,
            closing(
                readers.loader(
                    self.batches,
                    steps,
                    self.cfg.dataset.workers,
                    self.fabric.device,
                    stopped=lambda: alone and stop.asked,
                )
            ) as loader,
        ):
            if self.leads:
                tracker.replay(self.metrics, self.validation)
            done = begun = self.first
            mark = time.monotonic()
            for done, images in enumerate(loader, self.first + 1):
                self.sums = self.sums.to(self.fabric.device) + self.step(done - 1, images)
                progress.update()
                last = done == options.steps
                if last or done % options.log_every == 0:
                    means = self.means(done)  # for which a GPU has to be done
                    pace = (done - begun) / (time.monotonic() - mark)
                    self.report(done, means, pace, tracker, progress)
                    self.sums, self.since = torch.zeros(len(SUMS)), done
                    begun, mark = done, time.monotonic()
                if last or done % options.validate_every == 0:
                    if self.leads and self.held:
                        progress.say(f"step {done}: {self.validate(done, tracker)}")
                    self.fabric.barrier()
                    begun, mark = done, time.monotonic()
                if not last and self.told_to_stop(stop, done):
                    break
                if last or done % options.checkpoint_every == 0:
                    self.seconds = time.monotonic() - started
                    self.save(done)  # after its rows are all written
            if done < options.steps:
                self.seconds = time.monotonic() - started
                self.save(done)
                self.fabric.barrier()
                progress.say(f"Told to stop at step {done}: the same command resumes there.")
                stop.obey(os.EX_TEMPFAIL if self.leads else 0)
        if self.leads:
            self.finish()

    def step(self, step: int, images: Tensor) -> Tensor:
        """One update from a batch (B, 3, S, S) uint8; returns the values that `SUMS` names."""
        images = self.fabric.to_device(images).contiguous(memory_format=self.layout)
        p, p_hyper = self.drop.fractions(self.draw(step, len(images)))
        for group in self.optimizers[0].param_groups:
            group["lr"] = learning_rate(step, self.options)
        seed_step(self.cfg.seed, step, self.fabric.global_rank)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        out = self.module(images, p.tolist(), p_hyper.tolist())
        self.fabric.backward(out["loss"] + out["aux"])
        if self.options.clip:
            self.fabric.clip_gradients(
                self.module,
                self.optimizers[0],
                error_if_nonfinite=False,
                max_norm=self.options.clip,
            )
        with products_in(self.options.precision):
            for optimizer in self.optimizers:
                optimizer.step()
        return torch.stack([out[name].detach() for name in SUMS])

    def draw(self, step: int, images: int) -> Tensor:
        """This process's share, (images,), of the step's draw of p for the images of all."""
        seed = np.random.SeedSequence([self.cfg.seed, step]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        p = self.drop.draw(images * self.fabric.world_size, generator)
        return p[self.fabric.global_rank * images :][:images]

    def told_to_stop(self, stop: StopSignals, done: int) -> bool:
        """Whether any process is asked to end. Several agree where they meet, at a report."""
        if self.fabric.world_size == 1:
            return stop.asked
        if done % self.options.log_every:
            return False
        asked = torch.tensor(float(stop.asked), device=self.fabric.device)
        return bool(self.fabric.all_reduce(asked, reduce_op="max"))

    def means(self, done: int) -> list[float]:
        """Means of the values that `SUMS` names since the last report, over all processes; stops
        the run if the loss has diverged."""
        means = self.fabric.all_reduce(self.sums / (done - self.since), reduce_op="mean")
        assert isinstance(means, Tensor)
        images = (done - self.since) * self.options.batch_size * self.fabric.world_size
        self.check(means[0].item(), done, images)
        return means.tolist()

    def check(self, loss: float, done: int, images: int = ENOUGH) -> None:
        """Stop the run if the loss, the mean of so many images, is not finite or has exploded. All
        processes agree on it and one says so; the others end quietly, for if they failed it would
        be killed before it has.

        Raises:
            UserError: the loss has diverged.
        """
        most = EXPLODED * max(1.0, ENOUGH / images) * self.lowest
        if math.isfinite(loss) and loss <= most:
            return
        if not self.leads:
            raise Requeue(0)
        kept = self.directory / LAST
        where = f" {kept} is from before and is kept." if kept.exists() else ""
        best = f" (lowest so far {self.lowest:.4g})" if math.isfinite(self.lowest) else ""
        raise UserError(
            f"Training diverged: the loss became {loss:.4g} at step {done}{best}.{where} Start "
            "again with a smaller trainer.lr, trainer.clip=1.0 or trainer.precision=32-true, and "
            f"with run_name=... or after deleting {self.directory}."
        )

    def report(
        self, done: int, means: list[float], pace: float, tracker: Tracker, progress: "Progress"
    ) -> None:
        """Record the means since the last report, of the values that `SUMS` names, and the pace in
        steps per second."""
        loss, bpp, mse, aux = means
        self.lowest = min(self.lowest, loss)
        if not self.leads:
            return
        psnr, rate = -10 * math.log10(mse), pace * self.options.batch_size * self.fabric.world_size
        values = (done, loss, bpp, psnr, aux, learning_rate(done - 1, self.options), rate)
        row = dict(zip(METRICS, values, strict=True))
        self.metrics.append(row)
        tracker.log(done, {name: row[name] for name in METRICS[1:]})
        progress.show(done, f"loss {loss:.3f} bpp {bpp:.3f} psnr {psnr:.2f} {rate:.1f} img/s")

    def save(self, done: int) -> None:
        """Write the checkpoint that `resume` reads, unless the run has diverged by now.

        Raises:
            UserError: it has, or nothing can be written.
        """
        state_dict = self.model.state_dict()
        if not all(value.isfinite().all() for value in state_dict.values()):
            self.check(math.nan, done)
        if done > self.since:
            self.means(done)
        sums = self.sums.to(self.fabric.device)
        sums = self.fabric.all_reduce(sums, reduce_op="mean")  # all resume from those of one
        if not self.leads:
            return
        state = {
            "model": state_dict,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "meta": self.meta,
            "step": done,
            "since": self.since,
            "sums": sums,
            "lowest": self.lowest,
            "seconds": self.seconds,
        }
        weights.save_checkpoint(self.directory / LAST, state)
        run.record(self.directory, **self.spent(done))

    def spent(self, done: int) -> dict[str, float]:
        """What so many steps have taken, in all starts."""
        images = done * self.options.batch_size * self.fabric.world_size
        return {"images_seen": images, "wall_time_s": round(self.seconds, 1)}

    @torch.compiler.set_stance("force_eager")  # for a few images of other shapes
    @torch.no_grad()
    def validate(self, done: int, tracker: Tracker) -> str:
        """Measure the held-out images over p, record the points, and say them in one line."""
        rows, strip = [], []
        self.model.eval()
        for index, picture in enumerate(self.held):
            for row, x_hat in self.objective.estimate(picture, self.drop):
                rows.append(row)
                strip += [x_hat] if index == 0 else []
        self.model.train()
        said, levels = [], list(dict.fromkeys(row["p"] for row in rows))
        for p in levels:
            level = [row for row in rows if row["p"] == p]
            mean = {key: float(np.mean([row[key] for row in level])) for key in VALIDATION[2:]}
            self.validation.append({"step": done, "p": p} | mean)
            tracker.point(done, p, mean)
            said.append(f"p={p:g} {mean['bpp']:.3f} bpp {mean['psnr']:.2f} dB")
        tracker.strip(done, strip, levels[: len(strip)])
        return ", ".join(said)

    def finish(self) -> None:
        """Write the finished weights, with their entropy coder's tables, and close the record."""
        steps = self.options.steps
        made = {"steps": steps} | self.spent(steps)
        with torch.compiler.set_stance("force_eager"):
            self.objective.save(self.directory, self.drop, self.meta | made, self.batches.paths)
        (self.directory / PREVIOUS).unlink(missing_ok=True)
        run.record(self.directory, **made, state="finished")
        log.info("Finished %s after %d steps. To evaluate it:", self.directory, steps)
        log.info("  python -m progdtd.evaluate %s", printed("run", self.directory))


def make_fabric(options: DictConfig) -> Fabric:
    """Devices, strategy and precision, with what is `auto` resolved for the device.

    Raises:
        UserError: more devices than there are, or options that do not go together.
    """
    if options.accelerator == "auto":
        options.accelerator = "cuda" if torch.cuda.is_available() else "cpu"
        if options.accelerator == "cpu" and gpus():
            log.warning("There is a GPU here that this torch cannot use: training on the CPU.")
    where: dict[str, Any] = {key: options[key] for key in ("accelerator", "strategy", "devices")}
    tasks = "SLURM_NTASKS" in os.environ and "SLURM_STEP_ID" not in os.environ
    if tasks and not TorchElasticEnvironment.detect():  # nobody has started the job's other tasks
        where["plugins"] = [LightningEnvironment()]
    try:
        device = Fabric(**where).device
        if options.precision == "auto":
            options.precision = "bf16-mixed" if fast_bf16(device) else "32-true"
        if options.channels_last == "auto":
            options.channels_last = device.type == "cuda" or options.precision == "bf16-mixed"
        fabric = Fabric(**where, precision=options.precision)
        fabric.launch()
    except (MisconfigurationException, ImportError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{error} (trainer.accelerator={options.accelerator}, devices={options.devices}, "
            f"strategy={options.strategy}, precision={options.precision}; all but devices can be "
            "auto)"
        ) from error
    return fabric


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Let an optimizer multiply its matrices, of which SOAP has many, in the precision of the
    transforms: in bfloat16, or on a GPU in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "bf16-mixed" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def make_optimizers(model: nn.Module, options: DictConfig) -> list[torch.optim.Optimizer]:
    """The optimizer of the model, and Adam for the quantiles of its entropy bottleneck, if it has
    one.

    Raises:
        UserError: the optimizer cannot be built from its options.
    """
    quantiles = [p for name, p in model.named_parameters() if name.endswith("quantiles")]
    others = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    try:
        main = instantiate(options.optimizer, others, lr=options.lr, _convert_="all")
    except InstantiationException as error:
        why = first_line(error.__cause__ or error)
        raise UserError(f"trainer.optimizer={options.optimizer}: {why}.") from error
    return [main, torch.optim.Adam(quantiles, lr=options.aux_lr)] if quantiles else [main]


def learning_rate(step: int, options: DictConfig) -> float:
    """Linear warm-up, then a cosine from `lr` to `lr * final_lr`, reached after the last step."""
    warm = min(1.0, (step + 1) / (options.warmup + 1))
    done = max(0, step - options.warmup) / max(1, options.steps - options.warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return options.lr * warm * (options.final_lr + (1 - options.final_lr) * cosine)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make the noise of a step a function of its number, and not that of its draws of p."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank + 1]).generate_state(1)[0]))


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return [path for path in (directory / LAST, directory / PREVIOUS) if path.exists()]


def resume(directory: Path, model: nn.Module) -> dict[str, Any]:
    """The state of the run's newest sound checkpoint, with its weights in the model, or that of a
    start.

    Raises:
        UserError: there are checkpoints, and none of them can be read.
    """
    damage = []
    for path in checkpoints(directory):
        try:
            state = weights.load_checkpoint(path)
            weights.load_state(model, state["model"], path)
        except UserError as error:
            log.warning("%s", error)
            damage.append(path.name)
            continue
        if damage:
            log.warning("Falling back to %s.", path)
        log.info("Resuming %s at step %d.", directory, state["step"])
        return state
    if damage:
        raise UserError(
            f"No checkpoint in {directory} can be read ({', '.join(damage)}). "
            "Delete the directory to start over."
        )
    start = {"step": 0, "since": 0, "sums": torch.zeros(len(SUMS)), "optimizers": []}
    return start | {"seconds": 0.0, "lowest": math.inf}


def held_out(paths: list[Path]) -> list[np.ndarray]:
    """The central 256x256 pixels of each held-out image that has as many; says what is missing."""
    crops = []
    for path, picture in pictures(paths):
        if min(picture.shape[:2]) < VALIDATION_SIDE:
            log.warning(
                "%s is too small to validate on: that takes %d pixels a side.",
                path,
                VALIDATION_SIDE,
            )
            continue
        crops.append(centre(picture, VALIDATION_SIDE))
    return crops


def describe(cfg: DictConfig, paths: list[Path], held: list[Path]) -> dict[str, Any]:
    """What weights say about themselves: enough to rebuild the model, and how it was made."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    made = {key: config[key] for key in ("model", "drop", "lambda", "seed", "trainer", "init_from")}
    return made | {
        "dataset": config["dataset"]["name"],
        "training_images": len(paths),
        "images_digest": data.digest([*paths, *held]),
    }


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class Progress(tqdm):
    """A bar with loss, bpp, PSNR, images/s and ETA; without a terminal, a line now and then."""

    def __init__(self, step: int, steps: int, leads: bool) -> None:
        super().__init__(
            total=steps,
            initial=step,
            unit="step",
            desc="training",
            disable=None if leads else True,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self.first, self.steps = step, steps
        self.started = self.said = time.monotonic()

    def show(self, step: int, text: str) -> None:
        """Show the newest values."""
        self.set_postfix_str(text)
        if self.disable and time.monotonic() - self.said > 30:
            self.said = time.monotonic()
            pace = (self.said - self.started) / (step - self.first)
            eta = self.format_interval(pace * (self.steps - step))
            log.info("step %d/%d %s ETA %s", step, self.steps, text, eta)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self.disable:
            log.info(text)
        else:
            self.write(text)
