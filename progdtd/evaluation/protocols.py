"""Ways to evaluate a hyperprior on an image at several levels: done right, as published, and in
passing."""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from progdtd.codec.container import CHANNELS, PLANES, read_header
from progdtd.codec.hyperprior import HyperpriorCoder
from progdtd.codec.latent_refinement import Effort, fit
from progdtd.downsampling_factor import HYPER_FACTOR
from progdtd.evaluation import streams
from progdtd.evaluation.streams import Row
from progdtd.images import to_tensor
from progdtd.metrics import Quality, eight_bit
from progdtd.models import Progressive
from progdtd.tail_drop import TailDrop, fraction, kept


@torch.inference_mode()
def native(
    coder: HyperpriorCoder,
    picture: np.ndarray,
    levels: Sequence[float],
    kinds: Sequence[str] = (CHANNELS,),
    effort: int = 0,
) -> Iterator[Row]:
    """Code a whole image at its own size into a stream of each kind, and decode prefixes of it.

    Args:
        coder: of the model.
        picture: (H, W, 3) uint8, any size.
        levels: fractions p of the channels to keep, or of a stream of planes those of its bytes.
            Those of the channels that are below the model's range of p are not levels of a stream,
            unless all are; those above it are its top.
        kinds: of levels, of `channels` and `planes`.
        effort: steps in which the latent is fitted to the image.

    Yields:
        for each kind and fraction a row of results: bytes of the prefix that holds it (of planes,
        of the last level that ends within it, or of the first), header and all; of channels, the
        bits that the model estimates for coding it alone; quality of the decoded 8-bit picture;
        seconds to encode the whole stream and to decode the prefix.

    Raises:
        UserError: effort is refused, or the model has no sensitivities for planes.
    """
    height, width = picture.shape[:2]
    start = time.perf_counter()
    y, z = coder.analyse(picture, effort)
    analysis_s = time.perf_counter() - start
    on_device = y.to(coder.device), z.to(coder.device)
    within = coder.drop.within(levels) or levels
    for kind in kinds:
        start = time.perf_counter()
        fractions, wanted = (levels, PLANES) if kind == PLANES else (within, within)
        stream = coder.encode_latents(y, z, width, height, wanted)
        encode_s = analysis_s + time.perf_counter() - start
        known = coder.levels_of(read_header(stream)[0]).latents.known
        for level, row in streams.levels_at(coder, stream, picture, fractions, coder.device):
            latent, hyper = known(level)
            row |= {"latent_channels": latent, "hyper_channels": hyper, "encode_s": encode_s}
            if kind == CHANNELS:  # of the hyper-latent more, where several p share a level
                kept_of = coder.drop.fractions(row["p"])[0], fraction(hyper, z.shape[1])
                _, likelihoods = coder.model.quantise(*on_device, *kept_of)
                row["bpp_estimated"] = bits(likelihoods).item() / (height * width)
            yield row


@torch.inference_mode()
def estimate(
    model: Progressive, drop: TailDrop, picture: np.ndarray, levels: Sequence[float]
) -> Iterator[tuple[Row, Tensor]]:
    """Quality and estimated rate of a whole image, without a stream: what validation needs.

    Args:
        model: in evaluation mode.
        drop: which tails a level cuts.
        picture: (H, W, 3) uint8, any size; padded to multiples of 64 by repeating the edge.
        levels: fractions p of the channels to keep.

    Yields:
        for each fraction a row of results (bits per pixel of the image without padding) and the
        reconstruction (3, H, W) in [0, 1], rounded to 8 bits, on the CPU.
    """
    x = to_tensor(picture).to(model.device).contiguous()
    height, width = x.shape[-2:]
    padded = functional.pad(
        x, (0, -width % HYPER_FACTOR, 0, -height % HYPER_FACTOR), mode="replicate"
    )
    y, z = model.analyse(padded.contiguous(memory_format=torch.channels_last))
    quality = Quality(x)
    for p in levels:
        y_hat, likelihoods = model.quantise(y, z, *drop.fractions(p))
        x_hat = eight_bit(model.g_s(y_hat)[..., :height, :width].float()).contiguous()
        bpp = bits(likelihoods).item() / (height * width)
        row = {"p": p, "bpp": bpp, "bpp_estimated": bpp} | quality(x_hat)
        yield row, x_hat[0].cpu()


@torch.inference_mode()
def reference(
    model: Progressive,
    drop: TailDrop,
    picture: np.ndarray,
    levels: Sequence[float],
    effort: Effort | None = None,
) -> Iterator[Row]:
    """Evaluate as the published code does, flaws included (`val.py` of the published repository).

    The image is squashed to 512x512 and coded as four 256x256 patches; the reconstruction is not
    rounded to 8 bits; the published rate is that of the bottom-right patch alone.

    Args:
        model, drop, picture, levels: as for `estimate`.
        effort: with which the latents are fitted to the patches.

    Yields:
        for each fraction two rows of the same quality: protocol `reference` with the rate of the
        last patch, and `reference-all-patches` with the rate of all four.
    """
    squashed = np.asarray(Image.fromarray(picture).resize((512, 512), Image.Resampling.BILINEAR))
    x = to_tensor(squashed).to(model.device).contiguous()
    patches = _patches(x).contiguous(memory_format=torch.channels_last)
    y, z = model.analyse(patches)
    if effort:
        y = fit(model, drop, effort, patches, y, z, side=y.shape[-1])
    quality = Quality(x)
    known, scores = None, {}
    for p in levels:
        y_hat, likelihoods = model.quantise(y, z, *drop.fractions(p))
        if known is None or not torch.equal(y_hat, known):
            x_hat = _whole(model.g_s(y_hat).float().clamp(0, 1).contiguous())
            known, scores = y_hat, quality(x_hat)
        bpp = bits(likelihoods) / 256**2
        latent, hyper = map(kept, drop.fractions(p), (y.shape[1], z.shape[1]))
        row: Row = {"p": p, "latent_channels": latent, "hyper_channels": hyper} | scores
        row |= {"kind": CHANNELS, "width": 512, "height": 512}
        for protocol, rate in (("reference", bpp[-1]), ("reference-all-patches", bpp.mean())):
            rates = {"bpp": rate.item(), "bpp_estimated": rate.item()}
            yield row | {"protocol": protocol} | rates


def bits(likelihoods: dict[str, Tensor]) -> Tensor:
    """Estimated bits of each image of a batch, shape (B,): minus log2 of all likelihoods."""
    each = [one.log2().flatten(1).sum(1, dtype=torch.float64) for one in likelihoods.values()]
    return -torch.stack(each).sum(0)


def _patches(x: Tensor) -> Tensor:
    """(1, 3, 512, 512) to its quadrants (4, 3, 256, 256), row by row."""
    return x.view(3, 2, 256, 2, 256).permute(1, 3, 0, 2, 4).reshape(4, 3, 256, 256)


def _whole(patches: Tensor) -> Tensor:
    """The inverse of `_patches`."""
    return patches.view(2, 2, 3, 256, 256).permute(2, 0, 3, 1, 4).reshape(1, 3, 512, 512)
