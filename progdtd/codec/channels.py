"""Levels of channels: each brings the next channels of the hyper-latent, then of the latent.

The latent's symbols are coded with the scales (and means) that the hyper-synthesis predicts from
the channels of the hyper-latent known at that level. Nothing already sent is ever sent again.

A payload is ANS code of the hyper-latent's new channels, each with its own table, and of what they
escape; then of a check, the low 16 bits of the CRC-32 of the new channels' classes of scale, a byte
each, and means, if the prior has them, each 4 bytes, in 1/4096; then of the latent's new channels,
gathered by class, classes in rising order, elements of a class in the order channel, row, column,
and of what they escape. `entropy.py` has the code and the classes, of which a scale at a threshold
has the upper, `integer_network.py` how the scales and means are computed. The hyper-latent's tables
are those of CompressAI's entropy bottleneck, of sum 2^16. A symbol stands for the difference to the
mean (of the hyper-latent: to the channel's median, in 1/4096).

The parameters of the levels, in the container's header, are one pair of varints for each level:
how many channels of the latent (at least one) and of the hyper-latent it adds. No parameters stand
for the paper's 16 fractions with both tails dropped.
"""

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from progdtd.codec import container, entropy
from progdtd.codec.container import CHANNELS, Header
from progdtd.codec.entropy import (
    CLASSES,
    LARGEST,
    Decoder,
    Encoder,
    Table,
    gaussian_tables,
    thresholds,
)
from progdtd.codec.errors import DamagedError
from progdtd.codec.integer_network import UNIT, IntegerSynthesis
from progdtd.downsampling_factor import LATENT_TO_HYPER
from progdtd.models import Progressive
from progdtd.tail_drop import P_LEVELS, TailDrop, kept

Counts = tuple[int, int]
"""Channels of the latent and of the hyper-latent known at a level."""


def plan(drop: TailDrop, p_levels: Sequence[float], latent: int, hyper: int) -> list[Counts]:
    """The levels for these fractions p: strictly more channels of the latent at each.

    Fractions that keep as many latent channels are one level; the last brings all that `drop` has
    trained.
    """
    known: dict[int, int] = {}
    for p in sorted({*(min(p, drop.top) for p in p_levels), drop.top}):
        p_latent, p_hyper = drop.fractions(p)
        known[kept(p_latent, latent)] = kept(p_hyper, hyper)
    return list(known.items())


def default_plan(latent: int, hyper: int) -> list[Counts]:
    """The paper's 16 fractions, both tails dropped."""
    return plan(TailDrop(latent=True, hyper=True), P_LEVELS, latent, hyper)


def pack(levels: Sequence[Counts], latent: int, hyper: int) -> bytes:
    """Levels as the container's parameters."""
    if list(levels) == default_plan(latent, hyper):
        return b""
    pairs = zip(levels, [(0, 0), *levels[:-1]], strict=True)
    return b"".join(
        container.varint(y - y_before) + container.varint(z - z_before)
        for (y, z), (y_before, z_before) in pairs
    )


def unpack(parameters: bytes, levels: int, latent: int, hyper: int) -> list[Counts]:
    """The inverse of `pack`: all that was planned, of which a stream has the first `levels`.

    Raises:
        DamagedError: the parameters do not suit the model, or plan fewer levels.
        IncompleteError: they end within a number.
    """
    known = default_plan(latent, hyper)
    if parameters:
        added = container.varints(parameters)
        ys, zs = (list(itertools.accumulate(added[first::2])) for first in (0, 1))
        if len(ys) != len(zs) or min(added[::2]) < 1 or ys[-1] > latent or zs[-1] > hyper:
            raise DamagedError("the levels in the header are not those of this model")
        known = list(zip(ys, zs, strict=True))
    if levels > len(known):
        raise DamagedError(f"the header has {levels} levels for {len(known)} steps")
    return known


