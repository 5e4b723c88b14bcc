"""The wavelet model as one `.onnx` file, which every engine that adds in float32 runs alike.

The graph is a chain of `If`s: its input `part` says which of `PARTS` runs. The digit network
computes with whole numbers (Ballé, Johnston, Minnen, "Integer networks for data compression with
latent-variable models", ICLR 2019) that float32 holds: activations are multiples of 2^-7 within
[0, 8], of which the graph keeps the whole numbers 0 ... 1024, and weights are multiples of 2^-8, so
that all products, and by the sizes of the weights all sums of them, are multiples of 2^-8 that
float32 has exactly, in whatever order they are added. Logits are whole numbers of 1/32. The picture
network is as it was trained.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from progdtd.files import write_aside
from progdtd.models.wavelet import (
    ACTIVATION,
    LIMIT,
    LOGIT,
    WEIGHT,
    Block,
    Scales,
    Trunk,
    Wavelet,
    bias_of,
)
from progdtd.wavelet.network import CARD, LARGEST_LOGIT, PARTS, fingerprint
from progdtd.wavelet.walk import PLANES, STEP

EXACT = 1 << 24
"""Whole numbers up to this, and sums that stay within it, are exact in float32."""


def save(model: Wavelet, path: Path, card: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all, with a card that says how the model was made.

    Raises:
        ValueError: a sum in the digit network could pass what is exact.
    """
    built = build(model)
    constants = [c for name in PARTS if name.startswith("digits") for c in built[name].constants]
    digits = {c.name: numpy_helper.to_array(c) for c in constants}
    facts = {
        **card,
        "width": model.digits.low.known.out_channels,
        "halo": 2 * len(model.picture.blocks) + 3,
        "fingerprint": fingerprint(digits),
    }
    proto = joined(built)
    helper.set_model_props(proto, {CARD: json.dumps(facts)})
    onnx.checker.check_model(proto)
    write_aside(path, lambda aside: aside.write_bytes(proto.SerializeToString()))


