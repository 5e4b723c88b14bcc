"""The codec's command line: `python -m progdtd.codec --help`."""

import argparse
import contextlib
import io
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from progdtd.codec import container, model_store
from progdtd.codec.codec import Codec
from progdtd.codec.errors import DamagedError
from progdtd.errors import NOT_INSTALLED, UserError
from progdtd.files import WEIGHTS, files_below, write_aside
from progdtd.images import SUFFIXES, readable, to_rgb
from progdtd.machine import keep_freed_memory, loading, steady_streams

QUALITY = 95
"""The quality at which lossy formats are written."""

EXAMPLES = """
examples:
  python -m progdtd.codec encode photo.png photo.pdtd --model outputs/train/RUN
  python -m progdtd.codec encode photos/ coded/ --max-bpp 0.3
  python -m progdtd.codec encode photo.png photo.pdtd --effort 10
  python -m progdtd.codec decode photo.pdtd out.png
  head -c 4000 photo.pdtd | python -m progdtd.codec decode - out.png
  python -m progdtd.codec info photo.pdtd
  python -m progdtd.codec strip photo.png levels.png
  python -m progdtd.codec page photo.pdtd page/ --originals photo.png --serve

Any prefix of a file that holds at least one level decodes. Without --model, a stream's model is
found by the fingerprint in it: among those used on this machine, then under outputs/ and the
folders of $PROGDTD_MODELS; to encode, $PROGDTD_MODEL or the default model is taken.

exit codes:
  0  all done                         4  the stream has another version of the format
  1  bad input, no such file or model 5  the stream was made by another model, which is not here
  2  wrong usage                      6  the stream is damaged
  3  not a ProgDTD stream             7  no level of the stream is complete yet
"""


