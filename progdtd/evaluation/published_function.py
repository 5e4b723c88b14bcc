"""The published interface: one call gives a model's mean results on a set of images at one p."""

import math
import warnings
from pathlib import Path

import numpy as np
import torch

from progdtd import data
from progdtd.errors import UserError
from progdtd.evaluation import protocols
from progdtd.files import matching
from progdtd.images import read_image, readable
from progdtd.metrics import to_db
from progdtd.models import weights
from progdtd.options import number


def ProgDTD(  # noqa: N802
    model_address: str | Path,
    p: float,
    Lambda: float,  # noqa: N803
    dataset_address: str | Path,
) -> tuple[float, float, float, float]:
    """Evaluate a model as the published function of this name does, with the published protocol.

    Every image is squashed to 512x512 and coded as four 256x256 patches; the rate is that of the
    bottom-right patch alone and is estimated, not that of a stream. `protocols.native` does it
    right.

    Args:
        model_address: anything that `weights.load_model` takes, among them checkpoints of the
            published code.
        p: fraction of the channels to keep, of latent and hyper-latent alike, 0 < p <= 1.
        Lambda: what the model was trained with. It changes nothing; if the model says otherwise,
            there is a warning.
        dataset_address: a folder of images, or a glob pattern such as `kodak/*.png`.

    Returns:
        `images_size, psnr, msssim, ssim`, means over the images of per-image values: bits per
        pixel, then PSNR, MS-SSIM and SSIM in dB (the latter two as `-10 log10(1 - s)`).

    Raises:
        UserError: p out of its range, no usable model, no images, or one that cannot be read.
    """
    if not (number(p) and 0 < p <= 1):
        raise UserError(
            f"p={p!r} is not a fraction of the channels: give 0 < p <= 1. (The published code drew "
            "p at random for p=0; for the shortest prefix give a small p such as 0.001.)"
        )
    paths = _images(dataset_address)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = weights.load_model(model_address, device)
    trained = loaded.lmbda
    if trained is not None and not (number(Lambda) and math.isclose(trained, Lambda)):
        warnings.warn(
            f"{model_address} was trained with lambda={trained:g}: Lambda={Lambda!r} is ignored.",
            stacklevel=2,
        )
    values = []
    for path in paths:
        with readable(str(path)):
            picture = read_image(path)
        rows = protocols.reference(loaded.model, loaded.drop, picture, [p])
        row = next(row for row in rows if row["protocol"] == "reference")
        values.append((row["bpp"], row["psnr"], row["ms_ssim_db"], to_db(row["ssim"])))
    images_size, psnr, msssim, ssim = np.mean(values, axis=0).tolist()
    return images_size, psnr, msssim, ssim


def _images(address: str | Path) -> list[Path]:
    """The images in a folder, or the files that a glob pattern matches."""
    named = isinstance(address, str | Path) and str(address)
    there = matching(str(address)) if named else []
    if len(there) == 1 and there[0].is_dir():
        return data.folder(there[0])
    paths = [path for path in there if path.is_file()]
    if not paths:
        raise UserError(
            f"{address!r} is not a folder and matches no file: give a folder of images or a glob "
            "pattern such as 'kodak/*.png'."
        )
    return paths
