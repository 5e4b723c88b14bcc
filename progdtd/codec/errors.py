"""What can be wrong with a stream. Each kind has a name, a sentence and an exit code of its own."""

from progdtd.errors import UserError


class CodecError(UserError):
    """A stream cannot be decoded."""


class NotAStreamError(CodecError):
    """The bytes are something else."""

    exit_code = 3

    def __init__(self) -> None:
        super().__init__("This is not a ProgDTD stream: it begins with other bytes.")


class NewerVersionError(CodecError):
    """Written by a later version of the format, or with an unknown kind of level."""

    exit_code = 4

    def __init__(self, what: str, known: str) -> None:
        super().__init__(f"{what}; this version of progdtd knows {known}. Update progdtd.")


class OlderVersionError(CodecError):
    """Written in an earlier version of the format."""

    exit_code = 4

    def __init__(self, version: int) -> None:
        super().__init__(
            f"The stream has format version {version}, which is no longer read. Encode the image "
            "again, or decode the stream with the version of progdtd that wrote it."
        )


class OtherModelError(CodecError):
    """Encoded with another model than the one at hand."""

    exit_code = 5


class DamagedError(CodecError):
    """A checksum, a size or a symbol cannot be right, in which `level`, which counts from 1; 0 is
    the header."""

    exit_code = 6
    sentences = "The stream is damaged: {}. Fetch it again"

    def __init__(self, what: str, level: int = 0) -> None:
        before = f", or decode what is before (--level {level - 1})" if level > 1 else ""
        super().__init__(f"{self.sentences.format(what)}{before}.")
        self.level = level


class UndecodableError(DamagedError):
    """The bytes of a level are as they were written, and yet its symbols cannot be right."""

    sentences = (
        "{}, though its checksum matches: it was not written by this encoder with this model. "
        "Encode the image again"
    )

    def __init__(self, level: int) -> None:
        super().__init__(f"Level {level} does not decode to what was encoded", level)


class MismatchError(Exception):
    """The symbols of a level cannot be right: the decoder knows another check, or did not end the
    level where the encoder did. `codec.py`, which knows the level, makes it an UndecodableError."""


class IncompleteError(CodecError):
    """The bytes end before the first level does."""

    exit_code = 7

    def __init__(self, what: str, received: int) -> None:
        super().__init__(
            f"No level is complete yet: {what} is not complete in {received} bytes. More bytes are "
            "needed."
        )
