"""What every progressive hyperprior shares: a forward pass that keeps a fraction p of the channels.

To make another CompressAI hyperprior progressive, derive from `Progressive` and the CompressAI
class, and say how it computes `(y, z)` and what `h_s` predicts; see `hyperprior.py`.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from progdtd.models.backbones import quantize_ste
from progdtd.tail_drop import mask

Fraction = float | Tensor


class Progressive(nn.Module):
    """A CompressAI hyperprior whose latent and hyper-latent can lose their tails.

    The convolutions run in whatever precision autocast asks for; the entropy models and all that
    counts bits run in float32.
    """

    RECEPTIVE_FIELD = {"g_a": 32, "h_a": 8, "h_s": 2, "g_s": 2}  # noqa: RUF012
    """How far a transform looks around each sample of its input, in samples, at most: the codec's
    tiles overlap by as much. A model that looks further says so, as
    `Progressive.RECEPTIVE_FIELD | {"g_s": 4}`."""

    M: int
    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    h_s: nn.Module
    entropy_bottleneck: Any
    gaussian_conditional: Any
    aux_loss: Callable[[], Tensor]
    update: Callable[..., bool]

    @property
    def device(self) -> torch.device:
        """Where its weights are, and its inputs have to be."""
        return next(self.parameters()).device

    @abstractmethod
    def hyper_analyse(self, y: Tensor) -> Tensor:
        """The hyper-latent `z` (B, N, H/64, W/64) of a latent (B, M, H/16, W/16)."""

    def analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The whole latent `y` (B, M, H/16, W/16) and hyper-latent `z` (B, N, H/64, W/64).

        Args:
            x: images (B, 3, H, W) in [0, 1]; H and W multiples of 64.
        """
        y = self.g_a(x)
        return y, self.hyper_analyse(y)

    @abstractmethod
    def split(self, prediction: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `h_s` predicts, split along channels into scales and means (None: zero). Nothing may
        be computed on the way: the codec has an integer form of `h_s` alone."""

    def prior(self, z_hat: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scales and means (None: zero) of the latent's Gaussians, each of the shape of `y`, for a
        hyper-latent (B, N, H/64, W/64)."""
        return self.split(self.h_s(z_hat))

    def quantise(
        self,
        y: Tensor,
        z: Tensor,
        p: Fraction = 1.0,
        p_hyper: Fraction | None = None,
        rounded: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Quantise, drop the tails and count the bits.

        The tails are cut *after* quantisation, so a dropped channel is exactly zero for the
        decoder in training and in use, and a dropped element costs nothing (likelihood 1).

        Args:
            y, z: from `analyse`.
            p: fraction of the latent's channels to keep; a float or a tensor of shape (B,).
            p_hyper: fraction of the hyper-latent's channels; p unless given.
            rounded: in training too, both syntheses see rounded latents, whose gradients are those
                of the latents (Minnen, Singh, "Channel-wise autoregressive entropy models for
                learned image compression", ICIP 2020). Else they see noise there, as the
                likelihoods do either way.

        Returns:
            `y_hat`, of the shape of `y`, and the likelihoods {"y", "z"} of every element.
        """
        keep_y = mask(p, y.shape[1], y.device)
        keep_z = mask(p if p_hyper is None else p_hyper, z.shape[1], z.device)
        with torch.autocast(y.device.type, enabled=False):
            z_hat, z_likelihoods = self.entropy_bottleneck(z.float())
            if rounded:
                medians = self.entropy_bottleneck.quantiles[:, :, 1:2].detach()
                z_hat = quantize_ste(z.float() - medians) + medians
            z_hat = z_hat * keep_z
        scales, means = self.prior(z_hat)
        with torch.autocast(y.device.type, enabled=False):
            means = None if means is None else means.float()
            y_hat, y_likelihoods = self.gaussian_conditional(y.float(), scales.float(), means=means)
            if rounded:
                centre = 0.0 if means is None else means
                y_hat = quantize_ste(y.float() - centre) + centre
            y_hat = y_hat * keep_y
        likelihoods = {
            "y": torch.where(keep_y > 0, y_likelihoods, 1.0),
            "z": torch.where(keep_z > 0, z_likelihoods, 1.0),
        }
        return y_hat, likelihoods

    def forward(
        self, x: Tensor, p: Fraction = 1.0, p_hyper: Fraction | None = None, rounded: bool = False
    ) -> dict[str, Any]:
        """Analyse, quantise and drop, synthesise.

        Args:
            x: images (B, 3, H, W) in [0, 1]; H and W multiples of 64.
            p, p_hyper, rounded: as in `quantise`.

        Returns:
            `x_hat` (B, 3, H, W), not clipped, and `likelihoods` {"y", "z"}, as CompressAI does.
        """
        y_hat, likelihoods = self.quantise(*self.analyse(x), p, p_hyper, rounded)
        return {"x_hat": self.g_s(y_hat).float(), "likelihoods": likelihoods}
