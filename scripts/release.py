"""Weights to hand on, with a card: `python scripts/release.py RUN... --to outputs/reference`.

For each run `<to>/<run>/` gets its weights at half the size, its config, its tables of training and
a card that says how it was made. The transforms are rounded to half precision, the frequency tables
are made anew, and nothing is written if any level of the images decodes to a picture that is worse
by more than 0.01 dB on average. The released model has a fingerprint of its own.
"""

import shutil
from pathlib import Path

import command
import numpy as np
import torch
from every_level import prefixes
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from progdtd import Codec, data
from progdtd.codec import model_store
from progdtd.codec.container import CHANNELS
from progdtd.codec.hyperprior import HyperpriorCoder
from progdtd.errors import UserError
from progdtd.evaluation import markdown
from progdtd.experiment import run
from progdtd.files import WEIGHTS, write_aside
from progdtd.images import pictures
from progdtd.models import weights
from progdtd.models.weights import build_tables
from progdtd.tail_drop import TailDrop

TOLERANCE_DB = 0.01
TABLES = ("metrics.csv", "validation.csv")


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="run directories")
    parser.add_argument("--to", type=Path, required=True, help="the folder to write to")
    parser.add_argument(
        "--images", type=Path, help="a folder to compare on; default: the bundled photographs"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace other models of these names: their streams are lost",
    )
    options = parser.parse_args()
    outs = [options.to / directory.resolve().name for directory in options.runs]
    if twice := {out for out in outs if outs.count(out) > 1}:
        raise UserError(f"Several runs would be written to {min(twice)}: one at a time.")
    for directory, out in zip(options.runs, outs, strict=True):
        release(directory, out, options.images, options.replace)


def release(directory: Path, out: Path, images: Path | None, replace: bool) -> None:
    """Write the rounded weights of a run, its config, its tables and its card.

    Raises:
        UserError: rounding costs too much, the run is not finished, `out` is the run itself or
            holds another model that is not to be replaced, or there are no images to compare on.
    """
    for name in (WEIGHTS, run.CONFIG):
        if not (directory / name).exists():
            raise UserError(f"{directory} is no finished run: it has no {name}.")
    if out.resolve() == directory.resolve():
        raise UserError(f"{out} is the run itself, whose weights would be lost: give another --to.")
    exact, rounded = (weights.load_model(directory) for _ in range(2))
    weights.round_transforms(rounded.model, torch.float16)
    build_tables(rounded.model)
    before, after = Codec(HyperpriorCoder(exact)), Codec(HyperpriorCoder(rounded))
    target = out / WEIGHTS
    same = not target.exists() or model_store.fingerprint_in(out) == after.fingerprint.hex()
    if not (same or replace):
        raise UserError(
            f"{target} is another model, whose streams would no longer decode: give "
            "another --to, or --replace."
        )
    paths = data.folder(images) if images else data.photos()
    losses = [
        np.subtract(psnrs(before, picture), psnrs(after, picture))
        for _, picture in pictures(tqdm(paths, "comparing", unit="image", disable=None))
    ]
    if not losses:
        raise UserError(f"None of the {len(paths)} images can be read.")
    worst = float(np.mean(losses, axis=0).max())
    if not worst <= TOLERANCE_DB:
        raise UserError(
            f"Half precision costs {worst:.4f} dB at one level, more than {TOLERANCE_DB}: nothing "
            f"was written. Use {directory} as it is."
        )
    config = OmegaConf.load(directory / run.CONFIG)
    for part in (config.dataset, config.dataset.paths):
        if "root" in part:  # where it was is of no use to others
            part.root = Path(part.root).name
    for part in (config, rounded.meta):
        if part.get("init_from"):
            part["init_from"] = Path(part["init_from"]).name
    weights.save_weights(target, rounded.model, rounded.meta, torch.float16)
    size = f"{target.stat().st_size / 1e6:.1f} MB, fingerprint {after.fingerprint.hex()}"
    cost = f"half precision costs {worst:+.4f} dB at the worst level"
    write_aside(out / run.CONFIG, lambda aside: OmegaConf.save(config, aside))
    for table in (directory / name for name in TABLES):
        if table.exists():
            write_aside(out / table.name, lambda aside, table=table: shutil.copyfile(table, aside))
    text = card(directory, config, rounded.drop, f"{size}; {cost}")
    write_aside(out / "README.md", lambda aside: aside.write_text(text))
    print(f"{target}: {size}; {cost}")


def card(directory: Path, config: DictConfig, drop: TailDrop, size: str) -> str:
    """How a model was made, as Markdown: its own training and those that it began from."""
    made = run.recorded(directory)
    optimizer = OmegaConf.select(config, "trainer.optimizer._target_", default="torch.optim.Adam")
    sizes = (f"{k} = {v}" for k, v in config.model.items() if k not in ("name", "_target_"))
    batch = config.trainer.batch_size * made.get("processes", 1)
    facts = {
        "model": ", ".join((config.model.name, *sizes)),
        "tail drop": drop.name
        + f", p from {list(drop.range)}, the last for {drop.full:.0%} of the images"
        * drop.progressive
        + f", u^{drop.power:g} of uniform u" * (drop.progressive and drop.power != 1),
        "lambda": f"{config['lambda']:g}",
        "seed": config.seed,
        "data": f"dataset={config.dataset.name}; {len(made.get('held_out', []))} images held out",
        "optimizer": f"{optimizer.rpartition('.')[2]}, learning rate {config.trainer.lr:g}",
        "batch": f"{batch} crops of {config.trainer.crop}x{config.trainer.crop}",
        "device": f"{made.get('device')}, {made.get('cores')} cores, {made.get('precision')}",
        "torch": made.get("packages", {}).get("torch"),
        "commit": made.get("git_commit"),
        "weights": size,
    }
    meta = weights.read_weights(directory)[1]
    trainings = [
        (
            one["name"],
            one.get("steps", ""),
            one.get("images_seen", ""),
            f"{one['wall_time_s'] / 3600:.2f}" if "wall_time_s" in one else "",
        )
        for one in ({"name": directory.name} | meta, *meta.get("ancestors", []))
    ]
    header = ("training, the last first", "steps", "images seen", "hours")
    tables = (markdown.table(("", ""), facts.items(), "l"), markdown.table(header, trainings))
    return "\n\n".join((f"# {directory.name}", *tables)) + "\n"


def psnrs(codec: Codec, picture: np.ndarray) -> list[float]:
    """PSNR in dB of the picture at each level of channels."""
    return prefixes(codec, codec.encode(picture, CHANNELS), picture)[1]


if __name__ == "__main__":
    command.run(main)
