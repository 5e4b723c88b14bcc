"""Progressive learned image compression with double-tail-drop training."""

from typing import Any

__all__ = ["ProgDTD"]


def __getattr__(name: str) -> Any:
    """The published function `ProgDTD`, imported when it is first used: it needs torch."""
    if name == "ProgDTD":
        from progdtd.reference import ProgDTD

        return ProgDTD
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
