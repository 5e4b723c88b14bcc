"""Images to streams and back: analysis, levels, container, synthesis."""

import bisect
import logging
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from progdtd.codec import channels, container, counts, model_store, tritplanes
from progdtd.codec.container import CHANNELS, KINDS, PLANES
from progdtd.codec.errors import (
    DamagedError,
    IncompleteError,
    OtherModelError,
    UndecodableError,
)
from progdtd.codec.latent_refinement import effort_of, fit
from progdtd.codec.tiles import tiled
from progdtd.errors import UserError
from progdtd.images import Picture, to_rgb, to_tensor
from progdtd.metrics import psnr
from progdtd.models import weights
from progdtd.models.weights import fingerprint
from progdtd.options import number, whole
from progdtd.strides import HYPER_STRIDE, LATENT_STRIDE, STRIDE
from progdtd.tail_drop import P_LEVELS

log = logging.getLogger(__name__)

TILE = 640
"""Side of a tile in pixels: images of more pixels than a tile are coded in tiles."""

MAX_PIXELS = 1 << 27
"""Larger images are refused, to encode as well as to decode: a forged header, of which a few bytes
can claim any size, costs no more than an image of 134 megapixels does."""

Bytes = bytes | bytearray | memoryview


Levels = Sequence[float] | str
"""A kind of level, "channels" or "planes", or the fractions p of the channels."""


