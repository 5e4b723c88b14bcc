"""What runs are doing: `python -m progdtd.status`, a live table in a terminal, text in a pipe."""

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path

from progdtd.errors import NOT_INSTALLED
from progdtd.files import matching
from progdtd.machine import steady_streams

try:
    from progdtd.experiment.progress import REFRESH, Live, read, runs, show
except ModuleNotFoundError as error:
    sys.exit(NOT_INSTALLED.format(error.name))

DEFAULT = ("outputs/*", "outputs/sweeps/*")


def main() -> None:
    steady_streams()
    parser = argparse.ArgumentParser(
        prog="python -m progdtd.status",
        description="Show runs: state, step, best loss, time left and last error. In a terminal "
        "the table stays up to date while any run is under way or waiting; Ctrl-C leaves it.",
    )
    places_help = f"run or sweep directories, or globs of them (default: {' '.join(DEFAULT)})"
    parser.add_argument("places", nargs="*", default=DEFAULT, help=places_help)
    parser.add_argument("--once", action="store_true", help="print the table once and exit")
    arguments = parser.parse_args()

    def places() -> list[Path]:
        return [path for word in arguments.places for path in matching(word)]

    if not runs(places()):
        named = ", ".join(arguments.places)
        parser.exit(1, f"No runs in {named}. Start one: python -m progdtd.train --help\n")
    if sys.stdout.isatty() and not arguments.once:
        with suppress(KeyboardInterrupt), Live(runs(places())) as live:
            while any(read(path).state in ("running", "waiting") for path in live.directories):
                live.refresh()
                time.sleep(REFRESH)
                live.directories = runs(places())
    show(runs(places()))


if __name__ == "__main__":
    main()
