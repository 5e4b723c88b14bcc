"""SOAP for convolutions: Adam in the eigenbases of Shampoo's preconditioner (Vyas et al. 2024,
"SOAP: Improving and stabilizing Shampoo using Adam", arXiv 2409.11321)."""

from collections.abc import Iterable
from typing import Any

import pytorch_optimizer
from torch import Tensor


class SOAP(pytorch_optimizer.SOAP):
    """The library's, spared what costs time and does not help.

    Of a kernel (out, in, height, width), height and width have one basis of height * width
    together. All but kernels and matrices, which is biases and the small factors of the entropy
    bottleneck, are updated as by Adam: hundreds of operations a step fewer, each of which a GPU
    waits for.

    Args:
        params: parameters; a kernel or a matrix is one of four or two dimensions.
        options: those of `pytorch_optimizer.SOAP`, such as `lr`, but for `merge_dims` and
            `max_precondition_dim`.
    """

    def __init__(self, params: Iterable[Tensor], **options: Any) -> None:
        kernels: list[Tensor] = []
        others: list[Tensor] = []
        for parameter in params:
            (kernels if parameter.dim() in (2, 4) else others).append(parameter)
        widest = max((max(*k.shape[:2], k[0, 0].numel()) for k in kernels), default=0)
        whole = {"params": kernels, "merge_dims": True, "max_precondition_dim": widest}
        plain = {"params": others, "max_precondition_dim": 0}
        super().__init__([group for group in (whole, plain) if group["params"]], **options)
