"""Datasets: find their images, and cut training batches from them.

Every random choice is a function of (seed, step), so a run that is interrupted and resumed, or that
reads with more workers, sees the same batches. There is no sampler state to save.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from tqdm import tqdm

from progdtd.errors import UserError, first_line
from progdtd.files import files_below, printable
from progdtd.images import SUFFIXES, UNREADABLE, quiet, read_image
from progdtd.machine import cores

log = logging.getLogger(__name__)

TRIPLETS = "tri_trainlist.txt"

PHOTOS = (
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/rocket.jpg",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
)
"""Photographs that ship inside scikit-image and matplotlib."""


def photos() -> list[Path]:
    """Eight photographs that are already on the machine: enough to try, too few to train well."""
    parts = (photo.partition("/") for photo in PHOTOS)
    paths = [Path(str(files(package)), rest) for package, _, rest in parts]
    return [path for path in paths if path.is_file()]


def folder(root: str | Path) -> list[Path]:
    """List all images, by their SUFFIXES, in a directory tree, as `files_below` does.

    Raises:
        UserError: no such directory, or no image in it.
    """
    if not str(root):
        raise UserError("The folder of images has no name: dataset.root or images is empty.")
    root = Path(str(root)).expanduser()
    if not root.is_dir():
        raise UserError(
            f"{root} is no directory. Give one that holds images (dataset.root=... for training, "
            "images=... for evaluation), or set PROGDTD_DATA to where your datasets are."
        )
    paths = files_below(root, SUFFIXES)
    if not paths:
        raise UserError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))}).")
    return paths


def vimeo90k(root: str | Path) -> list[Path]:
    """The frames of Vimeo-90k triplets, as the paper used them.

    Args:
        root: holds `sequences/00001/0001/im1.png` and so on, and TRIPLETS with one triplet, such as
            `00001/0001`, a line.

    Raises:
        UserError: the layout is another one.
    """
    root = Path(root).expanduser()
    if not (root / TRIPLETS).is_file() or not (root / "sequences").is_dir():
        raise UserError(
            f"{root} is not Vimeo-90k (no {TRIPLETS} or no sequences/ in it): "
            "run `python scripts/prepare_vimeo90k.py`, or set dataset.root=..."
        )
    triplets = (root / TRIPLETS).read_text().split()
    return [root / "sequences" / name / f"im{i}.png" for name in triplets for i in (1, 2, 3)]


def split_dataset(config: DictConfig) -> tuple[list[Path], list[Path]]:
    """The images of a `dataset:` config to train on and those held out.

    Raises:
        UserError: no such dataset, or nothing would be left to train on.
    """
    try:
        paths = [Path(path) for path in instantiate(config.paths)]
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        why = first_line(error.__cause__ or error)
        raise UserError(f"dataset={config.name}: {why}.") from error
    return split(paths, config.validation, config.scene)


def digest(paths: Sequence[Path]) -> str:
    """Names a list of images, by their names and sizes, wherever the folder that has them is."""
    lines = (f"{name} {_size(path)}\n" for name, path in zip(_below(paths), paths, strict=True))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


def _size(path: Path) -> int:
    """Bytes of a file, -1 if it cannot be asked for them."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def split(paths: Sequence[Path], validation: int, scene: int = 1) -> tuple[list[Path], list[Path]]:
    """Hold out `validation` images, evenly spaced, from training; returns (train, validation).

    Args:
        scene: how many images in a row show the same; those beside one held out are not trained on.

    Raises:
        UserError: nothing would be left to train on.
    """
    scenes = [paths[i : i + scene] for i in range(0, len(paths), scene)]
    if not 0 <= validation < len(scenes):
        raise UserError(
            f"dataset.validation={validation} leaves nothing of {len(paths)} images to train on."
        )
    held = {(2 * i + 1) * len(scenes) // (2 * validation) for i in range(validation)}
    train = [path for i, images in enumerate(scenes) if i not in held for path in images]
    return train, [images[0] for i, images in enumerate(scenes) if i in held]


def names(paths: Sequence[Path]) -> list[str]:
    """What tables call images: their paths below the folder that has them all, without suffixes
    where they differ without."""
    whole = [*map(printable, _below(paths))]
    short = [os.path.splitext(name)[0] for name in whole]
    return short if len(set(short)) == len(short) else whole


def _below(paths: Sequence[Path]) -> list[str]:
    """Paths below the folder that has them all; of strings, as there may be very many."""
    whole = [os.path.abspath(path) for path in paths]
    folder = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [path[len(folder) :].lstrip(os.sep).replace(os.sep, "/") for path in whole]


@dataclass
class Batches:
    """Item `step` is the batch of that step: (B, 3, S, S) uint8, in channels-last memory.

    Images are visited in a new random order each epoch. An image that cannot be read or is smaller
    than the crop is named in a warning, once by each process that reads, and the next one takes its
    place.

    Args:
        paths: the images.
        batch_size: images in a batch of one process, B.
        crop: side of the square crops, S, in pixels.
        resize: squash every image to this square first (the paper: 256), None to crop only.
        flip: mirror half of the crops.
        seed: seed of everything random.
        cache_gib: decode all images once and keep them, if they fit in this much memory.
        rank, world: of data-parallel processes, which share each epoch.
    """

    paths: list[Path]
    batch_size: int
    crop: int
    resize: int | None = None
    flip: bool = True
    seed: int = 0
    cache_gib: float = 4.0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        self.shape = (self.batch_size, self.crop, self.crop, 3)
        self._images: dict[int, np.ndarray] = {}
        self._unusable: set[int] = set()
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, int))
        self.cached = _decoded_gib(self.paths, self.resize) <= self.cache_gib
        if self.cached:
            with quiet(), ThreadPoolExecutor(cores()) as pool:
                decoded = pool.map(self._image, range(len(self.paths)))
                list(tqdm(decoded, "decoding images", len(self.paths), leave=False, disable=None))
        self._usable(0)

    def __getitem__(self, step: int) -> torch.Tensor:
        first = (step * self.world + self.rank) * self.batch_size
        indices = range(first, first + self.batch_size)
        crops, mirrored = zip(*map(self._crop, indices), strict=True)
        batch = torch.from_numpy(np.stack(crops))
        for crop, mirror in zip(batch, mirrored, strict=True):
            if mirror:  # torch is ten times faster at it than NumPy
                crop.copy_(crop.flip(1))
        return batch.permute(0, 3, 1, 2)

    def _crop(self, index: int) -> tuple[np.ndarray, bool]:
        """The crop at a position in the endless sequence of epochs, and whether to mirror it."""
        epoch, position = divmod(index, len(self.paths))
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.paths))
            self._order = (epoch, order)
        image = self._usable(int(self._order[1][position]))
        rng = np.random.default_rng([self.seed, 1, index])
        top, left = (rng.integers(side - self.crop + 1) for side in image.shape[:2])
        crop = image[top : top + self.crop, left : left + self.crop]
        return crop, self.flip and rng.random() < 0.5

    def _usable(self, index: int) -> np.ndarray:
        """The image at `index`, or the next one that can be used."""
        for candidate in range(index, index + len(self.paths)):
            image = self._image(candidate % len(self.paths))
            if image is not None:
                return image
        raise UserError(
            f"None of the {len(self.paths)} training images can be read and is at least "
            f"{self.crop}x{self.crop}: check dataset.root, or lower trainer.crop."
        )

    def _image(self, index: int) -> np.ndarray | None:
        if index in self._images or index in self._unusable:
            return self._images.get(index)
        try:
            image = read_image(self.paths[index])
            if self.resize:
                square = (self.resize, self.resize)
                image = np.asarray(Image.fromarray(image).resize(square, Image.Resampling.BILINEAR))
            if min(image.shape[:2]) < self.crop:
                height, width = image.shape[:2]
                raise ValueError(f"it is {width}x{height}, smaller than the crop of {self.crop}")
        except UNREADABLE as error:
            self._unusable.add(index)
            log.warning("Skipped %s: %s.", self.paths[index], error)
            return None
        if self.cached:
            self._images[index] = image
        return image


def _decoded_gib(paths: Sequence[Path], resize: int | None) -> float:
    """Memory that all images take once decoded, estimated from up to 64 of them."""
    sample = paths[:: max(1, -(-len(paths) // 64))]
    sizes = [3 * resize * resize if resize else _decoded_bytes(path) for path in sample]
    return sum(sizes) / max(1, len(sizes)) * len(paths) / 2**30


def _decoded_bytes(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return 3 * image.width * image.height
    except UNREADABLE:
        return 0
