"""Models to evaluate: what names one, and the ways to measure it.

What only a hyperprior needs, such as CompressAI, is imported when there is one.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from progdtd.codec.container import CHANNELS, PLANES
from progdtd.codec.model_store import in_run
from progdtd.errors import UserError
from progdtd.evaluation import streams
from progdtd.tail_drop import P_LEVELS, TailDrop

if TYPE_CHECKING:
    from progdtd.models.weights import Loaded

log = logging.getLogger(__name__)

LOW = (0.0025, 0.0035, 0.005, 0.007, 0.015, 0.02, 0.03, 0.04, 0.07)
"""Fractions p of the bytes at which wavelet models are measured beside P_LEVELS: of a stream of 4
bits per pixel, P_LEVELS have one point between 0 and 0.2 of them."""

Way = Callable[[np.ndarray, Sequence[float]], Iterator[dict[str, Any]]]
"""Measures a picture (H, W, 3) at fractions p: rows of results."""


@dataclass(frozen=True)
class Choices:
    """What is measured, and how.

    Args:
        protocols: `native`, `reference` or both.
        levels: fractions p; None: those that suit the model.
        device: from `pick_device`.
        kinds: levels of a hyperprior's streams that `native` measures, `channels` or `planes`.
        effort: steps in which each latent is fitted to its image.

    Raises:
        UserError: a protocol or kind is unknown or none is chosen, or planes lack `native`.
    """

    protocols: Sequence[str]
    levels: Sequence[float] | None
    device: str
    kinds: Sequence[str]
    effort: int

    def __post_init__(self) -> None:
        protocols = ("protocol", self.protocols, ("native", "reference"))
        for what, given, known in (protocols, ("kind of level", self.kinds, (CHANNELS, PLANES))):
            unknown = ", ".join(sorted({*given} - {*known}))
            if unknown or not given:
                raise UserError(
                    f"No {what} {unknown or 'is chosen'}; there are {', '.join(known)}."
                )
        if PLANES in self.kinds and "native" not in self.protocols:
            raise UserError("kinds=planes are measured by protocols=native alone: add it.")


@dataclass(frozen=True)
class Subject:
    """A model that is evaluated.

    Args:
        identity: the columns that say which model made a row.
        fingerprint: of its streams, in hexadecimal.
        digest: of whatever else of it can change a picture.
        levels: fractions p at which it is measured.
        ways: makes the protocols. Raises UserError if the model cannot code images, or takes no
            effort.
    """

    identity: dict[str, Any]
    fingerprint: str
    digest: str
    levels: Sequence[float]
    ways: Callable[[], list[Way]]


def open_subject(path: Path, chosen: Choices) -> Subject:
    """Open the model at a path.

    Raises:
        UserError: the path has no model, or one that cannot be measured so.
    """
    return (_wavelet if in_run(path).suffix == ".onnx" else _hyperprior)(path, chosen)


def _wavelet(path: Path, chosen: Choices) -> Subject:
    from progdtd.codec.wavelet import WaveletCoder

    file = in_run(path)
    if "native" not in chosen.protocols:
        raise UserError(f"{file} is a wavelet model, which is measured by protocols=native alone.")
    coder = WaveletCoder.load(file)
    made: dict[str, Any] = {"codec": "ProgDTD", "model": "wavelet", "drop": "digits"}
    made |= {"range_low": 0.0, "range_high": 1.0, "lambda": None}
    made |= {"seed": coder.network.card.get("seed")}
    digest = sha256(file.read_bytes()).hexdigest()
    levels = chosen.levels or sorted({*LOW, *P_LEVELS})
    ways = [partial(streams.native, coder, effort=chosen.effort)]
    return Subject(made, coder.fingerprint.hex(), digest, levels, lambda: [*ways])


def _hyperprior(path: Path, chosen: Choices) -> Subject:
    from progdtd.models import weights

    loaded = weights.load_model(path, chosen.device)
    levels = chosen.levels or P_LEVELS
    if "native" in chosen.protocols and CHANNELS in chosen.kinds and tuple(levels) != P_LEVELS:
        warn_of_no_levels(levels, loaded.drop)
    fingerprint = weights.fingerprint(loaded.model).hex()
    return Subject(identity(loaded), fingerprint, "", levels, partial(_ways, loaded, chosen))


def _ways(loaded: "Loaded", chosen: Choices) -> list[Way]:
    """Returns the chosen protocols for one hyperprior."""
    from progdtd.codec.hyperprior import HyperpriorCoder, recorded_sensitivities
    from progdtd.codec.latent_refinement import effort_of
    from progdtd.evaluation import protocols

    ways: list[Way] = []
    if "native" in chosen.protocols:
        try:
            coder = HyperpriorCoder(loaded)
        except UserError as error:
            advice = "protocols=reference estimates bits, and codes none."
            raise UserError(f"{error} {advice}") from error
        kinds = list(dict.fromkeys(chosen.kinds))
        ways.append(partial(protocols.native, coder, kinds=kinds, effort=chosen.effort))
    if "reference" in chosen.protocols:
        sensitivities = recorded_sensitivities(loaded) if chosen.effort else None
        effort = effort_of(chosen.effort, loaded.lmbda, sensitivities)
        ways.append(partial(protocols.reference, loaded.model, loaded.drop, effort=effort))
    return ways


def warn_of_no_levels(levels: Sequence[float], drop: TailDrop) -> None:
    """Warn of fractions p that were asked for and are not levels of this model's streams."""
    if drop.progressive and (others := {*levels} - {*drop.within(levels)}):
        named = ", ".join(f"{p:g}" for p in sorted(others))
        log.warning("levels=%s: not within the range of p, %s.", named, list(drop.range))


def identity(loaded: "Loaded") -> dict[str, Any]:
    """The columns that say which hyperprior made a row."""
    drop, meta, made = loaded.drop, loaded.meta, dict[str, Any]()
    low, high = drop.range if drop.progressive else (1.0, 1.0)
    made |= {"codec": "ProgDTD" if drop.progressive else "single-rate", "drop": drop.name}
    made |= {"model": meta["model"].get("name", type(loaded.model).__name__)}
    made |= {"range_low": low, "range_high": high}
    return made | {"lambda": meta.get("lambda"), "seed": meta.get("seed")}
