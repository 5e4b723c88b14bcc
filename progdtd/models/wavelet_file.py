"""The wavelet model as one `.onnx` file, whose digits every engine computes alike.

The graph is a chain of `If`s: its input `part` says which of `PARTS` runs. The networks compute
with integers (Ballé, Johnston, Minnen, "Integer networks for data compression with latent-variable
models", ICLR 2019): activations have 8 bits, weights 7, sums 32, and every scale is a power of two,
so that nothing is rounded but sums, to the nearest number of 8 bits.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from progdtd.files import write_aside
from progdtd.models.wavelet import (
    FEATURE,
    LIMIT,
    PIXEL,
    SEEN,
    SIGNED,
    Block,
    IntegerConv,
    Picture,
    Scales,
    Wavelet,
    bias_of,
    error,
)
from progdtd.wavelet.network import CARD, INPUTS, OUTPUTS, PARTS, ZERO, fingerprint
from progdtd.wavelet.walk import PLANES

NHWC = "com.microsoft"
"""The operators of onnxruntime for integers whose channels come last."""


@dataclass
class Integers:
    """8-bit integers in a graph: their name, what one is worth, and which stands for zero."""

    name: str
    step: float
    zero: int = ZERO


def save(model: Wavelet, path: Path, card: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all, with a card that says how the model was made."""
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

    def looked_up(self, table: Tensor) -> str:
        """The row of a table that the input `row` names, as (1, C, 1, 1)."""
        found = self.add("Gather", self.constant(table), "row")
        return self.add("Unsqueeze", found, self.constant([2, 3], np.int64))

    def places(self) -> Integers:
        """The input `seen`, its channels last."""
        return Integers(self.add("Transpose", "seen", perm=[0, 2, 3, 1]), SEEN)

    def whole(
        self,
        x: Integers,
        layer: nn.Conv2d,
        step: float,
        table: nn.Embedding | None = None,
        times: int = 1,
        zero: int = ZERO,
    ) -> Integers:
        """A convolution, whose biases may depend on the input `row`; of `times` outputs for each
        channel that comes first of all channels, then the second of all."""
        assert isinstance(layer, IntegerConv)
        order = torch.arange(layer.out_channels).unflatten(0, (-1, times)).T.flatten()
        steps, bias = layer.steps().flatten(), bias_of(layer)
        biases = bias if table is None else bias + table.weight
        added = self.constant((biases / (x.step * steps)).round()[..., order], np.int32)
        if table is not None:
            added = self.add("Gather", added, "row")
            added = self.add("Squeeze", added, self.constant([0], np.int64))
        inputs = (
            *self.scaled(x),
            self.constant(layer.integers()[order], np.int8),
            self.constant(steps[order]),
            self.constant(torch.zeros_like(steps), np.int8),
            *self.scaled(Integers("", step, zero))[1:],
            added,
        )
        sides = [layer.padding[0]] * 4
        y = self.add("QLinearConv", *inputs, pads=sides, channels_last=1, domain=NHWC)
        return Integers(y, step, zero)

    def scaled(self, x: Integers) -> tuple[str, str, str]:
        """How operators take integers."""
        return x.name, self.constant(x.step), self.constant(x.zero, np.uint8)

    def sum(self, a: Integers, b: Integers, step: float = SIGNED, zero: int = ZERO) -> Integers:
        """The sum, cut to what 8 bits of a step hold."""
        inputs = *self.scaled(a), *self.scaled(b), *self.scaled(Integers("", step, zero))[1:]
        return Integers(self.add("QLinearAdd", *inputs, domain=NHWC), step, zero)

    def active(self, x: Integers) -> Integers:
        """Activations, within [0, LIMIT]."""
        limits = ZERO, ZERO + LIMIT / x.step
        bounds = [self.constant(limit, np.uint8) for limit in limits]
        return Integers(self.add("Clip", x.name, *bounds), x.step)

    def graph(self) -> onnx.GraphProto:
        outputs = [
            helper.make_tensor_value_info(x, TensorProto.UINT8, [None] * 4) for x in self.outputs
        ]
        return helper.make_graph(self.nodes, self.name, [], outputs, self.constants)

    def nothing(self) -> str:
        return self.constant(np.zeros((1, 1, 1, 1)), np.uint8)


def build(model: Wavelet) -> dict[str, Part]:
    """Every part of a model, by its name in PARTS."""
    built = {name: Part(name) for name in PARTS}
    for name, scales in (("digits", model.digits), ("picture", model.picture.scales)):
        for band, scale in (("low", 0), ("detail", 1)):
            _trunk(built[f"{name} {band}"], scales, scale)
            _message(built[f"{name} {band} message"], scales, scale)
    _pixels(built["pixels"], model.picture)
    return built


