"""Convert a checkpoint of the published ProgDTD code to a weights file of this package.

The converted file is safetensors: it holds numbers only, and anybody can load it without the
published code. Evaluating needs no conversion; every command takes published checkpoints as well.
"""

from pathlib import Path

import command

from progdtd import tail_drop
from progdtd.errors import UserError
from progdtd.models import published, weights


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("source", type=Path, help="what the published code saved")
    parser.add_argument("destination", type=Path, help="what to write, *.safetensors")
    instead = "of the training, instead of the checkpoint's"
    parser.add_argument("--lambda", type=float, dest="lmbda", metavar="L", help=instead)
    parser.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="of p in training, likewise"
    )
    options = parser.parse_args()
    source, destination = options.source, options.destination
    if destination.suffix != ".safetensors":
        raise UserError(f"{destination} must end in .safetensors.")
    if not source.is_file():
        raise UserError(f"{source}: there is no such file.")
    state, meta = published.read_weights(source)
    if options.lmbda is not None:
        meta["lambda"] = options.lmbda
    if options.range is not None:
        meta["drop"]["range"] = options.range
    tail_drop.build_drop(meta["drop"])  # refuses what is no range
    model = weights.build_model(meta["model"])
    weights.load_state(model, state, source)
    weights.save_weights(destination, model, meta)
    print(f"{destination}: N={meta['model']['N']}, M={meta['model']['M']}")


if __name__ == "__main__":
    command.run(main)
