"""How many channels each level of channels knows, and how a stream's header says so.

The parameters of the levels, in the container's header, are one pair of varints for each level:
how many channels of the latent (at least one) and of the hyper-latent it adds. No parameters stand
for the paper's 16 fractions with both tails dropped. What a stream holds is so told without torch,
which `channels.py` needs to code.
"""

from collections.abc import Sequence

import numpy as np

from progdtd.codec import container
from progdtd.codec.errors import DamagedError, IncompleteError
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


def level_at(levels: Sequence[Counts], p: float, latent: int) -> int:
    """How many levels hold no more than the fraction p of the latent's channels, at least one."""
    return max(1, sum(y <= kept(p, latent) for y, _ in levels))


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
    """
    known = _sums(parameters, latent, hyper) if parameters else default_plan(latent, hyper)
    if levels > len(known):
        raise DamagedError(f"the header has {levels} levels for {len(known)} steps")
    return known


def shares(header: container.Header) -> list[dict[str, float]]:
    """What a header tells of each level without the model: the channels known, or p. With the
    paper's fractions it may tell nothing: models of few channels merge some of them."""
    if header.parameters:
        plan = unpack(header.parameters, header.levels, 1 << 30, 1 << 30)
        return [{"latent_channels": y, "hyper_channels": z} for y, z in plan]
    return [{"p": p} for p in P_LEVELS] if header.levels == len(P_LEVELS) else []


def _sums(parameters: bytes, latent: int, hyper: int) -> list[Counts]:
    numbers, at = [], 0
    try:
        while at < len(parameters):
            number, at = container.read_varint(parameters, at)
            numbers.append(number)
    except IncompleteError as error:
        raise DamagedError("the levels in the header end too soon") from error
    steps = np.array(numbers[: len(numbers) // 2 * 2], dtype=np.int64).reshape(-1, 2)
    sums = np.cumsum(steps, axis=0)
    if len(numbers) % 2 or steps[:, 0].min() < 1 or (sums[-1] > (latent, hyper)).any():
        raise DamagedError("the levels in the header are not those of this model")
    return [(int(y), int(z)) for y, z in sums]
