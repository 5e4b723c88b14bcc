"""The wavelet model: two small networks over the digits of wavelet coefficients.

Tail drop taken to its end: what is dropped here is a tail of *digits*. A picture's coefficients
(`wavelet/transform.py`) are known down to some digit, and at any such place in the stream

- `Digits` gives the probabilities of the next digits, from all that is known so far, and
- `Picture` shows what is known.

Digits are those of embedded zerotree and block coders (Shapiro 1993; Taubman, EBCOT, 2000): in the
plane of threshold T a coefficient that was below 2T says whether it is below T and, if it is not,
its sign; one that was not says in which half of its interval it lies. A plane goes in two passes,
each through all scales from coarse to fine: first the coefficients that are likely to become
significant, then, by a network that has seen these, the others.

What is known of a coefficient is one integer, its *place* j: the centre of its interval in quarters
of 2T, with its sign; 0 is an interval around zero of which this plane's digit is not known yet,
+-1 one of which it is. The same network serves all scales and planes, told apart by a learned
vector each, because wavelets look alike at all scales.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progdtd.wavelet import network, walk
from progdtd.wavelet.network import ZERO
from progdtd.wavelet.transform import COLOUR, COLOURS, GREY, HIGH, LOW, PREDICT, SCALES, UPDATE
from progdtd.wavelet.walk import PLANES, STEP

LIMIT = 8.0
"""Activations are within [0, LIMIT]."""

SEEN, FEATURE, SIGNED, LOGIT = 2.0**-5, 2.0**-5, 2.0**-3, 2.0**-3
"""What the networks' 8-bit integers count: what they see, features, sums, logits."""

WITHIN, PIXEL = 2.0**-7, 2.0**-4
"""And those of the picture alone: values within their intervals, sums of pixels' features."""

WEIGHT = 63
"""Weights are integers within +-WEIGHT, times a power of two for each output channel: two
products of such a weight and 8 bits stay within 16 bits, which some processors need."""

LIKELY, USEFUL = (walk.LIKELY - ZERO) * LOGIT, (walk.USEFUL - ZERO) * LOGIT


class Rounded(torch.autograd.Function):
    """Multiples of a step from `least` times it on, in 8 bits; gradients pass where x fits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: float, least: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limits = least * step, (least + 255) * step
        return x.mul(1 / step).round_().clamp_(least, least + 255).mul_(step)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, x, *ctx.limits), None, None


def rounded(x: Tensor, step: float, least: int = -128) -> Tensor:
    return Rounded.apply(x, step, least)


class IntegerConv(nn.Conv2d):
    """A convolution by integer weights; gradients pass as if they were not rounded."""

    def forward(self, x: Tensor) -> Tensor:
        passing = self.weight - self.weight.detach()
        return self._conv_forward(x, self.integers() * self.steps() + passing, self.bias)

    def steps(self) -> Tensor:
        """What the weights of each output channel count, (out, 1, 1, 1): powers of two."""
        largest = self.weight.detach().abs().amax((1, 2, 3), keepdim=True)
        return torch.exp2(torch.ceil(torch.log2(largest.clamp(min=2.0**-12) / WEIGHT)))

    def integers(self) -> Tensor:
        """The weights, as whole numbers."""
        return (self.weight.detach() / self.steps()).round()


class Trunk(nn.Module):
    """Features of one scale from what is known there and at the coarser scales.

    Args:
        channels: coefficients at a position, C.
        width: features at a position.
        conditions: rows of the learned vectors.
        outputs: numbers a coefficient that `head` gives.
        step: what an integer of these counts.
    """

    def __init__(
        self, channels: int, width: int, conditions: int, outputs: int, step: float
    ) -> None:
        super().__init__()
        self.step = step
        self.known = IntegerConv(2 * channels, width, 3, padding=1)
        self.first = IntegerConv(width, width, 3, padding=1)
        self.second = IntegerConv(width, width, 3, padding=1)
        self.head = IntegerConv(width, outputs * channels, 1)
        self.at_start = nn.Embedding(conditions, width)
        self.at_first = nn.Embedding(conditions, width)
        self.at_head = nn.Embedding(conditions, outputs * channels)
        nn.init.normal_(self.at_start.weight, std=0.1)
        for zero in (self.at_first.weight, self.at_head.weight, bias_of(self.head)):
            nn.init.zeros_(zero)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.first.weight.mul_(0.5)
            self.second.weight.mul_(0.5)

    def forward(self, seen: Tensor, message: Tensor | None, row: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, width, H, W) and what the head gives (B, outputs * C, H, W).

        Args:
            seen: (B, 2C, H, W) from `see`.
            message: (B, width, H, W) from the coarser scale.
            row: (B,), which learned vectors.
        """

        def at(table: nn.Embedding) -> Tensor:
            return table(row)[:, :, None, None]

        x = rounded(self.known(seen) + at(self.at_start), SIGNED)
        x = x if message is None else rounded(x + message, SIGNED)
        x = rounded(x + rounded(self.first(act(x)) + at(self.at_first), SIGNED), SIGNED)
        x = act(x + rounded(self.second(act(x)), SIGNED))
        h = rounded(x, FEATURE, least=0)
        return h, rounded(self.head(h) + at(self.at_head), self.step)


