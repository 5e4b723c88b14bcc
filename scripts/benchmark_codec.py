"""What the codec costs, in bytes and in time: `python scripts/benchmark_codec.py --model RUN`.

Bytes, means over the images at each level: the prefix that holds it, header and framing included;
the bits that the model estimates for the same nested coding; those for coding this level alone
(what nesting costs); PSNR of the decoded picture.

Levels of channels and of planes, of the same model: how many, what the whole stream is longer than
coding at once, time, PSNR at a quarter and at half of the bytes of coding at once, and the most
that PSNR falls from one level to the next.

Effort: seconds to encode, bytes and PSNR of the whole stream of planes after each number of steps.

Time, in turn and in one run, each codec in a process of its own: ours codes all levels,
CompressAI's own class codes the same weights at one rate. Quote the ratios of the medians.
"""

import resource
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import command
import numpy as np
import pandas as pd
import readme
import torch
from benchmark import advance, contestant, start
from every_level import compressai_model, prefixes
from tqdm import tqdm

from progdtd import Codec, data
from progdtd.codec import channels, model_store
from progdtd.codec.coder import Wanted
from progdtd.codec.container import CHANNELS, PLANES
from progdtd.downsampling_factor import HYPER_FACTOR
from progdtd.evaluation import markdown, protocols
from progdtd.images import pictures, read_image, to_tensor
from progdtd.machine import keep_freed_memory
from progdtd.metrics import psnr
from progdtd.models import weights
from progdtd.tail_drop import P_LEVELS, fraction, kept

EFFORTS = (0, 2, 5, 10, 20, 40)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--model", help="a run, a weights file or a name; default: as the codec")
    parser.add_argument("--images", type=Path, default="data/kodak", help="a folder of images")
    parser.add_argument("--rounds", type=int, default=7, help="timed encodings and decodings")
    parser.add_argument("--megapixels", type=float, help="also code one image of this size")
    parser.add_argument("--readme", action="store_true", help="put the tables into their pages")
    options = parser.parse_args()
    codec, paths = Codec.load(options.model), data.folder(options.images)
    if any(side % HYPER_FACTOR for side in read_image(paths[0]).shape[:2]):
        parser.error(
            f"{paths[0]}: the first image, which CompressAI's own class codes too, needs "
            f"sides that are multiples of {HYPER_FACTOR}."
        )
    parts = [
        times(options.model, paths[0], options.rounds),
        *([large(options.model, paths[0], options.megapixels)] if options.megapixels else []),
        kinds(codec, paths),
        efforts(codec, paths),
    ]
    report = {"benchmark_codec": "\n\n".join(parts), "stream": sizes(codec, paths)}
    readme.show(report, options.readme)


def kinds(codec: Codec, paths: list[Path]) -> str:
    """Levels of channels beside those of planes, as Markdown; every level is decoded and shown."""
    columns = {CHANNELS: P_LEVELS, PLANES: PLANES}
    rows = [
        {"kind": kind} | measure_levels(codec, picture, levels)
        for _, picture in pictures(tqdm(paths, "kinds", unit="image", disable=None))
        for kind, levels in columns.items()
    ]
    table = pd.DataFrame(rows).groupby("kind")
    mean, median, least, most = table.mean(), table.median(), table.min(), table.max()
    lines = {
        "levels": [f"{least.levels[k]:.0f} to {most.levels[k]:.0f}" for k in columns],
        "whole stream over coding at once": [f"{mean.over[k]:+.2f} %" for k in columns],
        "encode, without the analysis, s": [f"{median.encode_s[k]:.3f}" for k in columns],
        "decode, without the synthesis, s": [f"{median.decode_s[k]:.3f}" for k in columns],
        "PSNR at a quarter of the bytes, dB": [f"{mean.quarter[k]:.2f}" for k in columns],
        "PSNR at half of the bytes, dB": [f"{mean.half[k]:.2f}" for k in columns],
        "largest fall of PSNR at a level, dB": [f"{most.fall[k]:.3f}" for k in columns],
    }
    rows = [(name, *cells) for name, cells in lines.items()]
    return markdown.table(("levels of", *columns), rows)


