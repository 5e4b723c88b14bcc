"""Where the time of a training step goes, beside the least that its arithmetic takes.

python scripts/profile_training.py trainer=gpu trainer.batch_size=64 dataset=folder dataset.root=DIR

Takes the words of `python -m progdtd.train`. The parts are timed one by one, each alone, so that
they need not add up to the step, in which a GPU works while Python goes on. The floor is that of
the model alone: its floating-point operations, forward and backward, counted, over the rate of a
large matrix product in the same precision.
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from progdtd import readers
from progdtd.evaluation import markdown
from progdtd.experiment.check import check
from progdtd.experiment.config import CONF, sentences
from progdtd.machine import keep_freed_memory
from progdtd.training.trainer import Trainer, device_name, products_in

SIDE = 4096
"""Of the matrices whose product shows what the hardware gives."""

CALLS = 10
"""Of a part, between two looks at the clock."""


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    keep_freed_memory()
    torch.backends.cudnn.benchmark = True
    with sentences(), tempfile.TemporaryDirectory() as directory:
        with initialize_config_dir(CONF, version_base="1.3"):
            cfg = compose("train", sys.argv[1:])
        check(cfg)
        print(report(Trainer(cfg, Path(directory)), cfg.dataset.workers))


def report(trainer: Trainer, workers: int | None) -> str:
    """Time the parts of a trainer's step; returns the result as Markdown."""
    loader = readers.loader(trainer.batches, range(1_000_000), workers, trainer.fabric.device)
    steps, device = itertools.count(), trainer.fabric.device
    images = trainer.fabric.to_device(next(loader)).contiguous(memory_format=trainer.layout)
    p, p_hyper = (part.tolist() for part in trainer.drop.fractions(trainer.draw(0, len(images))))

    def forward() -> dict[str, torch.Tensor]:
        return trainer.module(images, p, p_hyper)

    def gradients() -> None:
        out = forward()
        trainer.fabric.backward(out["loss"] + out["aux"])

    def update() -> None:
        with products_in(trainer.options.precision):
            for optimizer in trainer.optimizers:
                optimizer.step()

    counter = FlopCounterMode(display=False)
    with counter, torch.compiler.set_stance("force_eager"):
        gradients()
    parts = {
        "the whole step": lambda: trainer.step(next(steps), next(loader)),
        "reading a batch": lambda: next(loader),
        "forward": forward,
        "forward and backward": gradients,
        "optimizers": update,
    }
    times = {what: seconds(part, device) for what, part in parts.items()}
    dtype = torch.bfloat16 if trainer.options.precision == "bf16-mixed" else torch.float32
    rate, batch = matrix_rate(device, dtype), trainer.options.batch_size
    flops, crop = counter.get_total_flops(), trainer.options.crop
    times["floor of forward and backward"] = flops / rate
    asked = {what: f"{operations(part)}" for what, part in parts.items()}
    rows = [(what, f"{1e3 * value:.1f}", asked.get(what, "")) for what, value in times.items()]
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0
    return markdown.table(
        ("", "ms", "operations"),
        rows,
        note=f"{batch / times['the whole step']:.0f} crops of {crop}x{crop} a second, {batch} a "
        f"step; torch {torch.__version__}, {device_name(device)}"
        f"{f' ({peak:.1f} GiB of its memory)' if peak else ''}, {flops / 1e9:.1f} GFLOP "
        f"forward and backward, {rate / 1e12:.2f} TFLOP/s in a matrix product of "
        f"{str(dtype).removeprefix('torch.')}.",
    )


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call among so many that they take a second or more, after three uncounted."""
    for _ in range(3):
        work()
    calls, spent, started = 0, 0.0, synchronised(device)
    while spent < 1:
        for _ in range(CALLS):
            work()
        calls += CALLS
        spent = synchronised(device) - started
    return spent / calls


class Count(TorchDispatchMode):
    """Counts the operations that reach a device; views of tensors are none."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += not func.is_view
        return func(*args, **(kwargs or {}))


def operations(work: Callable[[], object]) -> int:
    """How many operations a call asks for, without compilation."""
    with Count() as count, torch.compiler.set_stance("force_eager"):
        work()
    return count.calls


def synchronised(device: torch.device) -> float:
    """The time at which the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """What the hardware gives: floating-point operations a second of a large matrix product."""
    a = torch.randn(SIDE, SIDE, device=device, dtype=dtype)
    return 2 * SIDE**3 / seconds(lambda: a @ a, device)


if __name__ == "__main__":
    main()
