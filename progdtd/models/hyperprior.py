"""The two hyperpriors of the field, made progressive. State dicts are CompressAI's own."""

import torch
from torch import Tensor, nn

from progdtd.models.backbones import MeanScaleHyperprior, ScaleHyperprior
from progdtd.models.progressive import Progressive


class ProgressiveHyperprior(Progressive, ScaleHyperprior):
    """Ballé, Minnen, Singh, Hwang, Johnston, "Variational image compression with a scale
    hyperprior", ICLR 2018, with a tail drop. The backbone of the ProgDTD paper.

    Args:
        N: channels of the hyper-latent and of the hidden layers.
        M: channels of the latent.
        sigmoid: end the synthesis in a sigmoid, as the published ProgDTD models do.
    """

    def __init__(self, N: int = 128, M: int = 192, sigmoid: bool = False) -> None:  # noqa: N803
        super().__init__(N, M)
        if sigmoid:
            self.g_s = nn.Sequential(*self.g_s.children(), nn.Sigmoid())

    def hyper_analyse(self, y: Tensor) -> Tensor:
        return self.h_a(torch.abs(y))

    def split(self, prediction: Tensor) -> tuple[Tensor, None]:
        return prediction, None


class ProgressiveMeanScaleHyperprior(Progressive, MeanScaleHyperprior):
    """Minnen, Ballé, Toderici, "Joint autoregressive and hierarchical priors for learned image
    compression", NeurIPS 2018, without the autoregression, with a tail drop.

    Args:
        N: channels of the hyper-latent and of the hidden layers.
        M: channels of the latent.
    """

    def __init__(self, N: int = 128, M: int = 192) -> None:  # noqa: N803
        super().__init__(N, M)

    def hyper_analyse(self, y: Tensor) -> Tensor:
        return self.h_a(y)

    def split(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = prediction.chunk(2, 1)
        return scales, means