def measure_levels(codec: Codec, picture: np.ndarray, levels: Wanted) -> dict[str, float]:
    """One image in one kind of level; seconds, bytes in percent, dB."""
    height, width = picture.shape[:2]
    latents = codec.coder.analyse(picture)
    at_once = len(codec.coder.encode_latents(*latents, width, height, [1.0]))
    code = codec.coder.encode_latents
    encode_s, stream = command.timed(code, *latents, width, height, levels)
    decode_s, _ = command.timed(codec.decoder().feed, stream)
    sizes, psnrs = prefixes(codec, stream, picture)
    return {
        "levels": len(sizes),
        "over": 100 * (len(stream) / at_once - 1),
        "encode_s": encode_s,
        "decode_s": decode_s,
        "quarter": float(np.interp(at_once / 4, sizes, psnrs)),
        "half": float(np.interp(at_once / 2, sizes, psnrs)),
        "fall": max(0.0, -float(np.diff(psnrs).min(initial=0))),
    }


def efforts(codec: Codec, paths: list[Path]) -> str:
    """What steps of effort cost and bring, as Markdown."""
    rows = []
    for _, picture in pictures(tqdm(paths, "efforts", unit="image", disable=None)):
        x = to_tensor(picture)
        for steps in EFFORTS:
            encode = partial(codec.encode, picture, PLANES, effort=steps)
            encode_s, stream = command.timed(encode)
            quality = psnr(x, to_tensor(np.asarray(codec.decode(stream))))
            rows.append((steps, encode_s, len(stream), quality))
    columns = ["effort", "encode_s", "bytes", "psnr"]
    mean = pd.DataFrame(rows, columns=columns).groupby("effort").mean()
    lines = [
        (f"{steps}", f"{row.encode_s:.2f}", f"{row.bytes:.0f}", f"{row.psnr:.2f}")
        for steps, row in mean.iterrows()
    ]
    return markdown.table(("effort, planes", "encode, s", "bytes", "PSNR (dB)"), lines, "r")


def sizes(codec: Codec, paths: list[Path]) -> str:
    """Bytes and PSNR at each level, as Markdown."""
    rows = []
    for path, picture in pictures(tqdm(paths, "sizes", unit="image", disable=None)):
        alone = list(protocols.native(codec.coder, picture, P_LEVELS))
        nested = nested_bits(codec, picture)
        rows += [
            row | {"image": path.stem, "nested": bits / (row["width"] * row["height"])}
            for row, bits in zip(alone, nested, strict=True)
        ]
    table = (
        pd.DataFrame(rows).groupby("p")[["bytes", "bpp", "nested", "bpp_estimated", "psnr"]].mean()
    )
    table["stream"] = 100 * (table.bpp / table.nested - 1)
    table["nesting"] = 100 * (table.nested / table.bpp_estimated - 1)
    columns = {
        "bytes": ("bytes", "{:.0f}"),
        "bpp": ("bpp", "{:.4f}"),
        "nested": ("nested, estimated", "{:.4f}"),
        "bpp_estimated": ("alone, estimated", "{:.4f}"),
        "psnr": ("PSNR (dB)", "{:.2f}"),
        "stream": ("stream over estimate", "{:+.2f} %"),
        "nesting": ("nesting over alone", "{:+.2f} %"),
    }
    rows = [
        (f"{p:g}", *(form.format(row[name]) for name, (_, form) in columns.items()))
        for p, row in table.iterrows()
    ]
    return markdown.table(("p", *(heading for heading, _ in columns.values())), rows, "r")


