"""Progressive learned image compression with double-tail-drop training."""

from typing import Any

from progdtd.codec import Codec
from progdtd.codec.pillow import register

__all__ = ["Codec", "ProgDTD"]


register()


def __getattr__(name: str) -> Any:
    """The published function, imported when it is first used: it needs torch."""
    if name == "ProgDTD":
        from progdtd.evaluation.published_function import ProgDTD

        return ProgDTD
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
