"""Every level of every image decoded: `python scripts/every_level.py RUN... --images DIR`.

Are there many levels of planes, does each bring bytes, is the picture never worse for them, and how
much longer do they make the whole stream? A row for each model, over all images.
"""

from functools import partial
from pathlib import Path

import command
import numpy as np
import readme
import torch
from torch import nn
from tqdm import tqdm

from progdtd import Codec, data
from progdtd.codec.hyperprior import HyperpriorCoder
from progdtd.downsampling_factor import HYPER_FACTOR
from progdtd.errors import UserError
from progdtd.evaluation import markdown
from progdtd.files import data_root
from progdtd.images import pictures, to_tensor
from progdtd.metrics import psnr
from progdtd.models import weights


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="runs or weights files")
    kodak = data_root() / "kodak"
    parser.add_argument("--images", type=Path, default=kodak, help=f"a folder (default: {kodak})")
    parser.add_argument("--readme", action="store_true", help="put the table into its page")
    options = parser.parse_args()
    header = (
        "λ",
        "range of p",
        "levels",
        "bytes of a level",
        "PSNR more at a level, dB",
        "whole stream over one level",
        "over CompressAI's",
    )
    paths = data.folder(options.images)
    text = markdown.table(
        header,
        [row(run, paths) for run in options.runs],
        note=f"The least and the most, over all levels of {len(paths)} images; then all bytes, "
        "headers included, over those of the same channels coded at once: by this codec as a "
        "stream of one level, and by CompressAI's own class, whose strings have no header.",
    )
    readme.show({"every_level": text}, options.readme)


def row(run: Path, paths: list[Path]) -> tuple[str, ...]:
    """The cells of one model."""
    loaded = weights.load_model(run)
    codec = Codec(HyperpriorCoder(loaded))
    read = pictures(tqdm(paths, run.name, unit="image", disable=None))
    plain = compressai_model(loaded.model)
    measured = []
    for _, picture in read:
        height, width = picture.shape[:2]
        code = partial(codec.coder.encode_latents, *codec.coder.analyse(picture), width, height)
        measured.append(
            (
                *prefixes(codec, code("planes"), picture),
                len(code([1.0])),
                compressai_bytes(plain, picture),
            )
        )
    if not measured:
        raise UserError(f"None of the {len(paths)} images can be read.")
    ends, psnrs, one_level, compressai = zip(*measured, strict=True)
    counts = [len(of_image) for of_image in ends]
    whole = sum(of_image[-1] for of_image in ends)
    sizes = np.concatenate([np.diff(of_image) for of_image in ends])
    more = np.concatenate([np.diff(of_image) for of_image in psnrs])
    return (
        "" if loaded.lmbda is None else f"{loaded.lmbda:g}",
        f"[{', '.join(f'{end:g}' for end in loaded.drop.range)}]",
        f"{min(counts)} to {max(counts)}",
        f"{sizes.min()} to {sizes.max()}",
        f"{more.min():+z.3f} to {more.max():+z.3f}",
        *(f"{100 * (whole / sum(at_once) - 1):+z.2f} %" for at_once in (one_level, compressai)),
    )


def prefixes(codec: Codec, stream: bytes, picture: np.ndarray) -> tuple[list[int], list[float]]:
    """Where each level of a picture's stream ends, in bytes, and the PSNR (dB) of what it shows."""
    decoder, x, ends, psnrs = codec.decoder(), to_tensor(picture), [], []
    for _ in decoder.levels_of(stream):
        ends.append(decoder.position)
        psnrs.append(psnr(x, to_tensor(decoder.picture())))
    return ends, psnrs


def compressai_model(model: nn.Module) -> nn.Module:
    """The same weights in CompressAI's own class, ready to code."""
    bases = type(model).__mro__
    base = next(base for base in bases if base.__module__.startswith("compressai.models"))
    plain = base(model.N, model.M).eval()
    plain.load_state_dict(model.state_dict())
    plain.update(force=True)
    return plain


@torch.no_grad()
def compressai_bytes(plain: nn.Module, picture: np.ndarray) -> int:
    """Bytes of the strings of all channels, of a picture padded like the codec pads it."""
    height, width = picture.shape[:2]
    padded = np.pad(
        picture, ((0, -height % HYPER_FACTOR), (0, -width % HYPER_FACTOR), (0, 0)), "edge"
    )
    strings = plain.compress(to_tensor(padded).contiguous())["strings"]
    return sum(len(string) for batch in strings for string in batch)


if __name__ == "__main__":
    command.run(main)
