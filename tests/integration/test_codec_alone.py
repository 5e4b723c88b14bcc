"""The codec with a wavelet model and nothing else: no PyTorch, CompressAI or Hydra."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FRAMEWORK = ["compressai", "hydra", "lightning_fabric", "matplotlib", "omegaconf", "onnx"]
FRAMEWORK += ["pandas", "rich", "safetensors", "skimage", "torch", "torchvision", "wandb"]

ALONE = f"""
import sys

sys.modules.update(dict.fromkeys({FRAMEWORK}))  # importing any of them fails from here on
model = sys.argv[1]
from pathlib import Path
from PIL import Image
from progdtd import Codec
from progdtd.codec.__main__ import main

def run(*arguments):
    try:
        main([*arguments])
    except SystemExit as stop:
        assert not stop.code, stop.code

run("encode", "a.png", "a.pdtd", "--model", model)
run("decode", "a.pdtd", "a-again.png")
run("info", "a.pdtd", "--json")
stream = Path("a.pdtd").read_bytes()
codec = Codec.load(model)
assert codec.encode(Image.open("a.png")) == stream
pictures = [*codec.progressive(stream)]
assert pictures[-1].tobytes() == Image.open("a.pdtd").tobytes()
assert pictures[-1].tobytes() == Image.open("a-again.png").tobytes()
Image.open("a.png").save("b.pdtd", model=model)
"""


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def alone(code: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_wavelet_model_codes_without_the_framework(wavelet_file, photograph) -> None:
    """Beside weights of another kind, which are looked through for the stream's fingerprint."""
    run = Path("outputs", "other")
    run.mkdir(parents=True)
    (run / "weights.safetensors").write_bytes(bytes(20))
    Image.fromarray(photograph[:90, :70]).save("a.png")
    done = alone(ALONE, wavelet_file)
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open("a-again.png")).shape == (90, 70, 3)


@pytest.mark.parametrize("command", ["train", "evaluate", "baselines", "figures", "status"])
def test_what_needs_the_framework_says_what_to_install(command) -> None:
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({FRAMEWORK}))\n"
    done = alone(code + f"runpy.run_module('progdtd.{command}', run_name='__main__')")
    assert done.returncode == 1
    assert "pip install 'progdtd[train]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_models_that_need_the_framework_say_what_to_install(tmp_path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    code = "import sys; sys.modules.update(torch=None); from progdtd import Codec; import progdtd\n"
    code += "try: Codec.load('a.safetensors')\n"
    code += "except progdtd.errors.UserError as error: print(error)"
    assert "pip install 'progdtd[train]'" in alone(code).stdout