def bias_of(layer: nn.Conv2d) -> Tensor:
    """The biases of a layer, which all layers here have."""
    assert layer.bias is not None
    return layer.bias


def act(x: Tensor) -> Tensor:
    return x.clamp(0, LIMIT)


class Scales(nn.Module):
    """A trunk for the low band and one for all scales of details, and what scales tell each other.

    Args:
        width: features at a position.
        outputs: numbers a coefficient that `trunk` gives.
        rows: learned vectors of a scale.
        step: what an integer of these numbers counts.
    """

    signed: Tensor
    size: Tensor

    def __init__(self, width: int, outputs: int, rows: int, step: float) -> None:
        super().__init__()
        self.rows = rows
        self.low = Trunk(COLOURS, width, rows, outputs, step)
        self.detail = Trunk(3 * COLOURS, width, rows * SCALES, outputs, step)
        self.low_message = IntegerConv(width + 2 * COLOURS, width, 1)
        self.message = IntegerConv(width + 6 * COLOURS, 4 * width, 1)
        for name, table in zip(("signed", "size"), network.tables(), strict=True):
            seen = SEEN * (torch.from_numpy(table).float() - ZERO)
            self.register_buffer(name, seen, persistent=False)

    def see(self, place: Tensor) -> Tensor:
        """What the networks see (B, 2C, H, W) of places (B, C, H, W)."""
        return torch.cat((self.signed[place], self.size[place]), 1)

    def trunk(
        self, scale: int, seen: Tensor, message: Tensor | None, row: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`Trunk.forward` of a scale, 0 for the low band; `row` (B,) is one of the scale's."""
        if scale == 0:
            return self.low(seen, None, row)
        return self.detail(seen, message, row + (scale - 1) * self.rows)

    def pass_on(self, scale: int, h: Tensor, seen: Tensor) -> Tensor:
        """The message to the next finer scale, on its grid."""
        x = torch.cat((h, seen + ZERO * SEEN), 1)  # both from 0 on, as one tensor of 8 bits
        x = rounded(self.message(x) if scale else self.low_message(x), SIGNED)
        return F.pixel_shuffle(x, 2) if scale else x


class Digits(Scales):
    """The probabilities of digits. `forward` counts bits as the codec does, pass after pass.

    Args:
        width: features at a position.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__(width, 2, 2 * (PLANES - 1), LOGIT)
        with torch.no_grad():
            for trunk in (self.low, self.detail):
                events, _ = bias_of(trunk.head).chunk(2)
                events.fill_(-2.0)

    def logits(
        self, scale: int, seen: Tensor, message: Tensor | None, plane: int, second: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, and two logits a coefficient (B, C, H, W): that it becomes significant, or lies
        in the upper half of its interval; and that its sign is +."""
        row = torch.full((len(seen),), 2 * min(plane, PLANES - 2) + second, device=seen.device)
        h, out = self.trunk(scale, seen, message, row)
        event, sign = out.chunk(2, 1)
        return h, event, sign

    def forward(self, indices: Sequence[Tensor], plane: int) -> tuple[Tensor, Tensor]:
        """Bits of one plane of a batch.

        Args:
            indices: signed whole steps of every coefficient, int32, per scale, (B, C, H, W).
            plane: t, of the threshold STEP * 2^t.

        Returns:
            Bits (B, 3) of the first pass and of both halves of the second; and a scalar, the bits
            of what the first pass left out, by its own logits, which keeps these true.
        """
        known = [Plane(index, plane) for index in indices]
        finest = max((scale for scale, k in enumerate(known) if k.live.any()), default=-1)
        known = known[: finest + 1]
        for coarse, fine in zip(known[-2::-1], known[:0:-1], strict=True):
            coarse.started = coarse.started | fine.started
        bits = torch.zeros(len(indices[0]), 3, device=self.size.device)
        left_out = torch.zeros((), device=self.size.device)
        message, after_first = None, []
        for scale, k in enumerate(known):
            h, event, sign = self.logits(scale, self.see(k.before), message, plane, 0)
            waiting = k.new & k.live & k.started
            likely = waiting & (event > LIKELY)
            cost = k.cost(event, sign)
            bits[:, 0] += (cost * likely).sum((1, 2, 3))
            left_out = left_out + (cost * (waiting & ~likely)).sum()
            after_first.append(self.see(torch.where(likely, k.after, k.before)))
            message = self.pass_on(scale, h, after_first[-1]) if scale < finest else None
            k.first = likely
        message = None
        for scale, (k, seen) in enumerate(zip(known, after_first, strict=True)):
            h, event, sign = self.logits(scale, seen, message, plane, 1)
            useful = k.live & ~k.first & (~k.new | (event > USEFUL))
            cost = k.cost(event, sign)
            bits[:, 1] += (cost * useful).sum((1, 2, 3))
            bits[:, 2] += (cost * (k.live & ~k.first & ~useful)).sum((1, 2, 3))
            if scale < finest:
                done = torch.where(k.first | useful, k.after, k.before)
                message = self.pass_on(scale, h, self.see(done))
        return bits, left_out


class Plane:
    """One scale before and after one plane.

    `before`, `after`: places (B, C, H, W). `new`: not significant before. `live`: (B, C, 1, 1),
    whether this colour has anything at this scale down to this plane; if not, the header says so
    and nothing is coded. `started`: (B, 1, 1, 1), whether anything is significant before. `first`:
    what the first pass has coded, once it has.
    """

    first: Tensor

    def __init__(self, index: Tensor, plane: int | Tensor) -> None:
        size, sign = index.abs(), index.sign()
        self.sign = sign
        above, now = size >> (plane + 1), size >> plane
        self.new, self.event = above == 0, torch.where(above == 0, now, now & 1)
        self.before = torch.where(above > 0, 4 * above + 2, 0) * sign
        self.after = torch.where(now > 0, (2 * now + 1) * sign, 1)
        largest = size.amax((2, 3)).unflatten(1, (COLOURS, -1)).amax(2)
        live = (largest[:, :, None, None] >> plane > 0).repeat_interleave(
            index.shape[1] // COLOURS, 1
        )
        self.live = live
        self.started = (above > 0).any(3).any(2).any(1)[:, None, None, None]

    def cost(self, event: Tensor, sign: Tensor) -> Tensor:
        """Bits of every digit, by its logits."""
        out = F.softplus(torch.where(self.event > 0, -event, event))
        signs = F.softplus(-sign * self.sign)
        return (out + torch.where(self.new & (self.event > 0), signs, 0.0)) / math.log(2)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = IntegerConv(width, width, 3, padding=1)
        self.second = IntegerConv(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        inside = rounded(self.first(x), FEATURE, least=0)
        return rounded(x + rounded(self.second(inside), PIXEL), PIXEL)


class Picture(nn.Module):
    """The picture of what is known: a value for every coefficient within its interval, the inverse
    wavelet, and a correction of the pixels. No digit depends on it.

    While nothing is significant at the finest scales, all this is done for a smaller picture, whose
    finest details are those of the finest scale where something is; wavelets enlarge it.

    Args:
        width: features at a position of a scale.
        pixel_width: features at a position of the pixels, which are taken two by two.
        blocks: residual blocks that correct the pixels.
    """

    def __init__(self, width: int = 32, pixel_width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.scales = Scales(width, 1, PLANES - 1, WITHIN)
        self.pixels = IntegerConv(4 * COLOURS, pixel_width, 3, padding=1)
        self.features = IntegerConv(width, pixel_width, 1)
        self.at_pixels = nn.Embedding(PLANES - 1, pixel_width)
        self.blocks = nn.Sequential(*(Block(pixel_width) for _ in range(blocks)))
        self.correction = IntegerConv(pixel_width, 4 * COLOURS, 3, padding=1)
        for part in (
            self.at_pixels,
            self.correction,
            self.scales.low.head,
            self.scales.detail.head,
        ):
            nn.init.zeros_(part.weight)

    def forward(self, places: Sequence[Tensor], plane: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), not clipped.

        Args:
            places: per scale, (B, C, H, W).
            plane: (B,), the plane that these places are in.
        """
        row, message, values = plane.clamp(max=PLANES - 2), None, []
        threshold = (STEP * 2.0**plane)[:, None, None, None]
        finest = int(finest_scale(places).max())
        for scale, place in enumerate(places[: finest + 1]):
            seen = self.scales.see(place)
            h, out = self.scales.trunk(scale, seen, message, row)
            if scale < finest:
                message = self.scales.pass_on(scale, h, seen)
            centre, half = interval(place)
            values.append((centre + half * out) * threshold)
        x = self.corrected(inverse(values), h, row)
        for _ in range(finest, SCALES):
            x = enlarged(x)
        return x

    def corrected(self, x: Tensor, h: Tensor, row: Tensor) -> Tensor:
        """Pixels (B, 3, 2H, 2W), by the finest features (B, width, H, W)."""
        unit = error(row)[:, None, None, None]
        around = F.avg_pool2d(x, 6, 2, 2, count_include_pad=False)
        detail = rounded((x - F.interpolate(around, scale_factor=2)) / unit, SEEN)
        two_by_two = rounded(self.pixels(F.pixel_unshuffle(detail, 2)), PIXEL)
        told = rounded(self.features(h) + self.at_pixels(row)[:, :, None, None], PIXEL)
        two_by_two = self.blocks(rounded(two_by_two + told, PIXEL))
        correction = rounded(self.correction(two_by_two), SEEN)
        return x + unit / 4 * F.pixel_shuffle(correction, 2)


class Wavelet(nn.Module):
    """Both networks.

    Args:
        width: features at a position of a scale, of each network.
        pixel_width, blocks: of the correction of the pixels.

    `rate` has the mean bits per pixel of each plane's digits, as training measures it.
    """

    rate: Tensor

    def __init__(self, width: int = 32, pixel_width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.digits = Digits(width)
        self.picture = Picture(width, pixel_width, blocks)
        self.register_buffer("rate", torch.zeros(PLANES))


def error(plane: Tensor) -> Tensor:
    """About four times the root mean squared error of a picture of a plane, in grey levels."""
    return STEP * 2 ** (0.6 * plane)


def finest_scale(places: Sequence[Tensor]) -> Tensor:
    """The finest scale of details, from 1, where something is significant, of each image (B,)."""
    there = torch.stack([(place.abs() > 1).flatten(1).any(1) for place in places], 1)
    scales = torch.arange(len(places), device=there.device)
    return (there * scales).amax(1).clamp(min=1)


def interval(place: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half the width of what coefficients can be, in thresholds."""
    size = place.abs()
    centre = torch.where(size > 1, place / 2, 0.0)
    half = torch.where(size > 1, 1 - size % 2 / 2, 2.0 - size)
    return centre, half


def indices(pixels: Tensor) -> list[Tensor]:
    """Whole steps of the coefficients (B, C, H, W), int32, per scale, of pixels (B, 3, H, W) in [0,
    255] whose sides are multiples of 64."""
    return [(c / STEP).trunc().int() for c in forward(pixels)]


def forward(pixels: Tensor) -> list[Tensor]:
    """`wavelet.transform.forward` for batches whose sides are multiples of 64."""
    x = torch.einsum("ij,bjhw->bihw", torch.from_numpy(COLOUR).to(pixels), pixels - GREY)
    details = []
    for _ in range(SCALES):
        low, high = _split(x, -1)
        x, rows = _split(low, -2)
        details.append(torch.stack((rows, *_split(high, -2)), 2).flatten(1, 2))
    return [x, *details[::-1]]


def inverse(coefficients: Sequence[Tensor]) -> Tensor:
    """`wavelet.transform.inverse`, likewise; also of the coarser scales alone."""
    x = coefficients[0]
    for detail in coefficients[1:]:
        rows, columns, both = detail.unflatten(1, (COLOURS, 3)).unbind(2)
        x = _join(_join(x, rows, -2), _join(columns, both, -2), -1)
    x = torch.einsum("ji,bjhw->bihw", torch.from_numpy(COLOUR).to(x), x)
    return x / 2 ** (SCALES + 1 - len(coefficients)) + GREY


def enlarged(pixels: Tensor) -> Tensor:
    """A picture (B, 3, 2H, 2W) of pixels (B, 3, H, W), without further details."""
    x = 2 * (pixels - GREY)
    for dim in (-2, -1):
        x = _join(x, torch.zeros_like(x), dim)
    return x + GREY


def _split(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    low, high = x.unflatten(dim, (-1, 2)).unbind(dim)
    for predict, update in zip(PREDICT, UPDATE, strict=True):
        high = high + predict * (low + _after(low, dim))
        low = low + update * (high + _before(high, dim))
    return low * LOW, high * HIGH


def _join(low: Tensor, high: Tensor, dim: int) -> Tensor:
    low, high = low / LOW, high / HIGH
    for predict, update in zip(PREDICT[::-1], UPDATE[::-1], strict=True):
        low = low - update * (high + _before(high, dim))
        high = high - predict * (low + _after(low, dim))
    return torch.stack((low, high), dim if dim > 0 else dim + low.ndim + 1).flatten(dim - 1, dim)


def _after(x: Tensor, dim: int) -> Tensor:
    """Each sample's next, the last one's itself."""
    return torch.cat((x.narrow(dim, 1, x.shape[dim] - 1), x.narrow(dim, x.shape[dim] - 1, 1)), dim)


def _before(x: Tensor, dim: int) -> Tensor:
    return torch.cat((x.narrow(dim, 0, 1), x.narrow(dim, 0, x.shape[dim] - 1)), dim)
