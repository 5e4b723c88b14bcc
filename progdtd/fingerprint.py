"""What names the decoding half of a model, and the tables that go with it."""

import copy
import hashlib
from collections.abc import Iterator

from compressai.layers import GDN
from torch import nn

from progdtd.models import Progressive

OPTIONS = ("stride", "padding", "output_padding", "dilation", "groups", "negative_slope", "inverse")
"""What, beside weights, decides what a layer computes."""

PLAIN = (nn.Conv2d, nn.ConvTranspose2d, nn.ReLU, nn.LeakyReLU, GDN)
"""Of whose options all that matter are among these; of others, all that torch calls constants."""


def build_tables(model: Progressive) -> None:
    """Compute the frequency tables of the hyper-latent and keep them with the weights.

    In float64: CompressAI's own float32 would let another instruction set round some entry
    differently.
    """
    exact = copy.deepcopy(model.entropy_bottleneck).cpu().double()
    exact.update(force=True)
    for name in ("_quantized_cdf", "_cdf_length", "_offset"):
        setattr(model.entropy_bottleneck, name, getattr(exact, name))


def fingerprint(model: Progressive) -> bytes:
    """8 bytes of the BLAKE2b hash of all that decoding needs: architecture, synthesis, hyper-
    synthesis, and the hyper-latent's medians and tables, which are built if there are none. The
    analyses do not count.
    """
    if model.entropy_bottleneck._quantized_cdf.numel() == 0:
        build_tables(model)
    digest = hashlib.blake2b(digest_size=8)
    digest.update(type(model).__name__.encode())
    for synthesis in (model.g_s, model.h_s):
        digest.update("".join(map(_describe, _layers(synthesis))).encode())
    parts = ("g_s.", "h_s.", "entropy_bottleneck._", "entropy_bottleneck.quantiles")
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(parts):
            exact = value.float() if value.is_floating_point() else value.int()
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(exact.cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """All layers within a module, but for what a GDN, which its weights tell, consists of."""
    for child in module.children():
        yield child
        if not isinstance(child, GDN):
            yield from _layers(child)


def _describe(layer: nn.Module) -> str:
    options = [f" {name}={getattr(layer, name)}" for name in OPTIONS if hasattr(layer, name)]
    if not isinstance(layer, PLAIN):
        names = {*getattr(layer, "__constants__", ())} - {*OPTIONS, "inplace"}
        options += [f" {name}={getattr(layer, name, None)}" for name in sorted(names)]
    return f"{type(layer).__name__}{''.join(options)}\n"
