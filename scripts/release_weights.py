"""Half the size of trained weights: `python scripts/release_weights.py RUN out.safetensors`.

The transforms are rounded to half precision, the frequency tables are made anew, and the file is
written only if no level of any image decodes to a picture that is worse by more than 0.01 dB on
average. It holds all that encoding and decoding need, and has a fingerprint of its own.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from progdtd import Codec, checkpoint, data
from progdtd.errors import UserError
from progdtd.fingerprint import build_tables
from progdtd.metrics import psnr

TOLERANCE_DB = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a run directory or a weights file")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument(
        "--images", type=Path, help="a folder to compare on; default: the bundled photographs"
    )
    options = parser.parse_args()
    try:
        release(options.model, options.out, options.images)
    except UserError as error:
        sys.exit(str(error))


def release(source: str, out: Path, images: Path | None) -> None:
    """Write the rounded weights of a model.

    Raises:
        UserError: rounding costs too much, or there is no such model or folder.
    """
    exact, rounded = checkpoint.load_model(source), checkpoint.load_model(source)
    checkpoint.round_transforms(rounded.model, torch.float16)
    build_tables(rounded.model)
    before, after = Codec(exact), Codec(rounded)
    paths = data.folder(images) if images else data.photos()
    losses = [
        quality(before, picture) - quality(after, picture)
        for _, picture in data.pictures(tqdm(paths, "comparing", unit="image", disable=None))
    ]
    worst = float(np.mean(losses, axis=0).max())
    if not worst <= TOLERANCE_DB:
        raise UserError(
            f"Half precision costs {worst:.4f} dB at one level, more than {TOLERANCE_DB}: nothing "
            f"was written. Use {source} as it is."
        )
    checkpoint.save_weights(out, rounded.model, rounded.meta, torch.float16)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, fingerprint {after.fingerprint.hex()}; "
          f"half precision costs {worst:+.4f} dB at the worst level")  # fmt: skip


def quality(codec: Codec, picture: np.ndarray) -> np.ndarray:
    """PSNR in dB of the picture at each level."""
    decoder, x = codec.decoder(), data.to_tensor(picture)
    levels = decoder.levels_of(codec.encode(picture))
    return np.array([psnr(x, data.to_tensor(decoder.picture())) for _ in levels])


if __name__ == "__main__":
    main()
