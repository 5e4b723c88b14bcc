"""Pictures of as many bytes by several codecs, beside each other, on one sheet:

    python scripts/same_bytes.py MODEL... --images data/kodak/kodim04.png --to sheet.png

A row for each image and rate; in it the original, the prefix of each model's stream, JPEG 2000 and
AVIF (4:4:4) of at most as many bytes, with the PSNR of the whole picture. What is shown is the
centre of each, pixel by pixel.
"""

import bisect
import io
from collections.abc import Iterator
from pathlib import Path

import command
import numpy as np
from PIL import Image, ImageDraw

from progdtd.codec import Codec, model_store
from progdtd.evaluation import classical
from progdtd.images import centre, psnr, read_image, readable

CAPTION = 14
"""Pixels of a line of text."""


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="model", help="a path or a name")
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="image")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.3], metavar="bpp")
    parser.add_argument("--side", type=int, default=320, help="of what is shown, in pixels")
    parser.add_argument("--to", type=Path, default=Path("same_bytes.png"), metavar="FILE")
    options = parser.parse_args()
    codecs = {name_of(model): Codec.load(model) for model in options.models}
    rows = [
        row
        for path in options.images
        for row in compared(codecs, path, options.rates, options.side)
    ]
    sheet(rows, options.side).save(options.to)
    print(options.to)


def name_of(model: str) -> str:
    return model_store.name_of(model_store.by_name(model)).partition("_")[0]


Cell = tuple[str, np.ndarray]
"""A caption, and the picture (H, W, 3) uint8 below it."""


def compared(
    codecs: dict[str, Codec], path: Path, rates: list[float], side: int
) -> Iterator[list[Cell]]:
    """The cells of one image, a row for each rate, printed on the way."""
    with readable(str(path)):
        picture = read_image(path)
    image, pixels = Image.fromarray(picture), picture[..., 0].size
    streams = {name: codec.encode(image) for name, codec in codecs.items()}
    for rate in rates:
        most = round(rate * pixels / 8)
        coded = {
            name: (size(codec, streams[name][:most]), codec.decode(streams[name][:most]))
            for name, codec in codecs.items()
        } | {name: (len(file), opened(file)) for name, file in files(image, rate, most).items()}
        row = [(f"{path.stem}, {rate:g} bpp: {most} bytes", centre(picture, side))]
        for name, (length, decoded) in coded.items():
            caption = f"{name}: {length}, {psnr(picture, np.asarray(decoded)):.2f} dB"
            print(f"{path.stem} {rate:g}  {caption}", flush=True)
            row.append((caption, centre(np.asarray(decoded), side)))
        yield row


def size(codec: Codec, prefix: bytes) -> int:
    """Bytes of the levels that a prefix of a stream has whole."""
    decoder = codec.decoder()
    decoder.feed(prefix)
    return decoder.position


def files(image: Image.Image, rate: float, most: int) -> dict[str, bytes]:
    """The best files of other codecs of at most so many bytes."""
    made: dict[int, bytes] = {}

    def avif(quality: int) -> int:
        made[quality] = classical.save(image, "AVIF", quality=quality, speed=4, subsampling="4:4:4")
        return len(made[quality])

    fitting = bisect.bisect_right(range(101), most, key=avif) - 1
    return {"JPEG 2000": classical.jpeg2000(image, [rate])[0], "AVIF": made[max(fitting, 0)]}


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")


def sheet(rows: list[list[Cell]], side: int) -> Image.Image:
    """All cells, each with its caption above it."""
    height, width = side + CAPTION, side + 4
    whole = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)), "white")
    draw = ImageDraw.Draw(whole)
    for y, row in enumerate(rows):
        for x, (caption, shown) in enumerate(row):
            draw.text((x * width + 2, y * height + 1), caption, fill="black")
            whole.paste(Image.fromarray(shown), (x * width, y * height + CAPTION))
    return whole


if __name__ == "__main__":
    command.run(main)
