"""The hyper-synthesis in integers: the same scales and means on every machine.

The scales decide the symbols' probabilities, so encoder and decoder must agree on them to the last
bit, whatever the number of threads, the instruction set or the device. Weights and activations are
rounded to grids and carried as integers in float64. No sum, in whatever order it is taken, can
reach 2^53: every addition is exact, so every order gives the same result.

The hyper-latent comes in integers of 1/4096 and is clamped to +-2^24, as activations are. Of a
layer's weights w, let S be the largest sum of ceil(|w| 2^24) over those of one output, and b the
bits of S - 1. The layer's grid is 2^-s with s = 27 - max(b - 24, -10). Its weights become
round(w 2^s), its bias round(bias 2^(s + 12)), within +-2^51, halves to the even; and the sum of
products and bias becomes floor(sum 2^-s + 1/2), clamped to +-2^24. Where an activation follows,
negative values x then become floor(x round(slope 2^16) 2^-16 + 1/2), with the slope of ReLU 0.

Source: Ballé, Johnston, Minnen, "Integer networks for data compression with latent-variable
models", ICLR 2019. They train networks of integers; ours are made from any trained hyper-synthesis,
with grids so fine that nothing needs to be trained, and float64 carries the integers.
"""

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from progdtd.codec.tiles import tiled

UNIT = 1 << 12
"""Activations, scales and means are integers of 1/4096."""

LIMIT = 1 << 24
"""Activations are clamped to +-4096 of their own unit."""

TILE = 32
"""Side of a tile of the activations after the first layer, in samples."""

CUDNN = threading.Lock()
"""Taken by whoever changes whether it is used, which is a setting of the whole process."""


class Layer:
    """A convolution in integers and what follows it.

    Args:
        convolution: an `nn.Conv2d` or `nn.ConvTranspose2d`, without dilation or groups, padded with
            zeros, alike in height and width.

    `slope` is that of the activation that follows, for negative values, in 2^-16: 1 for none.

    Raises:
        TypeError: another kind of module, or weights that are not finite or too large.
    """

    def __init__(self, convolution: nn.Module) -> None:
        if not isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d):
            raise TypeError(f"{type(convolution).__name__} cannot be computed in integers")
        usual = {"dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
        for name, value in usual.items():
            if getattr(convolution, name) != value:
                raise TypeError(f"a convolution with another {name} than {value} has no exact form")
        self.transposed = isinstance(convolution, nn.ConvTranspose2d)
        weight = convolution.weight.detach().double()
        if self.transposed:
            weight = weight.transpose(0, 1)
        if not weight.abs().max() < 2**20:
            raise TypeError("the weights are not finite or too large")
        largest = int(torch.ceil(weight.abs() * 2**24).long().flatten(1).sum(1).max())
        self.shift = 27 - max((largest - 1).bit_length() - 24, -10)
        if self.shift < 4:
            raise TypeError("the weights are too large")
        self.weight = torch.round(weight * 2**self.shift)
        self.slope = 1 << 16
        self.stride, self.padding = convolution.stride[0], int(convolution.padding[0])
        self.output_padding = convolution.output_padding[0]
        bias = convolution.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().double()
        self.bias = torch.round(bias * UNIT * 2**self.shift).clamp(-(2**51), 2**51)

    def sums(self, x: Tensor, outputs: Tensor | slice = slice(None), first: int = 0) -> Tensor:
        """Exact weighted sums without the bias.

        Args:
            x: integers (1, C, H, W), the input channels `first ... first + C - 1`.
            outputs: which output channels to compute.
        """
        weight = self.weight[outputs, first : first + x.shape[1]]
        place = self.stride, self.padding
        with without_cudnn() if x.is_cuda else contextlib.nullcontext():
            if not self.transposed:
                return functional.conv2d(x, weight, None, *place)
            weight, more = weight.transpose(0, 1), self.output_padding
            return functional.conv_transpose2d(x, weight, None, *place, more)

    def finish(self, sums: Tensor, outputs: Tensor | slice = slice(None)) -> Tensor:
        """Add the bias, go back to the grid of activations, activate and clamp."""
        x = (sums + self.bias[outputs, None, None]).mul_(2.0**-self.shift).add_(0.5).floor_()
        x = x.clamp_(-LIMIT if self.slope else 0, LIMIT)
        if self.slope in (0, 1 << 16):
            return x
        return torch.where(x < 0, torch.floor(x * self.slope * 2.0**-16 + 0.5), x)


@contextlib.contextmanager
def without_cudnn() -> Iterator[None]:
    """Keep convolutions from cuDNN, which may take transforms that round."""
    with CUDNN:
        before = torch.backends.cudnn.enabled
        torch.backends.cudnn.enabled = False
        try:
            yield
        finally:
            torch.backends.cudnn.enabled = before


class IntegerSynthesis:
    """An `h_s` of convolutions and (leaky) ReLUs, with integers in and out.

    Args:
        h_s: the hyper-synthesis, at least two convolutions; it computes where their weights are.

    Raises:
        TypeError: it has other modules, or is not an `nn.Sequential`.
    """

    def __init__(self, h_s: nn.Module) -> None:
        if not isinstance(h_s, nn.Sequential):
            raise TypeError(f"h_s is not an nn.Sequential but {type(h_s).__name__}")
        self.layers: list[Layer] = []
        for module in h_s:
            if self.layers and isinstance(module, nn.ReLU | nn.LeakyReLU):
                self.layers[-1].slope = round(getattr(module, "negative_slope", 0.0) * 2**16)
            else:
                self.layers.append(Layer(module))
        if len(self.layers) < 2:
            raise TypeError("h_s has fewer than two convolutions")
        self.device = self.layers[0].weight.device
        self.up = math.prod(layer.stride for layer in self.layers if layer.transposed)
        self.halo = 0  # of a sample after the last layer, in samples after the first
        for layer in reversed(self.layers[1:]):
            half = layer.weight.shape[-1] // 2
            if layer.transposed:
                self.halo = math.ceil((self.halo + half) / layer.stride)
            else:
                self.halo = self.halo * layer.stride + half

    def begin(self, height: int, width: int) -> Tensor:
        """Sums of the first layer for no channels at all of a hyper-latent of this size."""
        first = self.layers[0]
        up = first.stride if first.transposed else 1
        shape = (1, len(first.weight), height * up, width * up)
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def extend(self, sums: Tensor, z_hat: Tensor, first: int) -> None:
        """Add channels `first ...` of the hyper-latent (1, C, H, W), in integers of 1/UNIT."""
        if z_hat.shape[1]:
            z_hat = z_hat.to(self.device).clamp(-LIMIT, LIMIT)
            sums += self.layers[0].sums(z_hat, first=first)

    def predict(self, sums: Tensor, outputs: Sequence[int]) -> Tensor:
        """Some channels of the prediction, integers of 1/UNIT, int64 on the CPU.

        Args:
            sums: the state that `extend` has brought up to date.
            outputs: which channels.
        """
        rows = torch.tensor(outputs, dtype=torch.int64, device=self.device)

        def rest(x: Tensor) -> Tensor:
            for layer in self.layers[1:-1]:
                x = layer.finish(layer.sums(x))
            return self.layers[-1].finish(self.layers[-1].sums(x, rows), rows)

        x = self.layers[0].finish(sums)
        ratio = Fraction(self.up, self.layers[0].stride if self.layers[0].transposed else 1)
        return tiled(rest, x, ratio, TILE, self.halo).long().cpu()
