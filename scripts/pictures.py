"""The README's two pictures: python scripts/pictures.py --image data/kodak/kodim19.png

docs/prefixes.jpg shows what prefixes of one stream decode to, docs/rate_distortion.png the curves
of a table of means, such as `progdtd.figures` writes. Without --image only the chart is drawn.
"""

import io
from pathlib import Path

import command
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from progdtd import Codec
from progdtd.evaluation import charts, curves, results
from progdtd.images import psnr, read_image, readable

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "outputs/reference"
PREFIXES = (3000, 6000, 12_000, 25_000)
"""Bytes."""

RATE = 1.25
"""Bits per pixel up to which the chart goes."""


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--results", type=Path, default=REFERENCE / "results.csv", help="the table")
    parser.add_argument("--image", type=Path, help="what to show prefixes of")
    parser.add_argument("--model", help="a run or a name; default: as the codec")
    parser.add_argument("--to", type=Path, default=ROOT / "docs", help="a folder")
    options = parser.parse_args()
    means = results.read_means(options.results)
    options.to.mkdir(parents=True, exist_ok=True)
    save(charts.named_at_ends(shown(means), RATE), options.to / "rate_distortion.png")
    if options.image:
        drawn = prefixes(Codec.load(options.model), options.image)
        path = options.to / "prefixes.jpg"
        drawn.savefig(path, bbox_inches="tight", pil_kwargs={"quality": 88})


def shown(means: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Five curves of whole images, by what the chart calls them."""
    means = means[(means.protocol == "native") & ~(means.effort > 0)]
    ours = means[(means["drop"] == "dtd") & (means["lambda"] == 0.1) & (means.range_low == 0)]
    others = curves.codecs()
    return {
        "ours, wavelet": means[means.kind == "wavelet"],
        "ours, planes": ours[ours.kind == "planes"],
        "ours, channels (the paper's levels)": ours[ours.kind == "channels"],
        "single-rate hyperprior (published)": others[others.codec == "bmshj2018-hyperprior"],
        "JPEG 2000, prefixes": means[means.codec == "JPEG 2000 (prefix)"],
    }


def save(figure: Figure, path: Path) -> None:
    """As a PNG with a palette, which is a third as large."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=200)
    Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


def prefixes(codec: Codec, path: Path) -> Figure:
    """A picture as prefixes of its stream show it, and the whole stream."""
    with readable(str(path)):
        picture = read_image(path)
    height, width = picture.shape[:2]
    stream = codec.encode(picture)
    sizes = [*PREFIXES, len(stream)]
    figure = Figure(
        figsize=(7.2, 7.2 / len(sizes) * height / width + 0.4), dpi=150, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.02, wspace=0.0)
    for axis, size in zip(figure.subplots(1, len(sizes)), sizes, strict=True):
        shown = np.asarray(codec.decode(stream[:size]))
        axis.imshow(shown, interpolation="antialiased")
        whole = "all " if size == len(stream) else ""
        axis.set_title(f"{whole}{size:,} bytes\n{psnr(picture, shown):.1f} dB", fontsize=7)
        axis.set_axis_off()
    return figure


if __name__ == "__main__":
    command.run(main)
