"""CompressAI models with a tail drop."""

from progdtd.models.hyperprior import ProgressiveHyperprior, ProgressiveMeanScaleHyperprior
from progdtd.models.progressive import Progressive

__all__ = ["Progressive", "ProgressiveHyperprior", "ProgressiveMeanScaleHyperprior"]