@torch.inference_mode()
def nested_bits(codec: Codec, picture: np.ndarray) -> list[float]:
    """Estimated bits of each level in the nested coding, by the model's own float likelihoods."""
    y, z = codec.coder.analyse(picture)
    sizes = y.shape[1], z.shape[1]
    total, known, by_level = 0.0, (0, 0), {}
    levels = codec.coder.drop.within(P_LEVELS)
    for level in channels.plan(codec.coder.drop, levels, *sizes):
        p_latent, p_hyper = (fraction(n, size) for n, size in zip(level, sizes, strict=True))
        _, likelihoods = codec.coder.model.quantise(y, z, p_latent, p_hyper)
        new = {
            name: likelihoods[name][:, first:last]
            for name, first, last in zip(("y", "z"), known, level, strict=True)
        }
        total, known = total + protocols.bits(new).item(), level
        by_level[level[0]] = total
    return [by_level[kept(codec.coder.drop.fractions(p)[0], sizes[0])] for p in levels]


def times(model: str | None, path: Path, rounds: int) -> str:
    """Seconds to encode and decode one image, as Markdown."""
    with contestant() as ours, contestant() as plain:
        ours.submit(start, our_times, model, path).result()
        plain.submit(start, plain_times, model, path).result()
        turns = [
            [pool.submit(advance).result() for pool in (ours, plain)]
            for _ in tqdm(range(rounds + 1), "times", disable=None)
        ]
    our, its = map(command.medians, zip(*turns[1:], strict=True))  # the first is not counted
    rows = [
        (step, f"{our[step]:.3f}", f"{its[step]:.3f}", f"{our[step] / its[step]:.2f}")
        for step in its
    ]
    return markdown.table(
        ("seconds", "all levels", "CompressAI, one rate", "ratio"),
        rows,
        note=f"One more level costs {our['level']:.3f} s for its symbols (mean of the levels) and "
        f"{our['synthesis']:.3f} s for the synthesis; symbols and their prior take "
        f"{100 * our['entropy'] / our['decode']:.0f} % of decoding.",
    )


def our_times(model: str | None, path: Path) -> Iterator[dict[str, float]]:
    """Seconds of one encoding and decoding of an image in all levels, again and again."""
    keep_freed_memory()
    codec, picture = Codec.load(model), read_image(path)
    while True:
        encode, stream = command.timed(codec.encode, picture, CHANNELS)
        decode, _ = command.timed(codec.decode, stream)
        decoder = codec.decoder()
        symbols, levels = command.timed(list, decoder.levels_of(stream))
        synthesis, _ = command.timed(decoder.picture)
        parts = {"level": symbols / len(levels), "synthesis": synthesis, "entropy": symbols}
        yield {"encode": encode, "decode": decode} | parts


@torch.no_grad()
def plain_times(model: str | None, path: Path) -> Iterator[dict[str, float]]:
    """The same of CompressAI's `compress` and `decompress`, as they come."""
    plain = compressai_model(weights.load_model(model_store.by_name(model)).model)
    x = to_tensor(read_image(path)).contiguous()
    while True:
        encode, coded = command.timed(plain.compress, x)
        decode, _ = command.timed(plain.decompress, coded["strings"], coded["shape"])
        yield {"encode": encode, "decode": decode}


def large(model: str | None, path: Path, megapixels: float) -> str:
    """Time and memory of coding one large image in a process of its own, as a sentence."""
    with contestant() as process:
        return process.submit(code_large, model, path, megapixels).result()


def code_large(model: str | None, path: Path, megapixels: float) -> str:
    keep_freed_memory()
    codec, picture = Codec.load(model), read_image(path)
    repeats = round((megapixels * 1e6 / (picture.shape[0] * picture.shape[1])) ** 0.5 + 0.5)
    tiled = np.tile(picture, (repeats, repeats, 1))
    encode_s, stream = command.timed(codec.encode, tiled, PLANES)
    decode_s, _ = command.timed(codec.decode, stream)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return (
        f"An image of {tiled.shape[1]}×{tiled.shape[0]} pixels ({tiled.size / 3e6:.1f} megapixels) "
        f"is encoded as planes in {encode_s:.0f} s and decoded in {decode_s:.0f} s, with "
        f"{peak:.2f} GiB of memory at the peak."
    )


if __name__ == "__main__":
    command.run(main)
