"""Every level of every image decoded: `python scripts/every_level.py RUN... --images DIR`.

Are there many levels of planes, does each bring bytes, and is the picture never worse for them? A
row for each model, over all images.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import readme
from tqdm import tqdm

from progdtd import Codec, checkpoint, data, markdown
from progdtd.errors import UserError
from progdtd.metrics import psnr
from progdtd.paths import data_root


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="run", help="runs or weights files")
    kodak = data_root() / "kodak"
    parser.add_argument("--images", type=Path, default=kodak, help=f"a folder (default: {kodak})")
    parser.add_argument("--readme", action="store_true", help="put the table into the README")
    options = parser.parse_args()
    header = ("λ", "range of p", "levels", "bytes of a level", "PSNR more at a level, dB")
    try:
        paths = data.folder(options.images)
        table = markdown.table(header, [row(run, paths) for run in options.runs])
    except UserError as error:
        sys.exit(str(error))
    text = f"{table}\n\nThe least and the most, over all levels of {len(paths)} images."
    print(text)
    if options.readme:
        readme.put("every_level", text)


def row(run: Path, paths: list[Path]) -> tuple[str, ...]:
    """The cells of one model."""
    loaded = checkpoint.load_model(run)
    codec = Codec(loaded)
    pictures = data.pictures(tqdm(paths, run.name, unit="image", disable=None))
    decoded = [prefixes(codec, codec.encode(picture, "planes"), picture) for _, picture in pictures]
    if not decoded:
        raise UserError(f"None of the {len(paths)} images can be read.")
    ends, psnrs = zip(*decoded, strict=True)
    counts = [len(of_image) for of_image in ends]
    sizes = np.concatenate([np.diff(of_image) for of_image in ends])
    more = np.concatenate([np.diff(of_image) for of_image in psnrs])
    return (
        f"{loaded.meta['lambda']:g}",
        f"[{', '.join(f'{end:g}' for end in loaded.drop.range)}]",
        f"{min(counts)} to {max(counts)}",
        f"{sizes.min()} to {sizes.max()}",
        f"{more.min():+z.3f} to {more.max():+z.3f}",
    )


def prefixes(codec: Codec, stream: bytes, picture: np.ndarray) -> tuple[list[int], list[float]]:
    """Where each level of a picture's stream ends, in bytes, and the PSNR (dB) of what it shows."""
    decoder, x, ends, psnrs = codec.decoder(), data.to_tensor(picture), [], []
    for _ in decoder.levels_of(stream):
        ends.append(decoder.position)
        psnrs.append(psnr(x, data.to_tensor(decoder.picture())))
    return ends, psnrs


if __name__ == "__main__":
    main()
