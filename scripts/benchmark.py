"""Speed of training and evaluation beside a plain implementation of the published recipe.

python scripts/benchmark.py --images data/train --kodak data/kodak

Plain training: float32, NCHW, batch 4; frames decoded at each step by worker processes, squashed to
256x256; masks made image by image; Adam. Ours is timed with its own optimizer and with Adam, whose
steps are cheaper and of which more are needed. Plain evaluation: a full forward pass for every p
and each of four patches. All do the same work on the same images, in turn, in one run; the ratios
of the medians are what to quote.
"""

import argparse
import itertools
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import command
import numpy as np
import readme
import torch
from compressai.models.google import ScaleHyperprior
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from profile_training import matrix_rate
from pytorch_msssim import ms_ssim, ssim
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

from progdtd import data, readers
from progdtd.evaluation import markdown, protocols
from progdtd.experiment.config import CONF
from progdtd.images import read_image
from progdtd.machine import keep_freed_memory
from progdtd.models import ProgressiveHyperprior
from progdtd.tail_drop import P_LEVELS, TailDrop
from progdtd.training.trainer import Trainer, device_name, fast_bf16

PIXELS = 256 * 256


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--images", type=Path, help="training images; default: the bundled ones")
    parser.add_argument("--kodak", type=Path, help="evaluation images; default: the bundled ones")
    parser.add_argument("--trainer", default="default", help="our recipe: default | gpu")
    parser.add_argument("--steps", type=int, default=10, help="training steps in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each, in turn")
    parser.add_argument("--evaluated", type=int, default=1, help="images evaluated in a round")
    parser.add_argument("--readme", action="store_true", help="put the result into its page")
    arguments = parser.parse_args()
    readme.show({"benchmark": compare(arguments)}, arguments.readme)


def compare(arguments: argparse.Namespace) -> str:
    """Time both contestants; returns the result as Markdown."""
    training = data.folder(arguments.images) if arguments.images else data.photos()
    kodak = (data.folder(arguments.kodak) if arguments.kodak else data.photos())[:8]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = [f"trainer={arguments.trainer}"]
    if arguments.images:
        recipe += ["dataset=folder", f"dataset.root='{arguments.images.resolve()}'"]
    with contestant() as ours, contestant() as with_adam, contestant() as plain:
        for process, overrides in ((ours, []), (with_adam, ["trainer/optimizer=adam"])):
            process.submit(keep_freed_memory)
            process.submit(start, our_training, recipe + overrides)
        plain.submit(start, plain_training, training, device)
        *trained, usual = rounds(arguments.rounds, arguments.steps, ours, with_adam, plain)
        ours.submit(start, our_evaluation, kodak, device)
        plain.submit(start, plain_evaluation, kodak, device)
        evaluated = rounds(arguments.rounds, arguments.evaluated, ours, plain)
    rates = {
        "training, 256×256 images a second": (trained[0], usual),
        "the same, with Adam": (trained[1], usual),
        f"evaluation at {len(P_LEVELS)} levels, images a second": tuple(evaluated),
    }
    rows = [
        (what, f"{our:.2f}", f"{its:.2f}", f"{our / its:.1f}") for what, (our, its) in rates.items()
    ]
    where = torch.device(device)
    return markdown.table(
        ("", "this project", "plain", "ratio"),
        rows,
        note=f"Medians of {arguments.rounds} rounds in turn; torch {torch.__version__}, "
        f"{device_name(where)}, {torch.get_num_threads()} threads, bf16 "
        f"{'on' if fast_bf16(where) else 'off'}, {matrix_rate(where, torch.float32) / 1e9:.0f} "
        "GFLOP/s in a float32 matrix product.",
    )


def contestant() -> ProcessPoolExecutor:
    """A process of its own, so that neither's settings reach the other."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


running: Iterator
"""Within a contestant's process: each item tells of a piece of work done."""


def start(work: Callable[..., Iterator], *arguments) -> None:
    global running
    running = work(*arguments)


def advance() -> Any:
    """What the next piece of work tells."""
    return next(running)


def proceed(count: int) -> float:
    """Images a second over the next `count` pieces of work, which tell how many images."""
    started = time.perf_counter()
    images = sum(advance() for _ in range(count))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return images / (time.perf_counter() - started)


