"""CompressAI models with a tail drop."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # CompressAI still scripts two functions
    from progdtd.models.hyperprior import ProgressiveHyperprior, ProgressiveMeanScaleHyperprior
    from progdtd.models.progressive import Progressive

__all__ = ["Progressive", "ProgressiveHyperprior", "ProgressiveMeanScaleHyperprior"]