class Prior:
    """What encoder and decoder must agree on, in integers.

    `synthesis` is `h_s`; `scale_rows` and `mean_rows` are which of its outputs are the scale and
    the mean (None: it is zero) of each of the M channels of the latent. `z_tables` has a table for
    each of the N channels of the hyper-latent, `y_tables` one for each of the 64 classes of scale.
    `medians` (N,) are those of the hyper-latent's channels, in 1/4096, `thresholds` (63,) int64 the
    scales, in 1/4096, where one class gives way to the next.

    Args:
        model: the hyperprior.

    Raises:
        TypeError: a part of its prior that has no form in integers.
    """

    def __init__(self, model: Progressive) -> None:
        bottleneck = model.entropy_bottleneck
        cdfs, lengths = bottleneck._quantized_cdf.cpu(), bottleneck._cdf_length.cpu()
        offsets = bottleneck._offset.tolist()
        self.synthesis = IntegerSynthesis(model.h_s)
        outputs = len(self.synthesis.layers[-1].weight)
        self.scale_rows, self.mean_rows = rows_of(model, outputs)
        self.z_tables = [
            Table(offset, np.diff(cdf[:length].numpy()).astype(np.int64))
            for cdf, length, offset in zip(cdfs, lengths, offsets, strict=True)
        ]
        self.y_tables = gaussian_tables()
        medians = bottleneck.quantiles[:, 0, 1].detach().cpu().double()
        self.medians = torch.round(medians * UNIT).long().numpy()
        self.thresholds = torch.from_numpy(thresholds(UNIT))

    @property
    def channels(self) -> Counts:
        """Channels of the latent and of the hyper-latent."""
        return len(self.scale_rows), len(self.z_tables)

    def hyper_symbols(self, z: Tensor) -> np.ndarray:
        """Symbols (N, H, W), int64, of a hyper-latent (1, N, H, W)."""
        return symbols_of(z[0] - torch.from_numpy(self.medians)[:, None, None] / UNIT)


def rows_of(model: Progressive, channels: int) -> tuple[list[int], list[int] | None]:
    """Which of the channels that `h_s` predicts are scales, and which means (None: zero).

    Raises:
        TypeError: `split` does more than choose channels.
    """
    probe = torch.arange(channels) + 0.5
    probe[1::2] *= -1  # so that nothing computed from a value is one of the others
    rows = {value: row for row, value in enumerate(probe.tolist())}
    scales, means = model.split(probe[None, :, None, None])
    try:
        return (
            [rows[value] for value in scales.flatten().tolist()],
            None if means is None else [rows[value] for value in means.flatten().tolist()],
        )
    except KeyError:
        raise TypeError("its split does more than choose channels of what h_s predicts") from None


Predicted = tuple[np.ndarray, Tensor | float]
"""Classes of scale (C, H, W), uint8, and means (C, H, W), float32 (0.0: none), of some channels."""


class Predictor:
    """What is known of the latent from the hyper-latent's channels so far."""

    def __init__(self, prior: Prior, height: int, width: int) -> None:
        self.prior, self.height, self.width = prior, height, width
        self._sums = prior.synthesis.begin(height, width)

    def extend(self, symbols: np.ndarray, first: int) -> None:
        """Take the hyper-latent's channels `first ...`: symbols (C, H, W)."""
        medians = self.prior.medians[first : first + len(symbols), None, None]
        z_hat = torch.from_numpy(symbols * UNIT + medians).double()[None]
        self.prior.synthesis.extend(self._sums, z_hat, first)

    def predict(self, first: int, last: int) -> Predicted:
        """What is known of some channels of the latent."""
        rows = self.prior.scale_rows[first:last]
        means = self.prior.mean_rows
        if means is not None:
            rows = rows + means[first:last]
        out = self.prior.synthesis.predict(self._sums, rows)[0]
        scales = out[: last - first].contiguous()
        classes = torch.bucketize(scales, self.prior.thresholds, right=True).to(torch.uint8)
        return classes.numpy(), 0.0 if means is None else out[last - first :].float() / UNIT

    def put(self, encoder: Encoder, symbols: np.ndarray, known: Counts, level: Counts) -> Predicted:
        """Code the channels of the hyper-latent that a level adds to those known, of its symbols
        (N, H, W), and a check of what they predict of the latent's new channels, which is returned.
        """
        (y_from, z_from), (y_to, z_to) = known, level
        encoder.put(list(symbols[z_from:z_to]), self.prior.z_tables[z_from:z_to])
        self.extend(symbols[z_from:z_to], z_from)
        predicted = self.predict(y_from, y_to)
        encoder.put_check(check_of(*predicted))
        return predicted

    def take(self, decoder: Decoder, known: Counts, level: Counts) -> Predicted:
        """The inverse of `put`.

        Raises:
            MismatchError: the encoder predicted something else.
        """
        (y_from, z_from), (y_to, z_to) = known, level
        size = self.height * self.width
        groups = decoder.take([size] * (z_to - z_from), self.prior.z_tables[z_from:z_to])
        self.extend(np.array(groups, np.int64).reshape(-1, self.height, self.width), z_from)
        predicted = self.predict(y_from, y_to)
        decoder.check(check_of(*predicted))
        return predicted


Show = Callable[[Tensor], np.ndarray]
"""Makes the picture (H, W, 3) uint8 of a latent (1, M, H, W)."""


