"""What a user of the codec waits for: `python scripts/benchmark_commands.py IMAGE [--models A B]`.

Seconds of wall time, medians of some rounds in turn: of commands, the start of Python included, and
of their parts within a process that has started. The first picture is that of 0.05 bits per pixel.
Quote ratios of one run; nothing else should run on the machine meanwhile.
"""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import command
import readme
from tqdm import tqdm

from progdtd import Codec
from progdtd.codec import model_store
from progdtd.errors import UserError
from progdtd.evaluation import markdown
from progdtd.images import read_image
from progdtd.machine import cores

FIRST = 0.05
"""Bits per pixel of the first picture."""

CODEC = [sys.executable, "-m", "progdtd.codec"]


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("image", type=Path)
    reference = str(model_store.REFERENCE)
    parser.add_argument(
        "--models", nargs="+", default=[str(model_store.DEFAULT), reference], metavar="model"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--readme", action="store_true", help="put the table into its page")
    options = parser.parse_args()
    codecs = {model: Codec.load(model) for model in options.models}
    rounds = [
        [
            commands(model, options.image) | parts(codec, options.image)
            for model, codec in codecs.items()
        ]
        for _ in tqdm(range(options.rounds), "rounds", disable=None)
    ]
    times = [command.medians(of_model) for of_model in zip(*rounds, strict=True)]
    names = [model_store.name_of(model_store.by_name(model)) for model in codecs]
    rows = [(what, *(f"{found[what]:.2f}" for found in times)) for what in times[0]]
    note = f"{options.image.stem}, medians of {options.rounds} rounds, {cores()} cores."
    text = markdown.table(("seconds", *names), rows, note=note)
    readme.show({"benchmark_commands": text}, options.readme)


def commands(model: str, image: Path) -> dict[str, float]:
    """Seconds of each command."""
    with tempfile.TemporaryDirectory() as folder:
        stream, short, shown = (Path(folder, name) for name in ("a.pdtd", "b.pdtd", "c.png"))
        encode = run("encode", image, stream, "--model", model)
        short.write_bytes(stream.read_bytes()[: first_bytes(image)])
        return {
            "`--help`": run("--help"),
            "`info`": run("info", stream),
            "`encode`": encode,
            "`decode`, all levels": run("decode", stream, shown),
            "`decode`, the first picture": run("decode", short, shown),
        }


def parts(codec: Codec, path: Path) -> dict[str, float]:
    """Seconds of what the commands do once they have started."""
    encode, stream = command.timed(codec.encode, read_image(path))
    whole, first = codec.decoder(), codec.decoder()
    return {
        "encoding": encode,
        "decoding all levels": command.timed(whole.feed, stream)[0],
        "the whole picture": command.timed(whole.picture)[0],
        "decoding the first levels": command.timed(first.feed, stream[: first_bytes(path)])[0],
        "the first picture": command.timed(first.picture)[0],
    }


def first_bytes(path: Path) -> int:
    return int(FIRST * read_image(path)[..., 0].size / 8)


def run(*words: str | Path) -> float:
    """Seconds of a command of the codec."""
    code = partial(subprocess.run, [*CODEC, *map(str, words)], capture_output=True, text=True)
    seconds, done = command.timed(code)
    if done.returncode:
        raise UserError(f"{words} ended with {done.returncode}:\n{done.stderr}")
    return seconds


if __name__ == "__main__":
    command.run(main)
