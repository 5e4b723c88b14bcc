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
                    row = 24 * max(scale - 1, 0) + 2 * min(plane, 11) + second
                    h, out = runs[part](places[scale], message, row)
                    each = len(places[scale]) // 3
                    live = np.repeat([p >= plane for p in first[scale]], each)[:, None, None]
                    waiting = there[scale] & live & (places[scale] % 2 == 0)
                    event = out[: len(places[scale])]
                    if second:
                        chosen = waiting & ((places[scale] != 0) | (event > -128))
                        late.append((scale, waiting & ~chosen, out))
                    else:
                        chosen = waiting & (places[scale] == 0) & (event > -64)
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


def expected(logit: int) -> int:
    """Bits of a digit and its sign, in 1/256."""
    p = 1 / (1 + math.exp(-logit / 32))
    return round(256 * (p - p * math.log2(p) - (1 - p) * math.log2(1 - p)))


def seen(place: Grid) -> Grid:
    """What the network sees of places (C, H, W), in 1/128: (2C, H, W)."""
    size = [2 * round(64 * math.asinh(j / 4)) for j in range(1024)]
    found = np.array(size)[np.minimum(abs(place), 1023)]
    one = abs(place) == 1
    return np.concatenate([np.where(one, 0, found) * np.sign(place), np.where(one, -64, found)])


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
        """0 or 1, of which 1 has the probability of a logit in 1/32."""
        one = round((1 << 20) / (1 + math.exp(-logit / 32)))
        edge = int(np.float32(1 - one / (1 << 20)) * np.float32((1 << 24) - 2)) + 1
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

    def run(place: Grid, features: Grid | None, row: int = 0) -> tuple[Grid, Grid]:
        known: dict[str, Grid | None] = {
            **constants,
            "seen": seen(place)[None],
            "features": None if features is None else features[None],
            "row": np.array([row]),
        }
        for node in graph.node:
            options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            known[node.output[0]] = OPERATORS[node.op_type](
                *(known[name] for name in node.input), **options
            )
        h, out = (known[output.name] for output in graph.output)
        return h[0], out[0]

    return run


def convolution(x: Grid, weight: Grid, bias: Grid, pads: list[int], group: int) -> Grid:
    """Sums of products, in double precision, tap after tap."""
    assert group == 1
    padded = np.pad(x[0].astype(float), ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    height, width = x.shape[2:]
    total = np.zeros((len(weight), height, width)) + bias[:, None, None].astype(float)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            seen = padded[:, row : row + height, column : column + width]
            total += np.tensordot(weight[:, :, row, column].astype(float), seen, 1)
    return total[None]


def twice_as_large(x: Grid, weight: Grid, bias: Grid, strides: list[int]) -> Grid:
    """The transposed convolution whose kernels of 2 x 2 do not overlap."""
    assert (weight.shape[2:], strides) == ((2, 2), [2, 2])
    out = np.empty((1, weight.shape[1], 2 * x.shape[2], 2 * x.shape[3]))
    for row in range(2):
        for column in range(2):
            each = np.tensordot(weight[:, :, row, column].T.astype(float), x[0], 1)
            out[0, :, row::2, column::2] = each + bias[:, None, None]
    return out


OPERATORS: dict[str, Callable[..., Grid]] = {
    "Add": lambda a, b: a + b,
    "Clip": lambda x, low, high: x.clip(low, high),
    "Concat": lambda *parts, axis: np.concatenate(parts, axis),
    "Conv": convolution,
    "ConvTranspose": twice_as_large,
    "Gather": lambda table, index: table[index],
    "Round": np.round,
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes)),
}