def command() -> None:
    """`main` in a process of its own, which ends at once: taking PyTorch apart takes a while, and
    nothing waits for the end."""
    try:
        main()
    except SystemExit as end:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(int(end.code or 0))


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run the command and exit with a code that scripts can use."""
    steady_streams()
    options = parser().parse_args(arguments)
    try:
        code = options.run(options)
        sys.stdout.flush()
        sys.exit(code)
    except KeyboardInterrupt:
        say("Interrupted.")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:  # the latter of a name that is too long to be one
        sys.exit(complain(error))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m progdtd.codec",
        description="Code images so that any prefix of the file decodes to a picture.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(metavar="command", required=True)
    positive, rate = _positive(int), _positive(float)

    encode = commands.add_parser(
        "encode",
        help="images to streams",
        description="Code images as streams. Several images, or all those in a folder (AVIF, BMP, "
        "JPEG, PNG, PPM, TIFF, WebP), go to a folder; those of a folder keep their whole names, as "
        "a.png.pdtd. A stream keeps 8-bit RGB pixels, upright and in sRGB; transparent ones are "
        "shown on white, metadata are dropped.",
    )
    _paths(encode, "image")
    _coding(encode)
    limit = encode.add_mutually_exclusive_group()
    limit.add_argument("--max-bytes", metavar="N", type=positive, help="at most N bytes")
    limit.add_argument("--max-bpp", metavar="R", type=rate, help="at most R bits per pixel")
    limit.add_argument(
        "--target-psnr",
        metavar="DB",
        type=rate,
        help="cut at the first level that reaches this PSNR; if none does, keep all and say so",
    )
    encode.set_defaults(run=run_encode)

    decode = commands.add_parser(
        "decode",
        help="streams, or prefixes, to images",
        description="Decode streams or prefixes of them. The output's suffix says its format; "
        f"lossy ones are written at quality {QUALITY}.",
    )
    _paths(decode, "stream")
    limit = decode.add_mutually_exclusive_group()
    limit.add_argument("--level", metavar="K", type=positive, help="at most K levels")
    limit.add_argument("--bytes", metavar="N", type=positive, help="only the first N bytes")
    limit.add_argument("--bpp", metavar="R", type=rate, help="only the first R bits per pixel")
    limit.add_argument(
        "--p",
        metavar="P",
        type=float,
        help="at most this fraction of the channels; of a stream of planes, of its bytes",
    )
    decode.set_defaults(run=run_decode)

    info = commands.add_parser(
        "info",
        help="what a stream holds",
        description="Show what streams, or prefixes of them, hold: size of the image, model, and "
        "where each level ends. The model need not be on this machine.",
    )
    info.add_argument("input", nargs="+", metavar="stream", help="a file, or - for stdin")
    info.add_argument("--json", action="store_true", help="one line of JSON for each stream")
    info.set_defaults(run=run_info)

    strip = commands.add_parser(
        "strip",
        help="contact sheet of an image over the levels",
        description="Code an image and draw it as decoded at each level (at 16 evenly spaced ones "
        "if there are more), with rate and PSNR, beside the original.",
    )
    strip.add_argument("input", metavar="image", help="a file, or - for stdin")
    strip.add_argument("output", help="where to draw it: .png, .pdf, ...")
    _coding(strip)
    _model(strip)
    strip.set_defaults(run=run_strip)

    page = commands.add_parser(
        "page",
        help="streams as a page, decoded by the browser itself",
        description="Write streams of the wavelet model, or prefixes, as a folder that any web "
        "server can host: a page where one drags through the bytes.",
    )
    page.add_argument("input", nargs="+", metavar="stream", help="files")
    page.add_argument("output", metavar="DIR", help="a new folder, or that of an earlier page")
    page.add_argument(
        "--originals",
        nargs="+",
        metavar="IMAGE",
        default=[],
        help="what the streams were made of, in their order: the page tells the PSNR, and shows "
        "JPEG 2000 and WebP of as many bytes beside",
    )
    page.add_argument(
        "--serve",
        nargs="?",
        type=int,
        const=0,
        metavar="PORT",
        help="show it on 127.0.0.1, at a free port if none is given, until interrupted",
    )
    _model(page)
    page.set_defaults(run=run_page)
    return top


def run_encode(options: argparse.Namespace) -> int:
    """Encode every image."""
    model, codec = model_store.by_name(options.model), opened(options)
    if model.is_dir() and not (model / WEIGHTS).exists():
        say(f"{model}: once it is trained further, nothing decodes what it codes now.")

    def code(content: bytes, name: str, output: str) -> None:
        suffix = Path(output).suffix.lower()
        if suffix != ".pdtd" and suffix in Image.registered_extensions():
            raise UserError(f"{output} is an image by its name: a stream does not go there.")
        picture = read_picture(content, name)
        pixels = picture.shape[0] * picture.shape[1]
        most = int(options.max_bpp * pixels / 8) if options.max_bpp else options.max_bytes
        stream = codec.encode(picture, options.levels, most, options.target_psnr, options.effort)
        put(output, stream)
        levels = container.read_header(stream)[0].levels
        size = f"{len(stream)} bytes, {8 * len(stream) / pixels:.4f} bpp"
        say(f"{output}: {size}, {levels} levels, by {model_store.name_of(model)}")

    return each(options, SUFFIXES, ".pdtd", code)


def run_decode(options: argparse.Namespace) -> int:
    """Decode every stream."""
    codec = opened(options) if options.model else None

    def show(stream: bytes, name: str, output: str) -> None:
        nonlocal codec
        suffix = Path(output).suffix.lower() if output != "-" else ".png"
        if suffix not in Image.registered_extensions() or suffix == ".pdtd":
            raise UserError(f"{output}: no image format has the suffix {suffix!r}; use .png.")
        header = container.read_header(stream)[0]
        pixels = header.width * header.height
        most = int(options.bpp * pixels / 8) if options.bpp else options.bytes
        if codec is None or not (options.model or codec.fingerprint == header.fingerprint):
            codec = opened(options, stream)
        decoder = codec.decoder()
        decoder.feed(stream[:most], options.level, options.p)
        picture, file = Image.fromarray(decoder.picture()), io.BytesIO()
        try:
            picture.save(file, Image.registered_extensions()[suffix], quality=QUALITY)
        except (KeyError, OSError, ValueError) as error:
            raise UserError(f"Pillow cannot write {output} ({error}); use .png.") from error
        put(output, file.getvalue())
        level = f"level {decoder.level} of {header.levels}"
        rate = f"{decoder.position} bytes, {8 * decoder.position / pixels:.4f} bpp"
        say(f"{output}: {level}, {rate}")

    return each(options, {".pdtd"}, ".png", show)


def run_info(options: argparse.Namespace) -> int:
    """Say what streams hold, from their bytes alone; the model is named if it is here."""
    codes = []
    for name in options.input:
        try:
            facts = describe(get(name))
            print(json.dumps({"stream": name} | facts) if options.json else as_text(name, facts))
            codes.append(DamagedError.exit_code if facts["damage"] else 0)
        except UserError as error:
            codes.append(complain(error, name))
    return next(filter(None, codes), 0)


def describe(stream: bytes) -> dict:
    """What a stream, or a prefix of one, says of itself."""
    reader, ends, damage = container.Reader(), list[int](), None
    try:
        for _ in reader.feed(stream):
            ends.append(reader.position)
    except DamagedError as error:
        if reader.header is None:
            raise
        damage = str(error)
    header = reader.require_header()
    code = header.fingerprint.hex()
    models = model_store.by_fingerprint(header.fingerprint)
    here = (path for path in models if model_store.fingerprint_in(path) == code)
    model = next(map(model_store.name_of, here), None)
    pixels = header.width * header.height
    return {
        "width": header.width,
        "height": header.height,
        "fingerprint": code,
        "model": model,
        "bytes": len(stream),
        "bytes_whole": header.whole,
        "levels_whole": header.levels,
        "kind": header.kind,
        "damage": damage,
        "levels": [
            {"level": level, "bytes": end, "bpp": 8 * end / pixels}
            for level, end in enumerate(ends, 1)
        ],
    }


def as_text(name: str, facts: dict) -> str:
    """`describe` for people."""
    bpp = 8 * facts["bytes_whole"] / (facts["width"] * facts["height"])
    lines = [
        name,
        f"  image    {facts['width']}x{facts['height']}",
        f"  model    {facts['fingerprint']}  {facts['model'] or 'not on this machine'}",
        f"  bytes    {facts['bytes']} here, {facts['bytes_whole']} whole ({bpp:.4f} bpp)",
        f"  levels   {len(facts['levels'])} here, {facts['levels_whole']} whole, of "
        f"{facts['kind']}",
    ]
    lines += [
        f"  {level['level']:>5}  {level['bytes']:>10} bytes  {level['bpp']:8.4f} bpp"
        for level in facts["levels"]
    ]
    if facts["damage"]:
        lines.append(f"  {facts['damage']}")
    return "\n".join(lines)


def run_strip(options: argparse.Namespace) -> int:
    """Draw an image at every level."""
    try:
        with loading():
            from progdtd.codec.contact_sheet import contact_sheet
    except ModuleNotFoundError as error:
        raise UserError(NOT_INSTALLED.format(error.name)) from error

    if options.output != "-" and Path(options.output).resolve() == Path(options.input).resolve():
        raise UserError(f"{options.output} would be drawn over: give another name.")
    picture, codec = read_picture(get(options.input), options.input), opened(options)
    stream = codec.encode(picture, options.levels, effort=options.effort)
    drawn, kind = io.BytesIO(), Path(options.output).suffix[1:].lower() or "png"
    try:
        contact_sheet(codec, stream, picture).savefig(drawn, format=kind, bbox_inches="tight")
    except ValueError as error:
        raise UserError(f"{options.output} cannot be drawn: {error}.") from error
    put(options.output, drawn.getvalue())
    say(f"{options.output}: {options.input} over the levels")
    return 0


def run_page(options: argparse.Namespace) -> int:
    """Write a page, and show it if that is wanted."""
    with loading():
        from progdtd.codec.wavelet import WaveletCoder
        from progdtd.page import writer
        from progdtd.page.server import server

    streams = [get(name) for name in options.input]
    originals = options.originals or [None] * len(streams)
    if len(originals) != len(streams):
        raise UserError(f"There are {len(streams)} streams and {len(originals)} originals.")
    codec = opened(options, None if options.model else streams[0])
    if not isinstance(codec.coder, WaveletCoder):
        raise UserError("A page shows streams of the wavelet model, and of no other.")
    shown = []
    for name, stream, original in zip(options.input, streams, originals, strict=True):
        try:
            codec.check(header := container.read_header(stream)[0])
            if not (ends := container.ends(stream)):
                raise UserError(f"{name} holds no whole level.")
        except UserError as error:
            return complain(error, name)
        picture = read_picture(get(original), original) if original else None
        if picture is not None and picture.shape[:2] != (header.height, header.width):
            raise UserError(f"{original} is no original of {name}: it has another size.")
        shown.append(writer.Shown(Path(name).stem, stream, ends, picture))
    writer.write(folder := Path(options.output), shown, codec.coder.content)
    say(f"{folder}: a page that any web server can host")
    if options.serve is not None:
        with server(folder, options.serve) as serving:
            say(f"It is shown at http://127.0.0.1:{serving.server_port}/ until you press Ctrl-C.")
            serving.serve_forever()
    return 0


def opened(options: argparse.Namespace, stream: bytes | None = None) -> Codec:
    """The codec of the model that made a stream, or else of the one that was asked for."""
    keep_freed_memory()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else threads spin while others work
    with loading():
        if stream is None:
            return Codec.load(options.model, options.device)
        return Codec.load_for(stream, options.device)


def read_picture(content: bytes, name: str):
    """The pixels (H, W, 3) uint8 of an image file's content, of its first image if it has several.

    Raises:
        UserError: Pillow cannot read it as an image, or it is a stream.
    """
    if content.startswith(container.MAGIC):
        raise UserError(f"{name} is a stream: give the image that it was made of.")
    with readable(name), Image.open(io.BytesIO(content)) as image:
        return to_rgb(image)


def each(
    options: argparse.Namespace,
    suffixes: set[str],
    suffix: str,
    work: Callable[[bytes, str, str], None],
) -> int:
    """Run `work(content, name, output)` over all inputs; one that fails does not stop the rest."""
    jobs = list(pair(options.input, options.output, suffixes, suffix))
    outputs = Counter(output for _, output in jobs)
    ((output, times),) = outputs.most_common(1)
    if times > 1:
        raise UserError(f"Several inputs would be written to {output}: give one at a time.")
    read = {Path(name).resolve() for name, _ in jobs if name != "-"}
    if over := [output for output in outputs if output != "-" and Path(output).resolve() in read]:
        raise UserError(f"{over[0]} is an input and would be written over: give another output.")
    codes = []
    for name, output in tqdm(jobs, unit="file", disable=None if len(jobs) > 1 else True):
        try:
            work(get(name), name, output)
        except BrokenPipeError:
            raise
        except (UserError, OSError) as error:
            codes.append(complain(error, name, output))
    return next(iter(codes), 0)


def pair(
    inputs: list[str], output: str, suffixes: set[str], suffix: str
) -> Iterator[tuple[str, str]]:
    """Every input with its output; folders are searched and their tree is kept."""
    into_folder = Path(output).is_dir() or output.endswith(os.sep)
    into_folder = into_folder or len(inputs) > 1 or Path(inputs[0]).is_dir()
    if into_folder and (output == "-" or Path(output).is_file()):
        raise UserError(f"Several inputs go to a folder, and {output} is not one.")
    for name in inputs:
        folder = Path(name)
        if name != "-" and folder.is_dir():
            if suffix != ".pdtd" and Path(output).resolve() == folder.resolve():
                raise UserError(f"{folder} may hold what was coded: decode to another folder.")
            if not (paths := files_below(folder, suffixes)):
                raise UserError(f"{folder} holds no {', '.join(sorted(suffixes))} files.")
            for path in paths:
                target = Path(output, path.relative_to(folder))
                called = target.name.removesuffix(".pdtd").removesuffix(suffix)
                yield str(path), str(target.with_name(called + suffix))
        else:
            target = Path(output, Path("stdin" if name == "-" else name).name)
            yield name, str(target.with_suffix(suffix)) if into_folder else output


def complain(error: Exception, *names: str) -> int:
    """Print an error, with the first of these names (a file's, its output's) if it says none of
    them; returns its exit code."""
    said = not names or any(name in str(error) for name in names)
    say(str(error) if said else f"{names[0]}: {error}")
    return int(getattr(error, "exit_code", 1))


def say(text: str) -> None:
    """A line to stderr, clear of any progress bar."""
    tqdm.write(text, file=sys.stderr)


def get(name: str) -> bytes:
    """The bytes of a file or, for -, of stdin."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}).") from error