def rounds(count: int, pieces: int, *contestants: ProcessPoolExecutor) -> list[float]:
    """Median rates of each contestant over rounds in turn, after a first, uncounted one."""
    turns = [*itertools.product(range(count + 1), range(len(contestants)))]
    measured: list[list[float]] = [[] for _ in contestants]
    for index, which in tqdm(turns, "measuring", unit="turn", disable=None):
        rate = contestants[which].submit(proceed, pieces).result()
        if index:
            measured[which].append(rate)
    return [statistics.median(rates) for rates in measured]


def lively(model: ProgressiveHyperprior) -> ProgressiveHyperprior:
    """Untrained, but with latents so far from zero that every level differs, as a trained one's."""
    with torch.no_grad():
        model.g_a[-1].weight *= 60
        model.h_a[-1].weight *= 60
    return model


def our_training(overrides: list[str]) -> Iterator[float]:
    """Our recipe, step by step."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("train", overrides)
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(cfg, Path(directory))
        workers, device = cfg.dataset.workers, trainer.fabric.device
        loader = readers.loader(trainer.batches, range(1_000_000), workers, device)
        for step, images in enumerate(loader):
            trainer.step(step, images)
            yield images.shape[0] * images.shape[2] * images.shape[3] / PIXELS


class Frames(Dataset):
    """Images decoded when they are asked for, squashed to 256x256."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = transforms.Compose([transforms.Resize((256, 256)), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def plain_training(paths: list[Path], device: str) -> Iterator[float]:
    """The published recipe, step by step."""
    model = ScaleHyperprior(128, 192).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    repeated = paths * math.ceil(4000 / len(paths))
    while True:
        for x in DataLoader(Frames(repeated), batch_size=4, num_workers=2, shuffle=True):
            x = x.to(device)
            ps = np.random.uniform(0, 1, len(x))
            x_hat, likelihoods = plain_forward(model, x, ps)
            bits = sum(values.log().sum() for values in likelihoods) / -math.log(2)
            mse = torch.nn.functional.mse_loss(x_hat, x)
            loss = bits / (len(x) * PIXELS) + 0.1 * 255**2 * mse
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            yield len(x)


def plain_forward(model: ScaleHyperprior, x: torch.Tensor, ps) -> tuple:
    """Masks before quantisation, made image by image; dropped elements cost nothing."""
    y = model.g_a(x)
    z = model.h_a(y.abs())
    y, z = plain_cut(y, ps), plain_cut(z, ps)
    z_hat, z_likelihoods = model.entropy_bottleneck(z)
    y_hat, y_likelihoods = model.gaussian_conditional(y, model.h_s(z_hat))
    free = torch.tensor(1.0, device=x.device)
    likelihoods = (
        torch.where(y == 0, free, y_likelihoods),
        torch.where(z == 0, free, z_likelihoods),
    )
    return model.g_s(y_hat), likelihoods


def plain_cut(values: torch.Tensor, ps) -> torch.Tensor:
    values = values.clone()
    for i, p in enumerate(ps):
        if p < 1:
            values[i, int(p * values.shape[1]) + 1 :] = 0
    return values


@torch.no_grad()
def plain_evaluation(paths: list[Path], device: str) -> Iterator[float]:
    """The published protocol: for every p, four patches one after another, then three metrics."""
    model = lively(ProgressiveHyperprior(128, 192)).to(device).eval()
    for path in itertools.cycle(paths):
        squashed = Image.open(path).convert("RGB").resize((512, 512), Image.Resampling.BILINEAR)
        x = transforms.ToTensor()(squashed)[None]
        for p in P_LEVELS:
            x_hat = torch.zeros_like(x)
            for top, left in itertools.product((0, 256), (0, 256)):
                patch = x[..., top : top + 256, left : left + 256].to(device)
                decoded, likelihoods = plain_forward(model, patch, [p])
                sum(values.log().sum() for values in likelihoods).item()
                x_hat[..., top : top + 256, left : left + 256] = decoded.cpu()
            torch.nn.functional.mse_loss(x_hat, x).item()
            ms_ssim(x_hat, x, data_range=1).item()
            ssim(x_hat, x, data_range=1).item()
        yield 1


def our_evaluation(paths: list[Path], device: str) -> Iterator[float]:
    """The same protocol as `progdtd.evaluate` runs it, with the rates of all patches too."""
    model = lively(ProgressiveHyperprior(128, 192)).to(device).eval()
    model.to(memory_format=torch.channels_last)
    drop = TailDrop(latent=True, hyper=True)
    for path in itertools.cycle(paths):
        list(protocols.reference(model, drop, read_image(path), P_LEVELS))
        yield 1


if __name__ == "__main__":
    command.run(main)
