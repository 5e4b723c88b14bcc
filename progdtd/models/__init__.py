"""What are the networks, and how does `p` reach them?

Read `progressive.py` first: how any hyperprior makes a latent and a hyper-latent, cuts the tails of
both and counts what is left. `hyperprior.py` has the two that there are, `backbones.py` imports
their networks from CompressAI, `weights.py` saves, loads and names what they have learned, and
`published.py` reads the checkpoints of the published code.

The networks are those of CompressAI: Bégaint, Racapé, Feltman, Pushparaja, "CompressAI: a PyTorch
library and evaluation platform for end-to-end compression research", arXiv 2011.03029, 2020.
"""

from progdtd.models.hyperprior import ProgressiveHyperprior, ProgressiveMeanScaleHyperprior
from progdtd.models.progressive import Progressive

__all__ = ["Progressive", "ProgressiveHyperprior", "ProgressiveMeanScaleHyperprior"]