class Part:
    """Nodes and constants of one part; each method adds a node and returns its output's name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.outputs: list[str] = []

    def constant(
        self, value: Tensor | np.ndarray | Sequence[int] | float, kind: type = np.float32
    ) -> str:
        name = f"{self.name}/c{len(self.constants)}"
        array: np.ndarray = np.array(
            value.detach().cpu() if isinstance(value, Tensor) else value, kind
        )
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self.name}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def conv(
        self, x: str, layer: nn.Conv2d | nn.ConvTranspose2d, exact: bool, unit: float = ACTIVATION
    ) -> str:
        """A convolution; an exact one takes activations, and gives its output in a unit."""
        weight, bias = layer.weight.detach(), bias_of(layer)
        turned = isinstance(layer, nn.ConvTranspose2d)
        if exact:
            weight, bias = self.exact(weight, bias, turned)
            weight, bias = weight * (ACTIVATION / unit), bias / unit
        inputs = x, self.constant(weight), self.constant(bias)
        if turned:
            return self.add("ConvTranspose", *inputs, strides=layer.stride)
        sides = [side // 2 for side in layer.kernel_size * 2]
        return self.add("Conv", *inputs, pads=sides, group=layer.groups)

    def exact(self, weight: Tensor, bias: Tensor, turned: bool) -> tuple[Tensor, Tensor]:
        """Weights and biases rounded so that all sums are exact: to WEIGHT or, where weights are
        large, to twice or four times that."""
        for step in (WEIGHT, 2 * WEIGHT, 4 * WEIGHT):
            coarse, shift = rounded(weight, step), rounded(bias, step * ACTIVATION)
            sums = coarse.abs().sum(0 if turned else (1, 2, 3))
            largest = sums.max() * LIMIT + shift.abs().max()
            if largest / (step * ACTIVATION) <= EXACT:
                return coarse, shift
        raise ValueError(f"the weights of {self.name} are too large to be exact: {largest}")

    def clipped(self, x: str, exact: bool) -> str:
        """Activations, within [0, LIMIT]."""
        limit = LIMIT / ACTIVATION if exact else LIMIT
        return self.add("Clip", x, self.constant(0.0), self.constant(limit))

    def looked_up(self, table: Tensor) -> str:
        """The row of a table that the input `row` names, as (1, C, 1, 1)."""
        found = self.add("Gather", self.constant(table), "row")
        return self.add("Unsqueeze", found, self.constant([2, 3], np.int64))

    def seen(self, exact: bool) -> str:
        """The input `seen`, as activations."""
        return "seen" if exact else self.add("Mul", "seen", self.constant(ACTIVATION))

    def graph(self) -> onnx.GraphProto:
        outputs = [
            helper.make_tensor_value_info(x, TensorProto.FLOAT, [None] * 4) for x in self.outputs
        ]
        return helper.make_graph(self.nodes, self.name, [], outputs, self.constants)


def rounded(x: Tensor, step: float) -> Tensor:
    """Multiples of a step."""
    return (x.detach() / step).round() * step


def build(model: Wavelet) -> dict[str, Part]:
    """Every part of a model, by its name in PARTS."""
    built = {name: Part(name) for name in PARTS}
    for network, scales, exact in (
        ("digits", model.digits, True),
        ("picture", model.picture.scales, False),
    ):
        for band, trunk, message in (
            ("low", scales.low, scales.low_message),
            ("detail", scales.detail, scales.message),
        ):
            _trunk(built[f"{network} {band}"], scales, trunk, exact)
            _message(built[f"{network} {band} message"], message, exact)
    _pixels(built["pixels"], model)
    return built


def _trunk(part: Part, scales: Scales, trunk: Trunk, exact: bool) -> None:
    """`Trunk.forward`: features, and logits in whole numbers of LOGIT or, of the picture, how far
    values lie from the centres of their intervals, in [-1, 1]."""

    def grid(x: str) -> str:
        return part.add("Round", x) if exact else x

    def table(embedding: nn.Embedding, unit: float) -> str:
        rows = rounded(embedding.weight, ACTIVATION) / unit if exact else embedding.weight
        return part.looked_up(rows)

    x = part.conv(part.seen(exact), trunk.known, exact)
    if trunk is scales.detail:
        x = part.add("Add", x, "features")
    x = grid(part.add("Add", x, table(trunk.at_start, ACTIVATION)))
    first = part.conv(part.clipped(x, exact), trunk.first, exact)
    x = grid(part.add("Add", part.add("Add", first, x), table(trunk.at_first, ACTIVATION)))
    second = part.conv(part.clipped(x, exact), trunk.second, exact)
    h = grid(part.clipped(part.add("Add", second, x), exact))
    out = part.conv(h, trunk.head, exact, LOGIT)
    out = part.add("Add", out, table(trunk.at_head, LOGIT))
    if exact:
        limits = part.constant(-LARGEST_LOGIT), part.constant(LARGEST_LOGIT)
        out = part.add("Clip", part.add("Round", out), *limits)
    else:
        out = part.add("Tanh", out)
    part.outputs = [h, out]


def _message(part: Part, message: nn.Conv2d | nn.ConvTranspose2d, exact: bool) -> None:
    """`Scales.pass_on`."""
    x = part.conv(part.add("Concat", "features", part.seen(exact), axis=1), message, exact)
    x = part.add("Round", x) if exact else x
    part.outputs = [x, part.constant(np.zeros((1, 1, 1, 1)))]


def _pixels(part: Part, model: Wavelet) -> None:
    """The correction of pixels (1, 3, H, W) that are whole blocks, by the finest features."""
    picture = model.picture
    apart = picture.pixels.weight.unflatten(1, (3, 2, 2))  # the kernel that sees pixels two by two
    kernel = apart.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
    unit = part.looked_up(STEP * 2.0 ** torch.arange(PLANES - 1)[:, None])
    around = part.add("AveragePool", "pixels", kernel_shape=[6, 6], strides=[2, 2], pads=[2] * 4)
    twice = part.constant([1, 1, 2, 2])
    around = part.add("Resize", around, "", twice, mode="nearest", nearest_mode="floor",
                      coordinate_transformation_mode="asymmetric")  # fmt: skip
    detail = part.add("Div", part.add("Sub", "pixels", around), unit)
    detail = part.add("Clip", detail, part.constant(-4.0), part.constant(4.0))
    sides = {"pads": [2] * 4, "strides": [2, 2]}
    bias = part.constant(bias_of(picture.pixels))
    x = part.add("Conv", detail, part.constant(kernel), bias, **sides)
    x = part.add("Add", x, part.conv("features", picture.features, False))
    x = part.add("Add", x, part.looked_up(picture.at_pixels.weight))
    for block in picture.blocks:
        assert isinstance(block, Block)
        inside = part.add("Relu", part.conv(x, block.first, False))
        x = part.add("Add", x, part.conv(inside, block.second, False))
    x = part.add("DepthToSpace", part.conv(x, picture.correction, False), blocksize=2, mode="CRD")
    more = part.add("Mul", x, part.add("Mul", unit, part.constant(0.25)))
    part.outputs = [part.add("Add", "pixels", more), part.constant(np.zeros((1, 1, 1, 1)))]


def joined(parts: Mapping[str, Part]) -> onnx.ModelProto:
    """One model of all parts."""
    graph = parts[PARTS[-1]].graph()
    for number, name in reversed([*enumerate(PARTS[:-1])]):
        chosen = Part(f"is {name}")
        same = chosen.add("Equal", "part", chosen.constant(number, np.int64))
        outputs = [f"{name}/{end}" for end in ("features", "out")]
        chosen.nodes.append(
            helper.make_node(
                "If", [same], outputs, then_branch=parts[name].graph(), else_branch=graph
            )
        )
        chosen.outputs = outputs
        graph = chosen.graph()
    kinds: dict[str, tuple[int, list[int | None]]] = {
        "part": (TensorProto.INT64, []),
        "row": (TensorProto.INT64, [1]),
    }
    for name in ("seen", "features", "pixels"):
        kinds[name] = (TensorProto.FLOAT, [1, None, None, None])
    graph.input.extend(helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
