"""What a page's visitor waits for: `python scripts/benchmark_page.py IMAGE [--model M]`.

Seconds of wall time in a headless Chromium, beside those of Python in the same run. The first
picture is that of 0.05 bits per pixel. Needs what `make test-page` installs. Quote ratios of one
run; nothing else should run on the machine meanwhile.
"""

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import command

from progdtd import Codec
from progdtd.codec import container
from progdtd.codec.wavelet import WaveletCoder
from progdtd.evaluation import markdown
from progdtd.files import PACKAGE
from progdtd.images import read_image
from progdtd.machine import cores
from progdtd.page import writer
from progdtd.page.server import server

FIRST = 0.05
"""Bits per pixel of the first picture."""

TIMED = PACKAGE.parent / "tests/page/speed.mjs"


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, cores()])
    options = parser.parse_args()
    codec = Codec.load(options.model)
    if not isinstance(codec.coder, WaveletCoder):
        sys.exit("A page shows streams of the wavelet model, and of no other.")
    picture = read_image(options.image)
    stream = codec.encode(picture)
    ends = container.ends(stream)
    first = max(ends[0], int(FIRST / 8 * picture.shape[0] * picture.shape[1]))
    times = {"Python": in_python(codec, stream, first)}
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page")
        writer.write(page, [writer.Shown("a", stream, ends)], codec.coder.content)
        with server(page) as serving:
            threading.Thread(target=serving.serve_forever, daemon=True).start()
            for threads in dict.fromkeys(options.threads):
                address = f"http://127.0.0.1:{serving.server_port}/"
                words = ["node", TIMED, address, "pictures/1/picture.pdtd", first, threads]
                said = subprocess.check_output([*map(str, words)], text=True)
                times[f"browser, {threads} threads"] = json.loads(said)
            serving.shutdown()
        rows = [(what, *(f"{times[who][what]:.2f}" for who in times)) for what in times["Python"]]
        note = f"{options.image.stem}, {len(stream)} bytes, one round, {cores()} cores."
        print(markdown.table(("seconds", *times), rows, note=note))
        engine = sum(path.stat().st_size for path in (page / "engine").iterdir())
        scripts = sum(path.stat().st_size for path in writer.SITE.iterdir())
        model = (page / "model.onnx").stat().st_size
        print(f"Before the first picture: engine {engine}, model {model}, page {scripts} bytes.")


def in_python(codec: Codec, stream: bytes, first: int) -> dict[str, float]:
    """Seconds of the same steps in this process."""
    cold, warm = codec.decoder(), codec.decoder()

    def short(decoder) -> None:
        decoder.feed(stream[:first])
        decoder.picture()

    coder = codec.coder
    assert isinstance(coder, WaveletCoder)
    return {
        "start of the engine, with the model": command.timed(WaveletCoder, coder.content)[0],
        "first picture, at the start": command.timed(short, cold)[0],
        "first picture, once warm": command.timed(short, warm)[0],
        "digits of all further levels": command.timed(warm.feed, stream[first:])[0],
        "last picture": command.timed(warm.picture)[0],
    }


if __name__ == "__main__":
    command.run(main)
