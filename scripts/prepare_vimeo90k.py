"""Download and unpack the Vimeo-90k triplets, the paper's training set: 33 GB, resumable.

python scripts/prepare_vimeo90k.py --to data/vimeo_triplet
python scripts/prepare_vimeo90k.py --zip vimeo_triplet.zip     # a zip that is already here
"""

import zipfile
import zlib
from pathlib import Path

import command
from tqdm import tqdm

from progdtd import data
from progdtd.download import fetch
from progdtd.errors import UserError
from progdtd.experiment.words import printed
from progdtd.files import data_root

SOURCE = "http://data.csail.mit.edu/tofu/dataset/vimeo_triplet.zip"
TOP = "vimeo_triplet/"


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--to", type=Path, default=data_root() / "vimeo_triplet", help="folder")
    parser.add_argument("--zip", type=Path, help="the zip, if it is already here")
    parser.add_argument("--source", default=SOURCE, help="address of the zip")
    parser.add_argument("--sha256", help="expected checksum of the zip")
    arguments = parser.parse_args()
    root = arguments.to.absolute()
    archive = arguments.zip or root.with_name(f"{root.name}.zip")
    if not arguments.zip:
        fetch(arguments.source, archive, arguments.sha256)
    unpack(archive, arguments.to)
    check(arguments.to)
    if not arguments.zip:
        print(f"{archive} is no longer needed.")
    root = printed("dataset.root", arguments.to)
    print(f"Train with: python -m progdtd.train dataset=vimeo90k {root}")


def unpack(archive: Path, root: Path) -> None:
    """Unpack what is not there yet, whole: a file that was cut short has another size.

    Raises:
        UserError: not a zip, a damaged one, or one with entries that would leave `root`; or `root`
            cannot be written to.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            for entry in tqdm(file.infolist(), "unpacking", unit="file"):
                target = (root / entry.filename.removeprefix(TOP)).resolve()
                if not target.is_relative_to(root.resolve()):
                    raise UserError(f"{archive} holds {entry.filename}, which is outside {root}.")
                if entry.is_dir() or (target.exists() and target.stat().st_size == entry.file_size):
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read(entry))
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, OSError) as error:
        raise UserError(
            f"{archive} cannot be unpacked to {root} ({error}). Mend that, or download it again, "
            "then start the same command again: it goes on where it stopped."
        ) from error


def check(root: Path) -> None:
    """Say how many frames are there.

    Raises:
        UserError: another layout, or frames missing.
    """
    frames = data.vimeo90k(root)
    missing = [path for path in tqdm(frames, "checking", unit="frame") if not path.is_file()]
    if missing or not frames:
        raise UserError(
            f"{len(missing)} of {len(frames)} frames are missing, such as {missing[:1]}."
        )
    print(f"{len(frames)} frames of {len(frames) // 3} triplets in {root}")


if __name__ == "__main__":
    command.run(main)