class Codec:
    """Codes images with one model. It goes to other processes as a pickle; start these with
    "spawn", since a fork has none of torch's threads and waits for them.

    Args:
        loaded: a model and its tail drop; the networks run where it is.

    Raises:
        UserError: weights that are not finite, or a hyper-synthesis without an exact form.
    """

    def __init__(self, loaded: weights.Loaded) -> None:
        self.model = loaded.model.eval()
        self.device = self.model.device
        self.drop = loaded.drop
        self.fingerprint = fingerprint(self.model)
        """8 bytes that name the decoding half of the model; every stream carries them."""
        self._lmbda = loaded.lmbda
        self._gains = recorded_gains(loaded)
        try:
            if not all(w.isfinite().all() for w in self.model.parameters()):
                raise ValueError("some of its weights are not finite")
            self._prior = channels.Prior.of(self.model)
        except (TypeError, ValueError) as error:
            raise UserError(f"This model cannot code images: {error}.") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_prior": None}  # its coder's tables do not go to other processes

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prior = channels.Prior.of(self.model)

    @classmethod
    def load(cls, path: str | Path | None = None, device: str | torch.device = "cpu") -> "Codec":
        """Load a model by its path (a run, a weights file, whatever `load_model` takes), by the
        name of a run under `outputs/` or `$PROGDTD_MODELS`, or the default one.

        Raises:
            UserError: there is no such model.
        """
        path = model_store.by_name(path)
        codec = cls(weights.load_model(path, device))
        model_store.remember(codec.fingerprint, path)
        return codec

    @classmethod
    def load_for(cls, stream: bytes, device: str | torch.device = "cpu") -> "Codec":
        """Load the model that made a stream. What is wrong with that model itself is raised as it
        is; what is wrong at a place where it was once seen becomes the reason why it is not here.

        Raises:
            CodecError: this is no stream, or its model is not here.
        """
        header = read_header(stream)
        reason: UserError = model_store.not_here(header.fingerprint)
        for path in model_store.by_fingerprint(header.fingerprint):
            right = model_store.fingerprint_in(path) == header.fingerprint.hex()
            try:
                codec = cls.load(path, device)
                right = codec.fingerprint == header.fingerprint
                if right:
                    codec.check(header)
                    return codec
            except UserError as error:
                reason = (
                    error if right else model_store.not_here(header.fingerprint, f"{path}: {error}")
                )
        raise reason

    def check(self, header: container.Header) -> None:
        """Check that this is the model that made a stream.

        Raises:
            OtherModelError: it is another, or has other gains.
            DamagedError: what the header says of planes cannot be.
        """
        if header.fingerprint != self.fingerprint:
            raise OtherModelError(
                f"The stream was made by the model {header.fingerprint.hex()}; this one is "
                f"{self.fingerprint.hex()}. Decode it with the model that made it."
            )
        if header.kind == PLANES:
            made_with = tritplanes.unpack(header.parameters, self._prior.channels)[1]
            if self._gains is None or made_with != tritplanes.digest(self._gains):
                raise OtherModelError(
                    "The stream was made by this model with other gains of its channels than the "
                    "weights here have. Decode it with the weights file that made it."
                )

    def encode(
        self,
        image: Picture,
        levels: Levels | None = None,
        max_bytes: int | None = None,
        target_psnr: float | None = None,
        effort: int = 0,
        progress: bool = False,
    ) -> bytes:
        """Code an image as a stream.

        Args:
            image: a PIL image of any mode, an array (H, W), (H, W, 3 or 4) of uint8 or uint16, or a
                tensor (3, H, W) or (1, 3, H, W) in [0, 1]. The stream keeps 8-bit RGB: alpha is
                shown on white, EXIF orientation and colour profiles are applied.
            levels: "planes", many levels, each of which refines what pays most; "channels", which
                are the paper's 16 fractions p of the channels as far as they are not below the
                model's range of p; or other fractions, one level for each, and a last one with all
                that is left. None: planes, or channels if the model has no gains.
            max_bytes: keep as many levels as fit into this many bytes.
            target_psnr: keep as few levels as reach this PSNR, in dB (all, if none does).
            effort: steps in which the latent is fitted to the image (`latent_refinement.py`); 2
                bring half of the gain, 10 nearly all.
            progress: show progress bars.

        Raises:
            UserError: not an image, too large, no such levels or target, or not even the first
                level fits; or the model has no gains, which planes and effort need, or no lambda,
                which effort needs.
        """
        levels = self._checked(levels)
        if target_psnr is not None and not number(target_psnr):
            raise UserError(f"target_psnr={target_psnr!r} is no PSNR in dB.")
        if max_bytes is not None and not whole(max_bytes, 1):
            raise UserError(f"max_bytes={max_bytes!r} is no number of bytes.")
        picture = to_rgb(image)
        height, width = picture.shape[:2]
        if not 0 < height * width <= MAX_PIXELS or max(height, width) > container.MAX_SIDE:
            raise UserError(f"An image of {width}x{height} pixels cannot be coded; "
                            f"at most {MAX_PIXELS} pixels.")  # fmt: skip
        latents = self.analyse(picture, effort, progress)
        stream = self.encode_latents(*latents, width, height, levels)
        if target_psnr is not None:
            stream = self._cut_at(target_psnr, stream, picture)
        return stream if max_bytes is None else container.fit(stream, max_bytes)

    @torch.inference_mode()
    def encode_latents(
        self, y: Tensor, z: Tensor, width: int, height: int, levels: Levels | None = None
    ) -> bytes:
        """Code what `analyse` made of an image of this size.

        Args:
            y: latent (1, M, H/16, W/16), not quantised, on the CPU.
            z: hyper-latent (1, N, H/64, W/64), not quantised, on the CPU.
            width, height: of the image, in pixels, before it was padded to H and W.
            levels: as for `encode`.

        Raises:
            UserError: levels that cannot be, or planes of a model without gains.
        """
        levels = self._checked(levels)
        if levels == PLANES:
            assert self._gains is not None
            kind, held = PLANES, counts.plan(self.drop, [], *self._prior.channels)[-1]
            parameters, payloads = tritplanes.encode(self._prior, self._gains, y, z, held)
        else:
            fractions = self.drop.within(P_LEVELS) if isinstance(levels, str) else levels
            planned = counts.plan(self.drop, fractions, *self._prior.channels)
            kind, parameters = CHANNELS, counts.pack(planned, *self._prior.channels)
            payloads = channels.encode(self._prior, y, z, planned)
        header = container.Header(width, height, self.fingerprint, kind, parameters)
        return container.write(header, payloads)

    def _checked(self, levels: Levels | None) -> Levels:
        if levels is None:
            return CHANNELS if self._gains is None else PLANES
        if not isinstance(levels, str):
            try:
                fractions = [float(p) for p in levels]
            except (TypeError, ValueError):  # one number, or no numbers
                fractions = []
            if not (fractions and all(0 <= p <= 1 for p in fractions)):
                raise UserError(
                    f"levels={levels}: give a list of fractions of the channels, within [0, 1]."
                )
            return fractions
        if levels not in KINDS:
            raise UserError(
                f'levels={levels!r}: give "channels", "planes", or fractions of the channels.'
            )
        if levels == PLANES:
            tritplanes.require_gains(self._gains, "Planes need")
        return levels

    def decode(
        self,
        stream: bytes,
        levels: int | None = None,
        p: float | None = None,
        salvage: bool = False,
        progress: bool = False,
    ) -> Image.Image:
        """The picture that a stream, or any prefix of it, holds.

        Args:
            stream: bytes.
            levels: decode at most this many.
            p: at most this fraction of the channels, or of a stream of planes this fraction of its
                bytes (at least the first level).
            salvage: of a damaged stream, show the levels before the damage.
            progress: show a progress bar for images of several tiles.

        Raises:
            CodecError: see `progdtd.codec.errors`.
            UserError: no bytes, levels or p that can be.
        """
        decoder = self.decoder()
        try:
            decoder.feed(stream, levels, p)
        except DamagedError:
            if not salvage or decoder.level == 0:
                raise
        return Image.fromarray(decoder.picture(progress))

    def progressive(self, chunks: Iterable[bytes] | bytes) -> Iterator[Image.Image]:
        """Decode while bytes arrive: yields a picture whenever a level is complete. No symbol is
        decoded twice; each level costs its own symbols and one synthesis.

        Args:
            chunks: bytes in any portions; bytes themselves are one portion.

        Raises:
            CodecError: see `progdtd.codec.errors`; also when the chunks end before the first level.
            UserError: a chunk is no bytes.
        """
        decoder = self.decoder()
        for chunk in [chunks] if isinstance(chunks, Bytes) else chunks:
            for _ in decoder.levels_of(chunk):
                yield Image.fromarray(decoder.picture())
        if decoder.level == 0:
            decoder.reader.require_header()
            raise IncompleteError(f"level 1 is not complete in {decoder.reader.received} bytes")

    def decoder(self) -> "StreamDecoder":
        """A decoder for one stream, to be fed bytes."""
        return StreamDecoder(self)

    @torch.inference_mode()
    def analyse(
        self, picture: np.ndarray, effort: int = 0, progress: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The latent (1, M, H/16, W/16) and the hyper-latent (1, N, H/64, W/64), float32, on the
        CPU, of (H, W, 3) uint8, which is padded to multiples of 64 by repeating its edge.

        Raises:
            UserError: effort is no number of steps, or needs what the weights do not say.
        """
        chosen = effort_of(effort, self._lmbda, self._gains)
        height, width = picture.shape[:2]
        reach = self.model.REACH
        padded = np.pad(picture, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), "edge")

        def g_a(part: Tensor) -> Tensor:
            x = part.to(self.device).float() / 255
            return self.model.g_a(x.contiguous(memory_format=torch.channels_last)).cpu()

        pixels = torch.from_numpy(padded).permute(2, 0, 1)[None]
        y = tiled(g_a, pixels, Fraction(1, LATENT_STRIDE), TILE, reach["g_a"],
                  "analyse" if progress else "")  # fmt: skip
        z = tiled(lambda part: self.model.hyper_analyse(part.to(self.device)).cpu(),
                  y, Fraction(1, HYPER_STRIDE), TILE // HYPER_STRIDE, reach["h_a"])  # fmt: skip
        if chosen:
            y = fit(self.model, self.drop, chosen, pixels[..., :height, :width], y, z,
                    TILE // LATENT_STRIDE, "fit" if progress else "")  # fmt: skip
        return y, z

    @torch.inference_mode()
    def synthesise(
        self, y_hat: Tensor, height: int, width: int, progress: bool = False
    ) -> np.ndarray:
        """The picture (height, width, 3) uint8 of a latent (1, M, H/16, W/16)."""

        def g_s(part: Tensor) -> Tensor:
            x = part.to(self.device).contiguous(memory_format=torch.channels_last)
            x_hat = self.model.g_s(x).float().nan_to_num_(0.0)
            return x_hat.clamp_(0, 1).mul_(255).round_().to(torch.uint8).cpu()

        pixels = tiled(g_s, y_hat, Fraction(LATENT_STRIDE), TILE // LATENT_STRIDE,
                       self.model.REACH["g_s"], "synthesise" if progress else "")  # fmt: skip
        return np.ascontiguousarray(pixels[0, :, :height, :width].permute(1, 2, 0).numpy())

    def _cut_at(self, target: float, stream: bytes, picture: np.ndarray) -> bytes:
        """The fewest levels that reach a PSNR, which is taken to grow from level to level; all,
        with a warning, if none does."""
        wanted = to_tensor(picture)

        def quality(levels: int) -> float:
            decoder = self.decoder()
            decoder.feed(stream, levels)
            return psnr(wanted, to_tensor(decoder.picture()))

        most = len(container.ends(stream))
        levels = bisect.bisect_left(range(1, most), target, key=quality) + 1
        if levels == most and (best := quality(most)) < target:
            log.warning("The whole stream has %.2f dB, less than the %g asked for.", best, target)
        return container.cut(stream, levels)


class StreamDecoder:
    """Decodes one stream as its bytes arrive.

    `level` is the number of levels known, and `position` says where in the stream they end.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.reader = container.Reader()
        self.position = 0
        self._error: UndecodableError | None = None
        self._levels: channels.ChannelDecoder | tritplanes.PlaneDecoder | None = None
        self._picture: np.ndarray | None = None

    @property
    def level(self) -> int:
        """How many levels are decoded."""
        return self._levels.level if self._levels else 0

    @property
    def y_hat(self) -> Tensor:
        """The latent (1, M, H, W) as it is known, once there is a level."""
        assert self._levels
        return self._levels.y_hat

    @property
    def changed(self) -> bool:
        """Whether the last level changed the picture."""
        return self._picture is None

    @property
    def plan(self) -> list[counts.Counts]:
        """Channels of the latent and of the hyper-latent known at each level, once there is one;
        with planes, all that the stream holds."""
        if isinstance(self._levels, channels.ChannelDecoder):
            return list(self._levels.plan)
        return [self._levels.held] * self.reader.require_header().levels if self._levels else []

    def levels_of(self, chunk: bytes) -> Iterator[int]:
        """Take bytes; yields the number of each level that they complete.

        Raises:
            CodecError: see `progdtd.codec.errors`.
            UserError: these are no bytes.
        """
        require_bytes(chunk)
        if self._error:
            raise self._error
        for payload in self.reader.feed(chunk):
            levels = self._begun(self.reader.require_header())
            try:
                levels.feed(payload)
            except UndecodableError as error:  # what comes after it would be taken for it
                self._error = error
                raise
            self.position = self.reader.position
            if levels.changed:
                self._picture = None
            yield self.level
        if self.reader.header:  # whose stream is not waited for if it cannot be decoded
            self._begun(self.reader.header)

    def feed(self, stream: bytes, levels: int | None = None, p: float | None = None) -> None:
        """Decode a stream, or no more than some levels of it. Bytes fed later go on where these
        end.

        Raises:
            CodecError: see `progdtd.codec.errors`.
            UserError: no such level or fraction.
        """
        if levels is not None and not whole(levels, 1):
            raise UserError(f"There is no level {levels!r}: levels count from 1.")
        if p is not None and not (number(p) and 0 <= p <= 1):
            raise UserError(f"p={p!r} is not within [0, 1].")
        most = levels or container.MAX_LEVELS
        if p is not None:
            most = min(most, self.level_at(p, stream))
        if self.level >= most:
            return
        for level in self.levels_of(stream):
            if level >= most:
                return
        if self.level == 0:
            self.reader.require_header()
            raise IncompleteError(f"level 1 is not complete in {len(stream)} bytes")

    def level_at(self, p: float, stream: bytes) -> int:
        """How many levels of a stream hold no more than a fraction p of the channels, or if they
        are of planes, of its bytes; at least one."""
        header = read_header(stream)
        self.codec.check(header)
        if header.kind == PLANES:
            whole = len(bytes(header)) + header.total
            return tritplanes.level_at(container.ends(stream), p, whole)
        latent, hyper = self.codec._prior.channels
        plan = counts.unpack(header.parameters, header.levels, latent, hyper)
        return counts.level_at(plan, p, latent)

    def picture(self, progress: bool = False) -> np.ndarray:
        """The picture (H, W, 3) uint8 of the levels known; synthesised when first asked for."""
        if self._picture is None:
            header = self.reader.require_header()
            self._picture = self.codec.synthesise(self.y_hat, header.height, header.width, progress)
        return self._picture

    def _begun(self, header: container.Header) -> channels.ChannelDecoder | tritplanes.PlaneDecoder:
        self._levels = self._levels or self._begin(header)
        return self._levels

    def _begin(self, header: container.Header) -> channels.ChannelDecoder | tritplanes.PlaneDecoder:
        self.codec.check(header)
        if header.width * header.height > MAX_PIXELS:
            raise DamagedError(f"{header.width}x{header.height} pixels are more than can be")
        prior = self.codec._prior
        height, width = (
            -(-side // STRIDE) * HYPER_STRIDE for side in (header.height, header.width)
        )
        if header.kind == PLANES:
            assert self.codec._gains is not None
            levels, _, held = tritplanes.unpack(header.parameters, prior.channels)
            return tritplanes.PlaneDecoder(prior, self.codec._gains, levels, held, height, width)
        plan = counts.unpack(header.parameters, header.levels, *prior.channels)
        return channels.ChannelDecoder(prior, plan, height, width)


def read_header(stream: bytes) -> container.Header:
    """The header of a stream.

    Raises:
        CodecError: there is none, or it is not complete.
        UserError: these are no bytes.
    """
    require_bytes(stream)
    try:
        return container.read_header(stream)[0]
    except container.NotYetError as error:
        raise IncompleteError(f"the header is not complete in {len(stream)} bytes") from error


def require_bytes(stream: object) -> None:
    """Refuse what is no stream, such as a path.

    Raises:
        UserError: says what to give.
    """
    if not isinstance(stream, Bytes):
        raise UserError(
            f"A stream is bytes, and this is {type(stream).__name__}: read the file first, as "
            "Path(...).read_bytes() does."
        )


def recorded_gains(loaded: weights.Loaded) -> np.ndarray | None:
    """The gains (M,) of the latent's channels that `sensitivities.py` measured, if it did.

    Raises:
        UserError: what is recorded are no such gains.
    """
    recorded = loaded.meta.get("gains")
    if recorded is None:
        return None
    try:
        gains = np.array(recorded, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        gains = np.empty(0, np.int64)
    channels = loaded.model.M
    if gains.shape != (channels,) or np.abs(gains).max() > tritplanes.LARGEST_GAIN:
        raise UserError(
            "The gains recorded with this model are not those of its channels: measure them anew "
            "with python scripts/measure_gains.py --again."
        )
    return gains