class LatentDecoder:
    """Decodes a latent level after level, nothing twice, and shows what is known of it.

    Args:
        levels: of the stream.
        height, width: of the latent.
        show: makes the picture.

    `y_hat` (1, M, H, W) is the latent as it is known; `changed` says whether the last level changed
    it; `level` counts the levels decoded.
    """

    def __init__(self, levels: Any, height: int, width: int, show: Show) -> None:
        self.levels, self.show, self.level, self.changed = levels, show, 0, True
        prior: Prior = levels.prior
        self.y_hat = torch.zeros(1, prior.channels[0], height, width, dtype=torch.float32)
        self._predictor = Predictor(prior, height // LATENT_TO_HYPER, width // LATENT_TO_HYPER)
        self._decoder = Decoder()

    def feed(self, payload: bytes) -> None:
        """Decode the next level.

        Raises:
            MismatchError: the payload is not one that this model's encoder makes; `y_hat` stays.
        """
        self._decoder.begin(payload)
        self._feed()
        self.level += 1

    def _feed(self) -> None:
        """Decode the level that the decoder has begun, and bring `y_hat` and `changed` up to date.

        Raises:
            MismatchError: this model's encoder did not make it.
        """
        raise NotImplementedError

    def picture(self) -> np.ndarray:
        """Returns the picture (H, W, 3) uint8 of the latent as it is known."""
        return self.show(self.y_hat)


@dataclass(frozen=True)
class Channels:
    """The levels of channels of a latent.

    Args:
        prior: of the model.
        plan: the channels known at each level, from `plan` or `unpack`.
    """

    prior: Prior
    plan: Sequence[Counts]
    kind: ClassVar = CHANNELS

    def encode(self, y: Tensor, z: Tensor) -> tuple[bytes, list[bytes]]:
        """The parameters of the levels, and the payload of each.

        Args:
            y: latent (1, M, H, W), not quantised, on the CPU.
            z: hyper-latent (1, N, H/4, W/4), not quantised, on the CPU.
        """
        z_symbols = self.prior.hyper_symbols(z)
        predictor = Predictor(self.prior, *z.shape[-2:])
        encoders = []
        for known, level in itertools.pairwise([(0, 0), *self.plan]):
            encoders.append(encoder := Encoder())
            classes, means = predictor.put(encoder, z_symbols, known, level)
            order, sizes = _by_class(classes)
            symbols = symbols_of(y[0, known[0] : level[0]] - means).ravel()[order]
            encoder.put(np.split(symbols, np.cumsum(sizes)[:-1]), self.prior.y_tables)
        return pack(self.plan, *self.prior.channels), entropy.payloads(encoders)

    def decoder(self, height: int, width: int, show: Show) -> "ChannelDecoder":
        """Returns a decoder of a latent of this size."""
        return ChannelDecoder(self, height, width, show)

    def known(self, level: int) -> Counts:
        """How many channels of the latent and of the hyper-latent are known at a level."""
        return self.plan[level - 1]

    def level_at(self, header: Header, ends: Sequence[int], p: float) -> int:
        """How many levels hold no more than the fraction p of the channels, at least one."""
        latent, _ = self.prior.channels
        return max(1, sum(y <= kept(p, latent) for y, _ in self.plan))


class ChannelDecoder(LatentDecoder):
    """Decodes levels of channels; `y_hat` is zero where nothing is known, as in training."""

    levels: Channels

    def _feed(self) -> None:
        known = self.levels.known(self.level) if self.level else (0, 0)
        level = self.levels.known(self.level + 1)
        classes, means = self._predictor.take(self._decoder, known, level)
        order, sizes = _by_class(classes)
        symbols, tables = np.empty(classes.size, np.int64), self.levels.prior.y_tables
        symbols[order] = np.concatenate(self._decoder.take(sizes.tolist(), tables))
        self._decoder.finish(self.level + 1 == len(self.levels.plan))
        values = torch.from_numpy(symbols.reshape(classes.shape)).float() + means
        self.changed = self.level == 0 or bool(values.any())
        self.y_hat[0, known[0] : level[0]] = values


def check_of(classes: np.ndarray, means: Tensor | float) -> int:
    """16 bits that tell these classes (C, H, W) and means (C, H, W) from others."""
    crc = zlib.crc32(classes.tobytes())
    if isinstance(means, Tensor):
        crc = zlib.crc32((means.numpy() * UNIT).astype("<i4").tobytes(), crc)
    return crc & 0xFFFF


def symbols_of(values: Tensor) -> np.ndarray:
    """Differences to the means (or medians) as the integers that are coded, int64."""
    return values.nan_to_num(0.0).round().clamp(-LARGEST, LARGEST).long().numpy()


def _by_class(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices that gather elements by class, and how many each class has."""
    flat = classes.ravel()
    return np.argsort(flat, kind="stable"), np.bincount(flat, minlength=CLASSES)
