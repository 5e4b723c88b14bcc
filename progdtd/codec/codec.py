"""Pictures to streams and back. What is inside a stream's levels is the coder's (`coder.py`)."""

import bisect
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from progdtd.codec import container, model_store
from progdtd.codec.coder import Coder, LevelDecoder, Levels, Wanted
from progdtd.codec.errors import (
    DamagedError,
    IncompleteError,
    MismatchError,
    OtherModelError,
    UndecodableError,
)
from progdtd.errors import UserError
from progdtd.images import Picture, psnr, to_rgb

log = logging.getLogger(__name__)

MAX_PIXELS = 1 << 27
"""Larger images are refused, to encode as well as to decode: a forged header, of which a few bytes
can claim any size, costs no more than an image of 134 megapixels does."""


class Codec:
    """Codes images with one model. It goes to other processes as a pickle.

    Args:
        coder: of the model.
    """

    def __init__(self, coder: Coder) -> None:
        self.coder = coder

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that name the decoding half of the model; every stream carries them."""
        return self.coder.fingerprint

    @classmethod
    def load(cls, path: str | Path | None = None, device: Any = "cpu") -> "Codec":
        """Load a model by its path (a run, a weights file, whatever `load_model` takes), by the
        name of a run under `outputs/` or `$PROGDTD_MODELS`, or the default one.

        Args:
            path: path or name.
            device: "cpu", "cuda" or a `torch.device`, for models that PyTorch runs.

        Raises:
            UserError: no model has this path or name, or several have the name.
        """
        path = model_store.by_name(path)
        codec = cls(model_store.open_model(path, device))
        model_store.remember(codec.fingerprint, path)
        return codec

    @classmethod
    def load_for(cls, stream: bytes, device: Any = "cpu") -> "Codec":
        """Load the model that made a stream.

        Raises:
            CodecError: the bytes are not a stream, or its model is not here, or not as it was.
        """
        header, tried = container.read_header(stream)[0], ""
        for path in model_store.by_fingerprint(header.fingerprint):
            try:
                codec = cls.load(path, device)
                codec.check(header)
                return codec
            except DamagedError:
                raise
            except UserError as error:
                tried = f" It was looked for at {path}: {error}"
        raise OtherModelError(
            f"The stream was made by the model {header.fingerprint.hex()}, which is not here: give "
            f"it (--model, Codec.load), or name its folder in PROGDTD_MODELS.{tried}"
        )

    def check(self, header: container.Header) -> Levels:
        """The levels of a stream, if this is the model that made it.

        Raises:
            OtherModelError: another model made it.
            DamagedError: its header contradicts itself or this model.
        """
        if header.fingerprint != self.fingerprint:
            raise OtherModelError(
                f"The stream was made by the model {header.fingerprint.hex()}; this one is "
                f"{self.fingerprint.hex()}. Decode it with the model that made it."
            )
        if header.width * header.height > MAX_PIXELS:
            raise DamagedError(f"{header.width}x{header.height} pixels are more than can be")
        return self.coder.levels_of(header)

    def encode(
        self,
        image: Picture,
        levels: Wanted = None,
        max_bytes: int | None = None,
        target_psnr: float | None = None,
        effort: int = 0,
    ) -> bytes:
        """Code an image as a stream.

        Args:
            image: a PIL image of any mode, an array (H, W), (H, W, 3 or 4) of uint8 or uint16, or a
                tensor (3, H, W) or (1, 3, H, W) in [0, 1]. The stream keeps 8-bit RGB: alpha is
                shown on white, EXIF orientation and colour profiles are applied.
            levels: those of a hyperprior are "planes", many levels, each of which refines what pays
                most; "channels", which are the paper's 16 fractions p of the channels as far as
                they are not below the model's range of p; or other fractions, one level for each,
                and a last one with all that is left. None: planes, or channels if the model has no
                sensitivities.
            max_bytes: keep as many levels as fit into this many bytes.
            target_psnr: keep as few levels as reach this PSNR, in dB (all, if none does).
            effort: steps in which the latent is fitted to the image (`latent_refinement.py`); 2
                bring half of the gain, 10 nearly all.

        Raises:
            UserError: not an image, too large, no such levels, or not even the first level fits; or
                the model has no sensitivities, which planes and effort need, or no lambda, which
                effort needs.
        """
        chosen = self.coder.levels(levels)
        picture = to_rgb(image)
        height, width = picture.shape[:2]
        if not 0 < height * width <= MAX_PIXELS or max(height, width) > container.MAX_SIDE:
            raise UserError(
                f"An image of {width}x{height} pixels cannot be coded; at most {MAX_PIXELS} pixels."
            )
        parameters, payloads = chosen.encode(picture, effort)
        header = container.Header(width, height, self.fingerprint, chosen.kind, parameters)
        if target_psnr is not None:
            stream = container.write(header, payloads)
            payloads = payloads[: self._reaching(target_psnr, stream, len(payloads), picture)]
        if max_bytes is not None:
            payloads = payloads[: container.fitting(header, payloads, max_bytes)]
        return container.write(header, payloads)

    def _reaching(self, target: float, stream: bytes, levels: int, picture: np.ndarray) -> int:
        """The fewest levels that reach a PSNR, which is taken to grow from level to level; all,
        with a warning, if none does."""

        def quality(levels: int) -> float:
            decoder = self.decoder()
            decoder.feed(stream, levels)
            return psnr(picture, decoder.picture())

        enough = bisect.bisect_left(range(1, levels), target, key=quality) + 1
        if enough == levels and (best := quality(levels)) < target:
            log.warning("The whole stream has %.2f dB, less than the %g asked for.", best, target)
        return enough

    def decode(
        self, stream: bytes, levels: int | None = None, p: float | None = None
    ) -> Image.Image:
        """The picture that a stream, or any prefix of it, holds.

        Args:
            stream: bytes.
            levels: decode at most this many.
            p: at most this fraction of the channels, or of levels of another kind this fraction of
                the stream's bytes (at least the first level).

        Raises:
            CodecError: see `progdtd.codec.errors`.
            UserError: `levels` or `p` is out of range.
        """
        decoder = self.decoder()
        decoder.feed(stream, levels, p)
        return Image.fromarray(decoder.picture())

    def progressive(self, chunks: Iterable[bytes] | bytes) -> Iterator[Image.Image]:
        """Decode while bytes arrive: yields a picture whenever a level is complete. No symbol is
        decoded twice; each level costs its own symbols and one synthesis.

        Args:
            chunks: bytes in any portions; bytes themselves are one portion.

        Raises:
            CodecError: see `progdtd.codec.errors`; also when the chunks end before the first level.
        """
        decoder = self.decoder()
        for chunk in [chunks] if isinstance(chunks, container.Bytes) else chunks:
            for _ in decoder.levels_of(chunk):
                yield Image.fromarray(decoder.picture())
        decoder.require_level()

    def decoder(self) -> "StreamDecoder":
        """A decoder for one stream, to be fed bytes."""
        return StreamDecoder(self)


class StreamDecoder:
    """Decodes one stream as its bytes arrive.

    `position` says where in the stream the levels known end, and `known` is what the coder has
    decoded of them, from when the header is complete.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.reader = container.Reader()
        self.position = 0
        self.known: LevelDecoder | None = None
        self._error: UndecodableError | None = None
        self._picture: np.ndarray | None = None

    @property
    def level(self) -> int:
        """How many levels are decoded."""
        return self.known.level if self.known else 0

    @property
    def changed(self) -> bool:
        """Whether the last level changed the picture."""
        return self._picture is None

    def levels_of(self, chunk: bytes) -> Iterator[int]:
        """Take bytes; yields the number of each level that they complete.

        Raises:
            CodecError: see `progdtd.codec.errors`.
        """
        if self._error:
            raise self._error
        for payload in self.reader.feed(chunk):
            known = self._begun()
            try:
                known.feed(payload)
            except MismatchError as error:
                # what comes after it would be taken for it
                self._error = UndecodableError(self.level + 1)
                raise self._error from error
            self.position = self.reader.position
            if known.changed:
                self._picture = None
            yield self.level
        if self.reader.header:  # whose stream is not waited for if it cannot be decoded
            self._begun()

    def feed(self, stream: bytes, levels: int | None = None, p: float | None = None) -> None:
        """Decode a stream, or no more than some levels of it. Bytes fed later go on where these
        end.

        Raises:
            CodecError: see `progdtd.codec.errors`.
            UserError: `levels` is below 1, or `p` outside [0, 1].
        """
        if levels is not None and levels < 1:
            raise UserError(f"There is no level {levels}: levels count from 1.")
        if p is not None and not 0 <= p <= 1:
            raise UserError(f"p={p} is not within [0, 1].")
        most = levels or container.MAX_LEVELS
        if p is not None:
            most = min(most, self.level_at(p, stream))
        if self.level >= most:
            return
        for level in self.levels_of(stream):
            if level >= most:
                return
        self.require_level()

    def require_level(self) -> None:
        """Check that there is something to show.

        Raises:
            IncompleteError: no level has been decoded.
        """
        self.reader.require_header()
        if self.level == 0:
            raise IncompleteError("level 1", self.reader.received)

    def level_at(self, p: float, stream: bytes) -> int:
        """How many levels of a stream hold no more than a fraction p of the channels, or if they
        are of another kind, of its bytes; at least one."""
        header = container.read_header(stream)[0]
        return self.codec.check(header).level_at(header, container.ends(stream), p)

    def picture(self) -> np.ndarray:
        """The picture (H, W, 3) uint8 of the levels known; synthesised when first asked for."""
        if self._picture is None:
            self._picture = self._begun().picture()
        return self._picture

    def _begun(self) -> LevelDecoder:
        header = self.reader.require_header()
        self.known = self.known or self.codec.check(header).decoder(header)
        return self.known
