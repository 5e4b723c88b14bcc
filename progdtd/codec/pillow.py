"""A Pillow plugin: `Image.open("photo.pdtd")`, `image.save("photo.pdtd", model=...)`.

Truncated files open to what they hold. The model of a file is found by its fingerprint; to save,
one is chosen as `Codec.load` does. `import progdtd` registers the format.
"""

from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageFile

from progdtd.codec import container

FORMAT = "PDTD"


class PdtdImageFile(ImageFile.ImageFile):
    """A stream, decoded when its pixels are first asked for."""

    format = FORMAT
    format_description = "ProgDTD stream"

    def _open(self) -> None:
        assert self.fp is not None
        head = self.fp.read(1 << 17)
        try:
            header, _ = container.read_header(head)
        except container.NotYetError as error:
            raise SyntaxError("the header is not complete") from error
        self._size = (header.width, header.height)
        self._mode = "RGB"
        self.info = {"levels": header.levels, "fingerprint": header.fingerprint.hex()}

    def load(self) -> Any:
        if self._im is None:
            from progdtd.codec.codec import Codec

            assert self.fp is not None
            self.fp.seek(0)
            stream = self.fp.read()
            self.im = Codec.load_for(stream).decode(stream).im
            self._close_fp()
        return super().load()


def accept(prefix: bytes) -> bool:
    """Whether a file begins as a stream does."""
    return prefix.startswith(container.MAGIC)


def save(image: Image.Image, file: IO[bytes], filename: str | bytes | Path) -> None:
    """Encode; keyword arguments of `Image.save` other than `model` go to `Codec.encode`."""
    from progdtd.codec.codec import Codec

    options = dict(image.encoderinfo)
    codec = Codec.load(options.pop("model", None))
    file.write(codec.encode(image, **options))


def register() -> None:
    """Make Pillow know the format; `progdtd` does this when it is imported."""
    Image.register_open(FORMAT, PdtdImageFile, accept)
    Image.register_save(FORMAT, save)
    Image.register_extension(FORMAT, ".pdtd")
    Image.register_mime(FORMAT, "image/x-progdtd")