def put(name: str, content: bytes) -> None:
    """Write a file whole or not at all, where a link leads; - is stdout, a device is written to."""
    path = Path(name)
    if name == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    elif path.exists() and not path.is_file():  # not by its link, which leads a pipe nowhere
        path.write_bytes(content)
    elif path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"{name} is write-protected.")
    else:
        write_aside(path.resolve(), lambda aside: aside.write_bytes(content))


def _paths(command: argparse.ArgumentParser, kind: str) -> None:
    command.add_argument("input", nargs="+", metavar=kind, help="files or folders; - for stdin")
    command.add_argument("output", help="a file, - for stdout, or a folder for several inputs")
    _model(command)


def _coding(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--levels",
        metavar="KIND",
        type=_levels,
        help="planes, about a hundred levels that each add the bits that lower the error most "
        "(default, where the model's sensitivities are known); channels, up to 16 levels at the "
        "paper's fractions p of them, from the smallest p that the model was trained for; or "
        "fractions of your own, as 0.1,0.5, and a last level with all that is left",
    )
    command.add_argument(
        "--effort",
        metavar="N",
        type=int,
        default=0,
        help="optimise the latent for its image in N steps, on a CPU a second or two each for a "
        "megapixel: the whole stream gets better or smaller, short prefixes barely change, "
        "decoding takes no longer; 2 bring half of the gain, 10 nearly all (default: 0)",
    )


def _model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", help="a run directory, a weights file, or the name of a run")
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda")


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def _levels(text: str) -> list[float] | str:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text


if __name__ == "__main__":
    command()
