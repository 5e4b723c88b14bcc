"""What the codec asks of a model that codes: its levels, of one or more kinds.

`codec.py` knows pictures and streams, a coder knows what is inside a level. `model_store.py` says
which coder a model has; what it needs, such as PyTorch, is imported when such a model is opened.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from progdtd.codec.container import Header

Wanted = str | Sequence[float] | None
"""A kind of level, fractions p of the channels, or None for what the model does best."""


class LevelDecoder(Protocol):
    """Decodes one stream level after level; nothing is decoded twice."""

    @property
    def level(self) -> int:
        """How many levels are decoded."""

    @property
    def changed(self) -> bool:
        """Whether the last of them changed the picture."""

    def feed(self, payload: bytes) -> None:
        """Decode the next level.

        Raises:
            MismatchError: the payload is not one that this model's encoder makes; nothing of it
                is shown.
        """

    def picture(self) -> np.ndarray:
        """The picture (H, W, 3) uint8 of the levels decoded, of which there is at least one."""


class Levels(Protocol):
    """Levels of one kind, as one model codes them."""

    kind: str
    """One of `container.KINDS`."""

    def encode(self, picture: np.ndarray, effort: int = 0) -> tuple[bytes, list[bytes]]:
        """The parameters that the header gets, and the payload of each level, in whole words of
        `container.WORD` bytes.

        Args:
            picture: (H, W, 3) uint8, of any size.
            effort: how long to look for something better, from 0.

        Raises:
            UserError: effort is negative, or this model takes none.
        """

    def decoder(self, header: Header) -> LevelDecoder:
        """A decoder of a stream with this header, from which `levels_of` made these levels.

        Raises:
            DamagedError: its parameters contradict the model.
        """

    def level_at(self, header: Header, ends: Sequence[int], p: float) -> int:
        """How many levels hold no more than a fraction p of the whole stream, by whatever measure
        suits the kind; at least one.

        Args:
            header: as for `decoder`.
            ends: of the levels that are there, in bytes from the beginning of the stream.
            p: within [0, 1].
        """


class Coder(Protocol):
    """One model that codes. It goes to other processes as a pickle."""

    fingerprint: bytes
    """8 bytes that name all of the model that decoding needs; every stream carries them."""

    def levels(self, wanted: Wanted = None) -> Levels:
        """Levels to encode in.

        Raises:
            UserError: this model has no such levels.
        """

    def levels_of(self, header: Header) -> Levels:
        """The levels of a stream with this coder's fingerprint.

        Raises:
            OtherModelError: the model has changed in a way that the fingerprint does not tell.
            DamagedError: the model has no such levels, or the header's parameters contradict it.
        """
