"""Decode damaged and forged streams: `python scripts/fuzz_codec.py --count 100000`.

Half of the streams have bytes changed, inserted, removed or repeated. Each must be refused with a
`CodecError`, or decode to the picture of some levels of the stream as it was. The other half carry
right checksums over wrong contents, as only an attacker makes them: whatever they decode to must
have the size that the header says, and nothing may be raised but a `CodecError`.
"""

import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import command
import numpy as np
import torch
from tqdm import tqdm

from progdtd import Codec
from progdtd.codec import container
from progdtd.codec.errors import CodecError
from progdtd.codec.hyperprior import HyperpriorCoder
from progdtd.models import ProgressiveHyperprior
from progdtd.models.wavelet import Wavelet
from progdtd.models.wavelet_file import save
from progdtd.models.weights import Loaded
from progdtd.tail_drop import TailDrop

SLOWEST_S = 5.0


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="streams to decode")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(options.seed)
    codec, wavelet = small_codec(), small_wavelet_codec()
    pictures = np.random.default_rng(options.seed).integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    streams = [(codec, codec.encode(picture, [0.3, 0.7, 1.0])) for picture in pictures]
    streams.append((codec, codec.encode(pictures[0], "channels")))
    streams += [(codec, codec.encode(picture, "planes")) for picture in pictures]
    streams += [(wavelet, wavelet.encode(picture)) for picture in pictures]
    known = [{codec.decode(s, levels=k).tobytes() for k in range(1, 20)} for codec, s in streams]
    outcomes: Counter[str] = Counter()
    for number in tqdm(range(options.count), unit="stream", disable=None):
        which = rng.randrange(len(streams))
        forged = number % 2 == 1
        codec, whole = streams[which]
        stream = (forge if forged else mutate)(whole, rng)
        begin = time.perf_counter()
        outcome = decode(codec, stream, None if forged else known[which])
        if outcome.startswith("!") or time.perf_counter() - begin > SLOWEST_S:
            sys.exit(f"stream {number} of seed {options.seed}: {outcome}\n{stream.hex()}")
        outcomes[("forged: " if forged else "damaged: ") + outcome] += 1
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:8}  {outcome}")


def small_codec() -> Codec:
    """An untrained model whose symbols spread beyond the tables."""
    torch.manual_seed(0)
    model = ProgressiveHyperprior(4, 6).eval()
    with torch.no_grad():
        model.g_a[-1].weight *= 60
        model.h_a[-1].weight *= 60
    meta = {"model": {}, "sensitivities": [0, 30, 60, 90, 120, 150]}
    return Codec(HyperpriorCoder(Loaded(model, TailDrop(latent=True, hyper=True), meta)))


def small_wavelet_codec() -> Codec:
    """An untrained wavelet model."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.onnx")
        save(Wavelet(width=8, pixel_width=8, blocks=1), path, {})
        return Codec.load(path)


def decode(codec: Codec, stream: bytes, known: set[bytes] | None) -> str:
    """What became of a stream; what must not be begins with an exclamation mark."""
    try:
        picture = codec.decode(stream)
    except CodecError as error:
        return type(error).__name__
    except Exception as error:
        return f"! {type(error).__name__}: {error}"
    header = container.read_header(stream)[0]
    if picture.size != (header.width, header.height):
        return "! a picture of another size"
    if known is not None and picture.tobytes() not in known:
        return "! another picture"
    return "a picture"


def mutate(stream: bytes, rng: random.Random) -> bytes:
    """Damage, as disks and networks do it."""
    data = bytearray(stream)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        at = rng.randrange(len(data) + 1)
        size = min(rng.choice((1, 1, 2, 4, 8, 64)), len(data) - at)
        change = rng.randrange(5)
        if change == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at : at + size] = rng.randbytes(size)
        elif change == 2:
            del data[at : at + size]
        elif change == 3:
            data[at:at] = rng.randbytes(size)
        else:
            data[at:at] = data[at : at + size]
    return bytes(data)


def forge(stream: bytes, rng: random.Random) -> bytes:
    """Wrong contents under right checksums."""
    header, _ = container.read_header(stream)
    payloads = list(container.Reader().feed(stream))
    change = rng.randrange(4)
    if change == 0:
        at = rng.randrange(len(payloads))
        payloads[at] = mutate(payloads[at], rng)
    elif change == 1:
        size = {"width": rng.choice((1, 63, 64, 65, 200)), "height": rng.choice((1, 64, 65, 129))}
        header = replace(header, **size)
    elif change == 2:
        header = replace(header, parameters=rng.randbytes(rng.randrange(1, 12)))
    else:
        payloads = [rng.randbytes(rng.randrange(200)) for _ in range(rng.randrange(1, 30))]
    return container.write(header, payloads)


if __name__ == "__main__":
    command.run(main)
