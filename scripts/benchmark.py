"""Speed of training and evaluation beside a plain implementation of the published recipe.

python scripts/benchmark.py --images data/train --kodak data/kodak

Plain training: float32, NCHW, batch 4; frames decoded at each step by worker processes, squashed to
256x256; masks made image by image; Adam. Plain evaluation: a full forward pass for every p and each
of four patches. Both do the same work on the same images as ours, in turn, in one run; the ratios
of the medians are what to quote.
"""

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from compressai.models.google import ScaleHyperprior
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from pytorch_msssim import ms_ssim, ssim
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from progdtd import data, protocols
from progdtd.losses import RateDistortion
from progdtd.models import ProgressiveHyperprior
from progdtd.paths import CONF
from progdtd.tail_drop import P_LEVELS, TailDrop
from progdtd.training import fast_bf16, make_fabric, make_optimizers

PIXELS = 256 * 256


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="training images; default: the bundled ones")
    parser.add_argument("--kodak", type=Path, help="evaluation images; default: the bundled ones")
    parser.add_argument("--trainer", default="default", help="our recipe: default | gpu")
    parser.add_argument("--steps", type=int, default=8, help="training steps in a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each, in turn")
    parser.add_argument("--evaluated", type=int, default=2, help="images evaluated in a round")
    arguments = parser.parse_args()
    training = data.folder(arguments.images) if arguments.images else data.photos()
    kodak = data.folder(arguments.kodak) if arguments.kodak else data.photos()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, "
          f"bf16 {'on' if fast_bf16(torch.device(device)) else 'off'}")  # fmt: skip

    ours, plain = our_training(training, arguments.trainer), plain_training(training, device)
    rates = rounds(arguments.rounds, lambda step: rate(step, arguments.steps), ours, plain)
    print(f"training, 256x256 images/s: ours {rates[0]:.2f}, plain {rates[1]:.2f}, "
          f"ratio {rates[0] / rates[1]:.2f}")  # fmt: skip
    plain_model = lively(ProgressiveHyperprior(128, 192)).to(device).eval()
    our_model = copy.deepcopy(plain_model).to(memory_format=torch.channels_last)
    pictures = [data.read_image(path) for path in kodak[: arguments.evaluated]]
    seconds = rounds(
        arguments.rounds,
        lambda evaluate: timed(lambda: [evaluate(picture) for picture in pictures]),
        partial(our_evaluation, our_model), partial(plain_evaluation, plain_model),
    )  # fmt: skip
    print(f"evaluation of {len(pictures)} images at {len(P_LEVELS)} levels, seconds: "
          f"ours {seconds[0]:.2f}, plain {seconds[1]:.2f}, "
          f"ratio {seconds[1] / seconds[0]:.2f}")  # fmt: skip


def lively(model: ProgressiveHyperprior) -> ProgressiveHyperprior:
    """Untrained, but with latents so far from zero that every level differs, as a trained one's."""
    with torch.no_grad():
        model.g_a[-1].weight *= 60
        model.h_a[-1].weight *= 60
    return model


def rounds(count: int, measure: Callable, *contestants) -> list[float]:
    """Medians of `count` measurements of each contestant, in turn, after a first, uncounted one."""
    measured: list[list[float]] = [[] for _ in contestants]
    for index in range(count + 1):
        for values, contestant in zip(measured, contestants, strict=True):
            value = measure(contestant)
            if index:
                values.append(value)
    return [statistics.median(values) for values in measured]


def timed(work: Callable) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def rate(steps: Iterator[float], count: int) -> float:
    """Images of 256x256 a second over the next `count` steps; each step yields how many it took."""
    done: list[float] = []
    seconds = timed(lambda: done.extend(next(steps) for _ in range(count)))
    return sum(done) / seconds


def our_training(paths: list[Path], trainer: str) -> Iterator[float]:
    """Our recipe, step by step, as `progdtd.training` runs it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose("train", [f"trainer={trainer}"])
    options = cfg.trainer
    fabric = make_fabric(options)
    model = ProgressiveHyperprior(128, 192).to(memory_format=torch.channels_last)
    optimizers = make_optimizers(model, options)
    if options.compile:
        model.g_a.compile()
        model.g_s.compile()
    module, main_optimizer, aux_optimizer = fabric.setup(RateDistortion(model, 0.1), *optimizers)
    drop = TailDrop(latent=True, hyper=True)
    batches = data.Batches(paths, options.batch_size, options.crop)
    for images in data.loader(batches, range(1_000_000), cfg.dataset.workers):
        x = fabric.to_device(images).float() / 255
        p = fabric.to_device(drop.draw(len(x), torch.default_generator))
        out = module(x, p, p)
        fabric.backward(out["loss"] + out["aux"])
        fabric.clip_gradients(module, main_optimizer, max_norm=options.clip)
        for optimizer in (main_optimizer, aux_optimizer):
            optimizer.step()
            optimizer.zero_grad()
        yield x.shape[0] * x.shape[2] * x.shape[3] / PIXELS


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
def plain_evaluation(model: ScaleHyperprior, picture: np.ndarray) -> None:
    """The published protocol: for every p, four patches one after another, then three metrics."""
    squashed = Image.fromarray(picture).resize((512, 512), Image.Resampling.BILINEAR)
    x = transforms.ToTensor()(squashed)[None]
    device = next(model.parameters()).device
    for p in P_LEVELS:
        x_hat = torch.zeros_like(x)
        for top in (0, 256):
            for left in (0, 256):
                patch = x[..., top : top + 256, left : left + 256].to(device)
                decoded, likelihoods = plain_forward(model, patch, [p])
                sum(values.log().sum() for values in likelihoods).item()
                x_hat[..., top : top + 256, left : left + 256] = decoded.cpu()
        torch.nn.functional.mse_loss(x_hat, x).item()
        ms_ssim(x_hat, x, data_range=1).item()
        ssim(x_hat, x, data_range=1).item()


def our_evaluation(model: ProgressiveHyperprior, picture: np.ndarray) -> None:
    """The same protocol as `progdtd.evaluate` runs it, with the rates of all patches too."""
    drop = TailDrop(latent=True, hyper=True)
    device = next(model.parameters()).device
    list(protocols.reference(model, drop, picture, P_LEVELS, device))


if __name__ == "__main__":
    main()
