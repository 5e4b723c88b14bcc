"""Sensitivities for a model that has none: `python scripts/measure_sensitivities.py RUN`.

The codec's planes need them. A training measures those of its model when it finishes; for other
weights this does it, and writes them into the weights file. The fingerprint stays as it is, and so
do sensitivities that are there: streams of planes made with them would no longer decode.
"""

import argparse
import sys
from pathlib import Path

from progdtd import data
from progdtd.codec import sensitivities
from progdtd.errors import UserError
from progdtd.files import WEIGHTS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="+", help="run directories or .safetensors files")
    parser.add_argument(
        "--images", help="a folder of photographs, best of the training; default: the bundled ones"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    again = "replace sensitivities: earlier streams of planes are lost"
    parser.add_argument("--again", action="store_true", help=again)
    options = parser.parse_args()
    try:
        photographs = data.folder(options.images) if options.images else data.photos()
        for path in options.model:
            weights = path / WEIGHTS if path.is_dir() else path
            sensitivities.record(weights, photographs, options.device, options.again)
            print(f"{weights}: sensitivities recorded")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
