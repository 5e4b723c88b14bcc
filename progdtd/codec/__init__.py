"""A progressive codec: one file, any prefix of which decodes to a picture."""

from typing import Any

__all__ = ["Codec"]


def __getattr__(name: str) -> Any:
    """`Codec`, imported when it is first used: it needs torch."""
    if name == "Codec":
        from progdtd.codec.codec import Codec

        return Codec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
