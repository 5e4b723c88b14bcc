"""The coder of hyperpriors: pictures to latents and back, and the levels of latents between them.

The latents are coded in levels of channels (`channels.py`) or of planes (`tritplanes.py`).
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from progdtd.codec import channels, container, tritplanes
from progdtd.codec.channels import Channels, LatentDecoder, Prior
from progdtd.codec.coder import Wanted
from progdtd.codec.container import CHANNELS, PLANES, Header
from progdtd.codec.errors import DamagedError, IncompleteError, OtherModelError
from progdtd.codec.latent_refinement import effort_of, fit
from progdtd.codec.tiles import tiled
from progdtd.codec.tritplanes import Planes
from progdtd.downsampling_factor import HYPER_FACTOR, LATENT_FACTOR, LATENT_TO_HYPER
from progdtd.errors import UserError
from progdtd.models.weights import Loaded, fingerprint
from progdtd.tail_drop import P_LEVELS

TILE = 640
"""Side of a tile in pixels: images of more pixels than a tile are coded in tiles."""


class HyperpriorCoder:
    """Codes with one hyperprior. As a pickle it goes to processes that were started with "spawn":
    a fork has none of torch's threads and waits for them.

    Args:
        loaded: a model and its tail drop; the networks run where it is.

    Raises:
        UserError: a prior that has no form in integers.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.model, self.drop = loaded, loaded.model.eval(), loaded.drop
        self.device = self.model.device
        self.fingerprint = fingerprint(self.model)
        self.sensitivities = recorded_sensitivities(loaded)
        try:
            if not all(weight.isfinite().all() for weight in self.model.parameters()):
                raise ValueError("some of its weights are not finite")
            self.prior = Prior(self.model)
        except (TypeError, ValueError) as error:
            raise UserError(f"This model cannot code images: {error}.") from error

    def __reduce__(self) -> tuple[type["HyperpriorCoder"], tuple[Loaded]]:
        return HyperpriorCoder, (self.loaded,)

    def levels(self, wanted: Wanted = None) -> "LatentLevels":
        """Levels to encode in: planes, channels at the paper's fractions p as far as they are
        within the model's range, or one level of channels for each of some fractions and a last one
        with all that is left. None: planes, or channels if the model has no sensitivities.

        Raises:
            UserError: `wanted` is something else, or planes of a model without sensitivities.
        """
        if wanted is None:
            wanted = CHANNELS if self.sensitivities is None else PLANES
        if not isinstance(wanted, str):
            fractions = list(wanted)
            if not fractions or not all(0 <= p <= 1 for p in fractions):
                raise UserError(f"levels={fractions}: give fractions of the channels, in [0, 1].")
        elif wanted == CHANNELS:
            fractions = self.drop.within(P_LEVELS)
        elif wanted == PLANES:
            sensitivities = tritplanes.require_sensitivities(self.sensitivities, "Planes need")
            carried = channels.plan(self.drop, [], *self.prior.channels)[-1]
            return LatentLevels(self, Planes(self.prior, sensitivities, carried))
        else:
            raise UserError(
                f"levels={wanted!r}: this model has {CHANNELS!r} and {PLANES!r}, or give fractions "
                "of the channels."
            )
        plan = channels.plan(self.drop, fractions, *self.prior.channels)
        return LatentLevels(self, Channels(self.prior, plan))

    def levels_of(self, header: Header) -> "LatentLevels":
        """The levels of a stream of this model.

        Raises:
            OtherModelError: its planes were made with other sensitivities.
            DamagedError: the header's parameters contradict the model.
        """
        if header.kind not in (CHANNELS, PLANES):
            raise DamagedError(f"its model has no levels of {header.kind}")
        parameters, known = header.parameters, self.prior.channels
        try:
            if header.kind == CHANNELS:
                plan = channels.unpack(parameters, header.levels, *known)
                return LatentLevels(self, Channels(self.prior, plan))
            levels, made_with, carried = tritplanes.unpack(parameters, known)
        except IncompleteError as error:
            raise DamagedError("the levels in the header end too soon") from error
        if self.sensitivities is None or made_with != tritplanes.digest(self.sensitivities):
            raise OtherModelError(
                "The stream was made by this model with other sensitivities of its channels than "
                "the weights here have. Decode it with the weights file that made it."
            )
        return LatentLevels(self, Planes(self.prior, self.sensitivities, carried, levels))

    @torch.inference_mode()
    def analyse(self, picture: np.ndarray, effort: int = 0) -> tuple[Tensor, Tensor]:
        """The latent (1, M, H/16, W/16) and the hyper-latent (1, N, H/64, W/64), float32, on the
        CPU, of (H, W, 3) uint8, which is padded to multiples of 64 by repeating its edge.

        Raises:
            UserError: effort is not a number of steps, or the weights lack what it needs.
        """
        chosen = effort_of(effort, self.loaded.lmbda, self.sensitivities)
        height, width = picture.shape[:2]
        halo = self.model.RECEPTIVE_FIELD
        padded = np.pad(
            picture, ((0, -height % HYPER_FACTOR), (0, -width % HYPER_FACTOR), (0, 0)), "edge"
        )

        def g_a(part: Tensor) -> Tensor:
            x = part.to(self.device).float() / 255
            return self.model.g_a(x.contiguous(memory_format=torch.channels_last)).cpu()

        def h_a(part: Tensor) -> Tensor:
            return self.model.hyper_analyse(part.to(self.device)).cpu()

        pixels = torch.from_numpy(padded).permute(2, 0, 1)[None]
        y = tiled(g_a, pixels, Fraction(1, LATENT_FACTOR), TILE, halo["g_a"])
        z = tiled(h_a, y, Fraction(1, LATENT_TO_HYPER), TILE // LATENT_TO_HYPER, halo["h_a"])
        if chosen:
            shown, side = pixels[..., :height, :width], TILE // LATENT_FACTOR
            y = fit(self.model, self.drop, chosen, shown, y, z, side)
        return y, z

    @torch.inference_mode()
    def encode_latents(
        self, y: Tensor, z: Tensor, width: int, height: int, wanted: Wanted = None
    ) -> bytes:
        """The stream of what `analyse` made of an image of this size.

        Args:
            y: latent (1, M, H/16, W/16), not quantised, on the CPU.
            z: hyper-latent (1, N, H/64, W/64), not quantised, on the CPU.
            width, height: of the image, in pixels, before it was padded to H and W.
            wanted: as for `levels`.

        Raises:
            UserError: the model has no such levels.
        """
        latents = self.levels(wanted).latents
        parameters, payloads = latents.encode(y, z)
        header = Header(width, height, self.fingerprint, latents.kind, parameters)
        return container.write(header, payloads)

    @torch.inference_mode()
    def synthesise(self, y_hat: Tensor, height: int, width: int) -> np.ndarray:
        """The picture (height, width, 3) uint8 of a latent (1, M, H/16, W/16)."""

        def g_s(part: Tensor) -> Tensor:
            x = part.to(self.device).contiguous(memory_format=torch.channels_last)
            x_hat = self.model.g_s(x).float().nan_to_num_(0.0)
            return x_hat.clamp_(0, 1).mul_(255).round_().to(torch.uint8).cpu()

        halo, side = self.model.RECEPTIVE_FIELD["g_s"], TILE // LATENT_FACTOR
        pixels = tiled(g_s, y_hat, Fraction(LATENT_FACTOR), side, halo)
        return np.ascontiguousarray(pixels[0, :, :height, :width].permute(1, 2, 0).numpy())


class LatentLevels:
    """Levels of a picture that are levels of its latents.

    Args:
        coder: makes latents of pictures and pictures of latents.
        latents: how these are coded.
    """

    def __init__(self, coder: HyperpriorCoder, latents: Channels | Planes) -> None:
        self.coder, self.latents, self.kind = coder, latents, latents.kind

    @torch.inference_mode()
    def encode(self, picture: np.ndarray, effort: int = 0) -> tuple[bytes, list[bytes]]:
        """Returns the parameters of the levels and the payload of each; see `analyse`."""
        return self.latents.encode(*self.coder.analyse(picture, effort))

    def decoder(self, header: Header) -> LatentDecoder:
        """Returns a decoder of a stream with this header."""
        sides = header.height, header.width
        height, width = (-(-side // HYPER_FACTOR) * LATENT_TO_HYPER for side in sides)
        return self.latents.decoder(height, width, lambda y: self.coder.synthesise(y, *sides))

    def level_at(self, header: Header, ends: Sequence[int], p: float) -> int:
        """Returns how many levels are within a fraction p of the channels, or if they are planes,
        of the bytes; at least one."""
        return self.latents.level_at(header, ends, p)


def recorded_sensitivities(loaded: Loaded) -> np.ndarray | None:
    """The sensitivities (M,) of the latent's channels that `sensitivities.py` measured, if it
    did."""
    recorded = loaded.meta.get("sensitivities")
    return None if recorded is None else np.array(recorded, np.int64)
