"""SOAP for convolutions: Adam in the eigenbases of Shampoo's preconditioner.

Source: Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson, Kakade, "SOAP: Improving and
stabilizing Shampoo using Adam", arXiv 2409.11321, 2024. That height and width of a kernel share a
basis is ours.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_optimizer
from torch import Tensor

OPTIONS = inspect.signature(pytorch_optimizer.SOAP).parameters.keys() - {
    "params",
    "kwargs",
    "merge_dims",
    "max_precondition_dim",
}


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

    Raises:
        TypeError: there is no such option.
    """

    def __init__(self, params: Iterable[Tensor], **options: Any) -> None:
        if unknown := options.keys() - OPTIONS:
            raise TypeError(f"SOAP has no option {', '.join(sorted(unknown))}")
        turned: dict[str, Any] = {"params": [], "merge_dims": True}
        plain: dict[str, Any] = {"params": [], "max_precondition_dim": 0}
        for parameter in params:
            (turned if parameter.dim() in (2, 4) else plain)["params"].append(parameter)
        super().__init__([group for group in (turned, plain) if group["params"]], **options)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """An update. A gradient in channels_last is copied once, and not for each of its bases."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.contiguous()
        loss = super().step(closure)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def merge_dims(self, grad: Tensor, max_precondition_dim: int) -> Tensor:
        """A kernel's gradient as (out, in, height * width)."""
        return grad.flatten(2) if grad.dim() == 4 else grad
