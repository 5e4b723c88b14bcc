"""The wavelet: pixels to coefficients and back, for pictures of any size.

Colours first: three orthonormal sums and differences of R, G and B (luma, R - B, and green against
both). Then six levels of the wavelet CDF 9/7 by lifting (Cohen, Daubechies, Feauveau 1992;
Daubechies, Sweldens, "Factoring wavelet transforms into lifting steps", 1998), with the symmetric
extension and the scaling that JPEG 2000 uses, so that a step of a coefficient counts nearly the
same everywhere.

Coefficients lie on grids, coarse to fine: the low band `(3, h, w)` and then six scales of details
`(9, h, w)`, `(9, h, w)`, `(9, 2h, 2w)`, ... `(9, 32h, 32w)`, with h = ceil(H / 64), w = ceil(W /
64). Channels are colour after colour, each with its bands: high along columns, along rows, along
both. Where a picture of odd size has no coefficient the grid has a zero, which `exists` tells.
"""

from collections.abc import Sequence

import numpy as np

SCALES = 6
GRID = 1 << SCALES
COLOURS = 3

PREDICT = (-1.586134342059924, 0.882911075530934)
UPDATE = (-0.052980118572961, 0.443506852043971)
LOW, HIGH = 1.149604398860098, 0.8698644516247808
GREY = 127.5
COLOUR = np.array(
    [[3**-0.5] * 3, [2**-0.5, 0, -(2**-0.5)], [-(6**-0.5), 2 * 6**-0.5, -(6**-0.5)]], np.float32
)


def forward(pixels: np.ndarray) -> list[np.ndarray]:
    """Coefficients, float32, coarse to fine, of pixels (H, W, 3) uint8."""
    x = np.moveaxis((pixels.astype(np.float32) - GREY) @ COLOUR.T, 2, 0)
    details = []
    for _ in range(SCALES):
        low, high = _split(x)
        bands = [
            part.swapaxes(1, 2) for half in (low, high) for part in _split(half.swapaxes(1, 2))
        ]
        x = bands[0]
        details.append(bands[1:])
    height, width = pixels.shape[:2]
    grid = [_padded(x, *grid_of(height, width, 0))]
    for scale, bands in enumerate(reversed(details), 1):
        sides = grid_of(height, width, scale)
        joined = np.stack([_padded(band, *sides) for band in bands], 1)
        grid.append(joined.reshape(-1, *sides))
    return grid


def inverse(coefficients: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Pixels (3, H, W), float32, not clipped; the inverse of `forward`. Of the coarser scales alone
    it is a picture of a half, a quarter, ... of the sides, rounded up."""
    missing = SCALES + 1 - len(coefficients)
    sides = [halved(height, width, times) for times in range(missing, SCALES + 1)]
    height, width = sides[-1]
    colours = np.empty((COLOURS, *sides[0]), np.float32)
    for colour in range(COLOURS):  # one at a time, to bound the memory
        x = coefficients[0][colour, :height, :width].astype(np.float32)
        for detail, (rows, columns) in zip(coefficients[1:], sides[-2::-1], strict=True):
            bands = detail[3 * colour : 3 * colour + 3]
            tall, wide = -(-rows // 2), -(-columns // 2)
            a = bands[0, : rows // 2, :wide]
            b = bands[1, :tall, : columns // 2]
            c = bands[2, : rows // 2, : columns // 2]
            x = _join(_join(x.T, a.T).T, _join(b.T, c.T).T)
        colours[colour] = x
    pixels = np.tensordot(COLOUR.T, colours, 1)
    pixels *= np.float32(0.5**missing)
    pixels += np.float32(GREY)
    return pixels


def enlarged(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels (3, H, W), float32, of half the sides, without further details."""
    large = np.empty((len(pixels), height, width), np.float32)
    for low, colour in zip(pixels, large, strict=True):
        x = np.float32(2) * (low - np.float32(GREY))
        x = _join(x.T, np.zeros((x.shape[1], height // 2), np.float32)).T
        colour[:] = _join(x, np.zeros((height, width // 2), np.float32))
    large += np.float32(GREY)
    return large


def halved(height: int, width: int, times: int) -> tuple[int, int]:
    """Rows and columns of the low band after so many levels."""
    return -(-height // (1 << times)), -(-width // (1 << times))


def grid_of(height: int, width: int, scale: int) -> tuple[int, int]:
    """Rows and columns of a scale's grid; 0 is the low band, 6 the finest details."""
    times = 1 << max(scale - 1, 0)
    return -(-height // GRID) * times, -(-width // GRID) * times


def exists(height: int, width: int, scale: int) -> np.ndarray:
    """Where a scale's grid has coefficients, as booleans of its shape."""
    rows, columns = grid_of(height, width, scale)
    above = max(SCALES - scale, 0) if scale else SCALES - 1
    there = [-(-side // (1 << above)) for side in (height, width)]
    low = [np.arange(n) < -(-side // 2) for n, side in zip((rows, columns), there, strict=True)]
    high = [np.arange(n) < side // 2 for n, side in zip((rows, columns), there, strict=True)]
    if scale == 0:
        return np.broadcast_to(low[0][:, None] & low[1], (COLOURS, rows, columns))
    bands = np.stack(
        [a[:, None] & b for a, b in ((high[0], low[1]), (low[0], high[1]), (high[0], high[1]))]
    )
    return np.concatenate([bands] * COLOURS)


def _padded(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, rows - x.shape[1]), (0, columns - x.shape[2])))


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The low and the high half along the last axis."""
    low, high = x[..., 0::2].copy(), x[..., 1::2].copy()
    if not high.shape[-1]:
        return low * np.float32(2**0.5), high
    for predict, update in zip(PREDICT, UPDATE, strict=True):
        _add(high, low, predict)
        _add_back(low, high, update)
    return low * np.float32(LOW), high * np.float32(HIGH)


def _join(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The inverse of `_split`."""
    if not high.shape[-1]:
        return low / np.float32(2**0.5)
    low, high = low / np.float32(LOW), high / np.float32(HIGH)
    for predict, update in zip(PREDICT[::-1], UPDATE[::-1], strict=True):
        _add_back(low, high, -update)
        _add(high, low, -predict)
    x = np.empty((*low.shape[:-1], low.shape[-1] + high.shape[-1]), np.float32)
    x[..., 0::2], x[..., 1::2] = low, high
    return x


def _add(high: np.ndarray, low: np.ndarray, times: float) -> None:
    """Add to each sample of `high` both its neighbours in `low`, the last one twice at the end."""
    many, factor = high.shape[-1], np.float32(times)
    step = low[..., :many] * factor
    high += step
    high[..., : low.shape[-1] - 1] += low[..., 1:] * factor
    if low.shape[-1] == many:
        high[..., -1] += step[..., -1]


def _add_back(low: np.ndarray, high: np.ndarray, times: float) -> None:
    """Add to each sample of `low` both its neighbours in `high`, the outer ones twice."""
    many, factor = high.shape[-1], np.float32(times)
    step = high * factor
    low[..., :many] += step
    low[..., 1:] += step[..., : low.shape[-1] - 1]
    low[..., 0] += step[..., 0]
    if low.shape[-1] > many:
        low[..., -1] += step[..., -1]
