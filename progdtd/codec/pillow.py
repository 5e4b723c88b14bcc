"""A Pillow plugin: `Image.open("photo.pdtd")`, `image.save("photo.pdtd", model=...)`.

Truncated files open to what they hold; what cannot be decoded is an `OSError`, as Pillow's users
expect. A file's model is found by its fingerprint; to save, one is chosen as `Codec.load` does.
`import progdtd` registers the format.
"""

from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageFile

from progdtd.codec import container
from progdtd.codec.codec import Codec
from progdtd.codec.errors import CodecError, IncompleteError
from progdtd.errors import UserError

FORMAT = "PDTD"
OPTIONS = ("levels", "max_bytes", "target_psnr", "effort")


class PdtdImageFile(ImageFile.ImageFile):
    """A stream, decoded when its pixels are first asked for."""

    format = FORMAT
    format_description = "ProgDTD stream"

    def _open(self) -> None:
        assert self.fp is not None
        head = self.fp.read(1 << 17)
        try:
            header, _ = container.read_header(head)
        except IncompleteError as error:
            raise SyntaxError("the header is not complete") from error
        except CodecError as error:
            raise OSError(str(error)) from error
        self._size = (header.width, header.height)
        self._mode = "RGB"
        self.info = {"levels": header.levels, "fingerprint": header.fingerprint.hex()}

    def load(self) -> Any:
        if self._im is None:
            assert self.fp is not None
            self.fp.seek(0)
            stream = self.fp.read()
            try:
                self.im = Codec.load_for(stream).decode(stream).im
            except UserError as error:
                raise OSError(str(error)) from error
            if self._exclusive_fp:
                self.fp.close()
            self.fp = None
        return super().load()


def accept(prefix: bytes) -> bool:
    """Whether a file begins as a stream does."""
    return prefix.startswith(container.MAGIC)


def save(image: Image.Image, file: IO[bytes], filename: str | bytes | Path) -> None:
    """Encode; of the keyword arguments of `Image.save`, `model` goes to `Codec.load` and `levels`,
    `max_bytes`, `target_psnr` and `effort` to `Codec.encode`. Pillow empties an existing file
    beforehand.
    """
    options = image.encoderinfo
    known = {name: options[name] for name in OPTIONS if name in options}
    file.write(Codec.load(options.get("model")).encode(image, **known))


def register() -> None:
    """Make Pillow know the format; `progdtd` does this when it is imported."""
    Image.register_open(FORMAT, PdtdImageFile, accept)
    Image.register_save(FORMAT, save)
    Image.register_extension(FORMAT, ".pdtd")
    Image.register_mime(FORMAT, "image/x-progdtd")
