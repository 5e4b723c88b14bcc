"""What can be wrong with a stream. Each kind has a name, a sentence and an exit code of its own."""

from progdtd.errors import UserError


class CodecError(UserError):
    """A stream cannot be decoded."""

    exit_code = 1


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
    """A checksum, a size or a symbol cannot be right: `what`, in a few words, and in which `level`,
    which counts from 1; 0 is the header."""

    exit_code = 6

    def __init__(self, what: str, level: int = 0) -> None:
        hint = (
            "Fetch it again, or show the levels before it (--salvage, salvage=True)."
            if level > 1
            else "Fetch it again."
        )
        super().__init__(f"The stream is damaged: {what}. {hint}")
        self.what, self.level = what, level


class UndecodableError(DamagedError):
    """The bytes of a level are as they were written, and yet its symbols cannot be right."""

    def __init__(self, level: int) -> None:
        what = f"level {level} does not decode to what was encoded"
        super().__init__(what, level)
        salvage = ", or show the levels before it (--salvage, salvage=True)" if level > 1 else ""
        self.args = (
            f"{what.capitalize()}, though its checksum matches: it was not written by this encoder "
            f"with this model. Encode the image again{salvage}.",
        )


class IncompleteError(CodecError):
    """The bytes end before the first level does."""

    exit_code = 7

    def __init__(self, what: str) -> None:
        super().__init__(f"No level is complete yet: {what}. More bytes are needed.")