def _trunk(part: Part, scales: Scales, scale: int) -> None:
    """`Trunk.forward`."""
    trunk = scales.detail if scale else scales.low
    x = part.whole(part.places(), trunk.known, SIGNED, trunk.at_start)
    x = part.sum(x, Integers("integers", SIGNED)) if scale else x
    x = part.sum(part.whole(part.active(x), trunk.first, SIGNED, trunk.at_first), x)
    h = part.sum(part.whole(part.active(x), trunk.second, SIGNED), x, FEATURE, 0)
    out = part.whole(h, trunk.head, trunk.step, trunk.at_head)
    part.outputs = [h.name, part.add("Transpose", out.name, perm=[0, 3, 1, 2])]


def _message(part: Part, scales: Scales, scale: int) -> None:
    """`Scales.pass_on`; of details (1, H, 2, 2 W F), which is (1, 2H, 2W, F)."""
    layer, sides = (scales.message, 2) if scale else (scales.low_message, 1)
    both = part.add("Concat", "integers", part.places().name, axis=3)
    x = part.whole(Integers(both, SEEN, 0), layer, SIGNED, times=sides**2).name
    if scale:
        x = part.add("Reshape", x, part.constant([0, 0, 0, 2, -1], np.int64))
        x = part.add("Transpose", x, perm=[0, 1, 3, 2, 4])
        x = part.add("Reshape", x, part.constant([0, 0, 2, -1], np.int64))
    part.outputs = [x, part.nothing()]


def _pixels(part: Part, picture: Picture) -> None:
    """Pixels (1, 3, H, W) that are whole blocks, corrected by the finest features, rounded and cut
    to 0 ... 255."""
    unit = part.looked_up(error(torch.arange(PLANES - 1))[:, None])
    around = part.add("AveragePool", "pixels", kernel_shape=[6, 6], strides=[2, 2], pads=[2] * 4)
    around = part.add(
        "Resize",
        around,
        "",
        part.constant([1, 1, 2, 2]),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    detail = part.add("Div", part.add("Sub", "pixels", around), unit)
    detail = part.add("Transpose", part.add("SpaceToDepth", detail, blocksize=2), perm=[0, 2, 3, 1])
    detail = part.add("QuantizeLinear", detail, *part.scaled(Integers("", SEEN))[1:])
    two_by_two = copy.deepcopy(picture.pixels)  # whose inputs are in another order there
    two_by_two.weight.data = two_by_two.weight.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)
    x = part.whole(Integers(detail, SEEN), two_by_two, PIXEL)
    h = Integers("integers", FEATURE, 0)
    x = part.sum(x, part.whole(h, picture.features, PIXEL, picture.at_pixels), PIXEL)
    for block in picture.blocks:
        assert isinstance(block, Block)
        inside = part.whole(x, block.first, FEATURE, zero=0)
        x = part.sum(x, part.whole(inside, block.second, PIXEL), PIXEL)
    x = part.whole(x, picture.correction, SEEN)
    more = part.add("Transpose", x.name, perm=[0, 3, 1, 2])
    more = part.add("DequantizeLinear", more, *part.scaled(x)[1:])
    more = part.add("DepthToSpace", more, blocksize=2, mode="CRD")
    more = part.add("Mul", more, part.add("Mul", unit, part.constant(0.25)))
    shown = part.add("Round", part.add("Add", "pixels", more))
    shown = part.add("Clip", shown, part.constant(0.0), part.constant(255.0))
    part.outputs = [part.nothing(), part.add("Cast", shown, to=TensorProto.UINT8)]


def joined(parts: Mapping[str, Part]) -> onnx.ModelProto:
    """One model of all parts."""
    graph = parts[PARTS[-1]].graph()
    for number, name in reversed([*enumerate(PARTS[:-1])]):
        chosen = Part(f"is {name}")
        same = chosen.add("Equal", "part", chosen.constant(number, np.int64))
        outputs = [f"{name}/{end}" for end in OUTPUTS]
        chosen.nodes.append(
            helper.make_node(
                "If", [same], outputs, then_branch=parts[name].graph(), else_branch=graph
            )
        )
        chosen.outputs = outputs
        graph = chosen.graph()
    graph.input.extend(
        [
            helper.make_tensor_value_info("part", TensorProto.INT64, []),
            helper.make_tensor_value_info("row", TensorProto.INT64, [1]),
            *(
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), [1, None, None, None]
                )
                for name, kind in INPUTS.items()
            ),
        ]
    )
    for ours, name in zip(graph.output, OUTPUTS, strict=True):
        graph.node.append(helper.make_node("Identity", [ours.name], [name]))
        ours.name = name
    domains = [helper.make_opsetid("", 17), helper.make_opsetid(NHWC, 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8)
