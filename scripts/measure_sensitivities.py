"""Sensitivities for a model that has none: `python scripts/measure_sensitivities.py RUN`.

The codec's planes need them. A training measures those of its model when it finishes; for other
weights this does it, and writes them into the weights file. The fingerprint stays as it is, and so
do sensitivities that are there: streams of planes made with them would no longer decode.
"""

from pathlib import Path

import command

from progdtd import data
from progdtd.codec import sensitivities
from progdtd.errors import UserError
from progdtd.files import WEIGHTS
from progdtd.models import weights


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("model", type=Path, nargs="+", help="run directories or .safetensors files")
    parser.add_argument(
        "--images", help="a folder of photographs, best of the training; default: the bundled ones"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    again = "replace sensitivities: earlier streams of planes are lost"
    parser.add_argument("--again", action="store_true", help=again)
    options = parser.parse_args()
    photographs = data.folder(options.images) if options.images else data.photos()
    for path in options.model:
        file = path / WEIGHTS if path.is_dir() else path
        loaded = weights.load_model(file, options.device)
        if "sensitivities" in loaded.meta and not options.again:
            raise UserError(
                f"{file} has sensitivities, and streams of planes made with them would no longer "
                "decode: --again measures new ones all the same."
            )
        weights.add_meta(file, {"sensitivities": sensitivities.of(loaded, photographs)})
        print(f"{file}: sensitivities recorded")


if __name__ == "__main__":
    command.run(main)
