"""Progressive learned image compression with double-tail-drop training."""

import warnings
from typing import Any

from progdtd.codec.pillow import register

__all__ = ["Codec", "ProgDTD"]


register()
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")  # by CompressAI


def __getattr__(name: str) -> Any:
    """The codec and the published function, imported when first used: they need torch."""
    if name == "Codec":
        from progdtd.codec import Codec

        return Codec
    if name == "ProgDTD":
        from progdtd.evaluation.published_function import ProgDTD

        return ProgDTD
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
