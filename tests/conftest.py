"""What tests share: photographs, tiny models, and the commands as a user types them."""

import functools
import gc
import importlib
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import DictConfig
from PIL import Image

from progdtd import Codec, data
from progdtd.codec.codec import StreamDecoder
from progdtd.codec.hyperprior import HyperpriorCoder
from progdtd.experiment.config import CONF
from progdtd.images import read_image
from progdtd.models.wavelet import Wavelet
from progdtd.models.wavelet_file import save
from progdtd.models.weights import Loaded, build_model
from progdtd.tail_drop import TailDrop

TINY = ("model.N=8", "model.M=12")
RUN = "outputs/smoke/hyperprior_dtd_lambda-0.1_range-0.0-1.0_seed-0"
"""Where `experiment=smoke` trains."""
ROW = {"codec": "ProgDTD", "model": "hyperprior", "drop": "dtd", "seed": 0, "run": "r"}
ROW |= {"range_low": 0.0, "range_high": 1.0, "lambda": 0.1, "kind": "channels", "effort": 0}
ROW |= {"protocol": "native", "dataset": "d", "image": "a", "latent_channels": 2}
ROW |= {"hyper_channels": 1}
"""What names a row of results."""
HYPERPRIORS = sorted({path.stem for path in Path(CONF, "model").glob("*.yaml")} - {"wavelet"})
SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
DTD = TailDrop(latent=True, hyper=True)
META = {
    "model": {"_target_": "progdtd.models.ProgressiveHyperprior", "N": 8, "M": 12},
    "drop": {"latent": True, "hyper": True},
    "lambda": 0.1,
}
"""What weights of a tiny hyperprior record."""


def pytest_collection_finish() -> None:
    """Spare the garbage collector looking through torch again and again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test works in a directory of its own, without a login or a data root of the user's, and
    leaves no process behind, not even when it fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROGDTD_DATA", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    while started:
        started.pop().kill()


Run = Callable[..., tuple[int, str]]
"""Runs something by its name with arguments; returns the exit code and the output."""


@pytest.fixture
def started_with(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a main function in this process, as if with these arguments."""

    def run(main: Callable[[], object], *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        return code, "".join(capfd.readouterr())

    return run


@pytest.fixture
def command(started_with: Run) -> Run:
    """Run `python -m progdtd.<name> <arguments>` in this process."""

    def run(name: str, *arguments: str) -> tuple[int, str]:
        return started_with(importlib.import_module(f"progdtd.{name}").main, name, *arguments)

    return run


@pytest.fixture
def script(started_with: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `python scripts/<name> <arguments>` in this process."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(name: str, *arguments: object) -> tuple[int, str]:
        path = str(SCRIPTS / name)
        return started_with(lambda: runpy.run_path(path, run_name="__main__"), name, *arguments)

    return run


def succeeded(run: Run, *words: object) -> str:
    """The output of what `run` ends well."""
    code, output = run(*words)
    assert code == 0, output
    return output


def refused(run: Run, *words: object) -> str:
    """The output of what `run` ends with a message for its user, and no traceback."""
    code, output = run(*words)
    assert (code, "Traceback" in output) == (1, False), output
    return output


signal.signal(signal.SIGINT, signal.default_int_handler)
"""Tests started in the background of a shell ignore it, and so would all that they start."""


started: list[subprocess.Popen] = []
"""What a test started with `shell`."""


def shell(*arguments: str, **environment: str) -> subprocess.Popen:
    """Start `python -m <arguments>` as a process, with a group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )
    started.append(process)
    return process


def ended(process: subprocess.Popen, code: int) -> str:
    """The output of a process once it has ended, with this exit code."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def wait_for(met: Callable[[], object], process: subprocess.Popen) -> None:
    """Until something is so, while a process runs."""
    deadline = time.monotonic() + 120
    while not met():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def wait_for_end(*pids: int) -> None:
    """Until none of these processes, which may be anyone's children, is more than a zombie."""
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def composed(*overrides: str) -> DictConfig:
    """The configuration of a training, as `progdtd.train` composes it."""
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("train", list(overrides))


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        patch.setattr(sys, "argv", ["train", "experiment=smoke"])
        importlib.import_module("progdtd.train").main()
        return Path(RUN).absolute()


@pytest.fixture
def trained(_home: None, _finished: Path) -> Path:
    """`RUN`, a copy of what `experiment=smoke` leaves."""
    return shutil.copytree(_finished, Path(RUN))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures of a command by their names, not saved, which takes longer than all else."""
    figures: dict[str, Figure] = {}

    def keep(figure: Figure, stem: Path) -> list[Path]:
        figures[stem.name] = figure
        return []

    monkeypatch.setattr("progdtd.evaluation.charts.save", keep)
    return figures


@pytest.fixture
def photograph() -> np.ndarray:
    """A real photograph, (300, 451, 3) uint8."""
    return read_image(next(path for path in data.photos() if path.stem == "chelsea"))


@pytest.fixture
def images(tmp_path: Path, photograph: np.ndarray) -> Path:
    """A folder of five crops of a photograph, of unequal sizes and formats."""
    root = tmp_path / "images"
    (root / "deeper").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.jpg", "c.webp", "deeper/d.tiff", "deeper/e.JPEG")):
        picture = Image.fromarray(photograph[10 * i : 10 * i + 180, 20 * i : 20 * i + 190 + i])
        picture.save(root / name)
    return root


@pytest.fixture(params=HYPERPRIORS)
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    """Each hyperprior: tiny, untrained, its latents far enough from zero to matter."""
    return lively(build_model(tiny(request.param)))


@functools.cache
def tiny(model: str) -> DictConfig:
    """The configuration of a tiny model, composed once."""
    return composed(f"model={model}", *TINY).model


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Scale the last layers of the analyses up, so that quantised latents are not all zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        model.g_a[-1].weight *= 60
        model.h_a[-1].weight *= 60
    return model.eval()


def codec_of(model: torch.nn.Module, drop: TailDrop = DTD, **meta: object) -> Codec:
    """The codec of a hyperprior of which weights would record `meta`."""
    return Codec(HyperpriorCoder(Loaded(model, drop, {"model": {}} | meta)))


def fed(codec: Codec, stream: bytes, *limits: float) -> StreamDecoder:
    """A decoder of the codec that has taken a stream."""
    decoder = codec.decoder()
    decoder.feed(stream, *limits)
    return decoder


@pytest.fixture(scope="session")
def wavelet() -> Wavelet:
    """A small wavelet model with random weights, large enough for every part to matter."""
    torch.manual_seed(0)
    model = Wavelet(width=8, pixel_width=8, blocks=1).eval()
    with torch.no_grad():
        for scales, spread in ((model.digits, 0.4), (model.picture.scales, 0.05)):
            for trunk in (scales.low, scales.detail):
                trunk.head.weight.normal_(std=spread)
                trunk.at_first.weight.normal_(std=0.1)
                trunk.at_head.weight.normal_(std=0.1)
        model.picture.correction.weight.normal_(std=0.02)
        model.picture.at_pixels.weight.normal_(std=0.1)
    return model


@pytest.fixture(scope="session")
def wavelet_file(wavelet: Wavelet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file."""
    path = tmp_path_factory.mktemp("wavelet") / "small.onnx"
    save(wavelet, path, {"made": "at random"})
    return path
