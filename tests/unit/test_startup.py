"""What is imported when, in processes of their own: the rest of the time is what users wait for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import META, codec_of, lively
from PIL import Image

from progdtd.models import ProgressiveHyperprior, weights

LIGHT = {"PIL", "cython_runtime", "numpy", "packaging", "pillow_jxl", "progdtd", "tqdm"}
"""All that the codec needs before it opens a model, beside the standard library."""

REST = {
    "pandas",
    "scipy.stats.distributions",
    "sympy",
    "torch._dynamo",
    "torch_geometric",
    "torchvision",
}
"""What CompressAI brings beside its networks, and nobody needs who codes with one."""


def printed(code: str, *arguments: str) -> list[str]:
    """What Python code prints in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def stream() -> str:
    """The name of a stream, whose model is not here."""
    codec = codec_of(lively(ProgressiveHyperprior(8, 12)))
    Path("a.pdtd").write_bytes(codec.encode(np.zeros((64, 64, 3), np.uint8)))
    return "a.pdtd"


@pytest.mark.parametrize(
    "code",
    [
        "import progdtd.codec",
        "from progdtd.codec.__main__ import main; main(['info', 'a.pdtd'])",
        "from progdtd.codec.__main__ import main; main(['--help'])",
        "from progdtd import Codec; Codec(None).decoder()",
        "from PIL import Image; import progdtd; Image.open('a.pdtd')",
    ],
)
def test_what_needs_no_model_is_light(stream, code) -> None:
    then = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = printed(f"import atexit; atexit.register(lambda: exec({then!r}))\n{code}")[-1].split()
    third_party = {name for name in loaded if name not in sys.stdlib_module_names}
    assert {name for name in third_party if not name.startswith("_")} <= LIGHT
    assert "progdtd" in third_party


def test_codec_commands_need_neither_torch_geometric_nor_dynamo(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    meta = META | {"sensitivities": [0] * 12}
    weights.save_weights(Path("tiny.safetensors"), ProgressiveHyperprior(8, 12), meta)
    Image.new("RGB", (64, 64)).save("a.png")
    code = f"""
import sys
from progdtd.codec.__main__ import main
for command in (["encode", "a.png", "a.pdtd"], ["decode", "a.pdtd", "b.png"]):
    try:
        main([*command, "--model", "tiny.safetensors"])
    except SystemExit as end:
        assert not end.code
print("compressai" in sys.modules, *({REST!r} & sys.modules.keys()))
"""
    assert printed(code) == ["True"]
