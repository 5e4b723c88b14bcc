"""A second decoder of the wavelet model's streams, by `docs/format.md` alone: bytes, whole numbers
and loops, and of the model's file the weights. Slow, and without a line of the codec's."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

Grid = np.ndarray
Nodes = Callable[..., tuple[Grid, Grid]]


class OutOfWordsError(Exception):
    """What is being decoded is not in the stream any more."""


def places_in(stream: bytes, model: bytes) -> tuple[int, list[Grid]]:
    """The plane, and the places (C, H, W) of each scale, that a stream's levels hold."""
    height, width, first, words = read(stream)
    runs = parts_of(onnx.load_model_from_string(model))
    places = [np.zeros((9 if scale else 3, *grid(height, width, scale)), int) for scale in range(7)]
    there = [
        np.array([exists(height, width, scale, c) for c in range(len(place))])
        for scale, place in enumerate(places)
    ]
    code, spent = Code(words), 0

    def code_round(scale: int, chosen: Grid, out: Grid) -> None:
        nonlocal spent
        place, (event, sign) = places[scale].reshape(-1), np.split(out.reshape(-1), 2)
        waiting = [*np.flatnonzero(chosen)]
        while waiting:
            enough, bits, part = 256 * max(512, spent // (256 * 128)), 0, []
            while waiting and bits < enough and len(part) < 1 << 18:
                part.append(waiting.pop(0))
                bits += expected(event[part[-1]])
            spent += bits
            digits = [code.digit(event[i]) for i in part]
            ones = [i for i, digit in zip(part, digits, strict=True) if digit and not place[i]]
            signs = {i: 2 * code.digit(sign[i]) - 1 for i in ones}
            for i, digit in zip(part, digits, strict=True):
                if place[i]:
                    place[i] += (2 * digit - 1) * np.sign(place[i])
                else:
                    place[i] = 3 * signs[i] if digit else 1

    plane = max(map(max, first))
    try:
        while plane >= 0:
            late = []
            for second in (0, 1):
                h, down_to = None, plane + 1 - second
                there_is = [scale for scale, row in enumerate(first) if max(row) >= down_to]
                finest = max(there_is, default=-1)
                for scale in range(finest + 1):
                    part = f"digits {'detail' if scale else 'low'}"
                    message = None
                    if h is not None:
                        before = f"digits {'detail' if scale > 1 else 'low'} message"
                        message = runs[before](places[scale - 1], h)[0]
                        message = message.reshape(1, *places[scale].shape[1:], -1)
                    row = 24 * max(scale - 1, 0) + 2 * min(plane, 11) + second
                    h, out = runs[part](places[scale], message, row)
                    each = len(places[scale]) // 3
                    live = np.repeat([p >= plane for p in first[scale]], each)[:, None, None]
                    waiting = there[scale] & live & (places[scale] % 2 == 0)
                    event = out[: len(places[scale])]
                    if second:
                        chosen = waiting & ((places[scale] != 0) | (event > 96))
                        late.append((scale, waiting & ~chosen, out))
                    else:
                        chosen = waiting & (places[scale] == 0) & (event > 112)
                    code_round(scale, chosen, out)
            for last in late:
                code_round(*last)
            if plane == 0:
                break
            for place in places:
                place[abs(place) == 1] = 0
                place *= 2
            plane -= 1
    except OutOfWordsError:
        pass
    return max(plane, 0), places


def one(logit: int) -> float:
    """The probability of digit 1."""
    return 1 / (1 + math.exp((128 - logit) / 8))


def expected(logit: int) -> int:
    """Bits of a digit and its sign, in 1/256."""
    p = one(logit)
    return round(256 * (p - p * math.log2(p) - (1 - p) * math.log2(1 - p)))


def seen(place: Grid) -> Grid:
    """What the network sees of places (C, H, W): (2C, H, W)."""
    size = [round(20 * math.asinh(j / 4)) for j in range(1024)]
    found = np.array(size)[np.minimum(abs(place), 1023)]
    asked = abs(place) == 1
    return 128 + np.concatenate(
        [np.where(asked, 0, found) * np.sign(place), np.where(asked, -10, found)]
    )


def read(stream: bytes) -> tuple[int, int, list[list[int]], list[int]]:
    """Height and width, the first planes by scale and colour, and the words of all levels in the
    order in which they are taken."""
    assert stream[:6] == b"\x89DTD\x02\x03"
    at = 6

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = stream[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value

    width, height = varint(), varint()
    at += 8
    levels, _, size = varint(), varint(), varint()
    assert size == 11
    halves = [half for byte in stream[at : at + 11] for half in (byte & 15, byte >> 4)]
    first = [[halves[3 * scale + colour] - 1 for colour in range(3)] for scale in range(7)]
    at += 11 + 4
    words: list[int] = []
    for level in range(1, levels + 1):
        if at == len(stream):
            break
        count = varint()
        at += 2 if level < levels else 4
        words += [
            int.from_bytes(stream[at + 4 * i : at + 4 * i + 4], "little") for i in range(count)
        ]
        at += 4 * count
    return height, width, first, words


class Code:
    """The ANS decoder."""

    def __init__(self, words: list[int]) -> None:
        self.state, self.words = words[0] << 32 | words[1], words[2:]

    def digit(self, logit: int) -> int:
        """0 or 1, of which 1 has the probability of a logit."""
        share = min(max(1, round((1 << 20) * one(logit))), (1 << 20) - 1)
        edge = int(np.float32(1 - share / (1 << 20)) * np.float32((1 << 24) - 2)) + 1
        low = self.state % (1 << 24)
        digit = int(low >= edge)
        left, right = (edge, 1 << 24) if digit else (0, edge)
        state = (self.state >> 24) * (right - left) + low - left
        if state < 1 << 32:
            if not self.words:
                raise OutOfWordsError
            state = state << 32 | self.words.pop(0)
        self.state = state
        return digit


def grid(height: int, width: int, scale: int) -> tuple[int, int]:
    times = 2 ** max(scale - 1, 0)
    return -(-height // 64) * times, -(-width // 64) * times


def exists(height: int, width: int, scale: int, channel: int) -> Grid:
    """Where a channel has coefficients: halving a side of n leaves (n + 1) / 2 low and n / 2 high
    ones, rounded down."""
    high_rows, high_columns = (channel % 3 != 1, channel % 3 != 0) if scale else (False, False)
    rows, columns = grid(height, width, scale)
    for _ in range(6 - max(scale, 1)):
        height, width = (height + 1) // 2, (width + 1) // 2
    rows_there = height // 2 if high_rows else (height + 1) // 2
    columns_there = width // 2 if high_columns else (width + 1) // 2
    return (np.arange(rows) < rows_there)[:, None] & (np.arange(columns) < columns_there)


def parts_of(model: onnx.ModelProto) -> dict[str, Nodes]:
    """What computes each part of the model."""

    def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    yield from graphs(attribute.g)

    return {graph.name: running(graph) for graph in graphs(model.graph)}


def running(graph: onnx.GraphProto) -> Nodes:
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}

    def run(place: Grid, integers: Grid | None, row: int = 0) -> tuple[Grid, Grid]:
        known: dict[str, Grid | None] = {
            **constants,
            "seen": seen(place)[None],
            "integers": integers,
            "row": np.array([row]),
        }
        for node in graph.node:
            options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            known[node.output[0]] = OPERATORS[node.op_type](
                *(known[name] for name in node.input), **options
            )
        *_, h, out = (known[output.name] for output in graph.output)
        return h, out[0]

    return run


def rounded(x: Grid, zero: Grid) -> Grid:
    """Halves go to the even number."""
    return (np.round(x).astype(int) + int(zero)).clip(0, 255)


def convolution(
    x: Grid,
    x_step: Grid,
    x_zero: Grid,
    weight: Grid,
    steps: Grid,
    zeros: Grid,
    step: Grid,
    zero: Grid,
    bias: Grid,
    pads: list[int],
    channels_last: int,
) -> Grid:
    """Sums of products of integers, tap after tap."""
    assert channels_last
    assert not zeros.any()
    height, width = x.shape[1:3]
    sides = (pads[0], pads[0])
    padded = np.pad(x[0].astype(int) - int(x_zero), (sides, sides, (0, 0)))
    total = np.zeros((height, width, len(weight)), int) + bias
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            near = padded[row : row + height, column : column + width]
            total += near @ weight[:, :, row, column].T.astype(int)
    return rounded(total * (float(x_step) * steps.astype(float) / float(step)), zero)[None]


def addition(
    a: Grid, a_step: Grid, a_zero: Grid, b: Grid, b_step: Grid, b_zero: Grid, step: Grid, zero: Grid
) -> Grid:
    total = (a - float(a_zero)) * float(a_step) + (b - float(b_zero)) * float(b_step)
    return rounded(total / float(step), zero)


def reshaped(x: Grid, shape: Grid) -> Grid:
    """A 0 keeps a side."""
    return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(shape)])


OPERATORS: dict[str, Callable[..., Grid]] = {
    "Clip": lambda x, low, high: x.clip(low, high),
    "Concat": lambda *parts, axis: np.concatenate(parts, axis),
    "Gather": lambda table, index: table[index],
    "QLinearAdd": addition,
    "QLinearConv": convolution,
    "Reshape": reshaped,
    "Squeeze": lambda x, axes: np.squeeze(x, tuple(axes)),
    "Transpose": lambda x, perm: x.transpose(perm),
}
