"""Streams mean the same in processes that compute differently, and damage is always noticed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lively

from progdtd import Codec
from progdtd.models import ProgressiveHyperprior, ProgressiveMeanScaleHyperprior

CHILD = """
import sys, hashlib, numpy as np, torch
from progdtd import Codec
for name in sys.argv[1:]:
    codec = Codec.load(name + ".pt")
    saved = np.load(name + ".npz")
    y, z = torch.from_numpy(saved["y"]), torch.from_numpy(saved["z"])
    stream = codec.coder.encode_latents(y, z, 250, 190)
    codec.coder.sensitivities = np.arange(96)
    planes = codec.coder.encode_latents(y, z, 250, 190, "planes")
    decoder = codec.decoder()
    decoder.feed(open(name + ".pdtd", "rb").read())
    symbols = decoder.known.y_hat.numpy().tobytes()
    print(codec.fingerprint.hex(), hashlib.sha256(stream + planes + symbols).hexdigest())
"""

MACHINES = {
    "one thread": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    "two threads": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    "plain instructions": {
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "avx2": {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}


def test_any_machine_codes_the_same_bytes_and_decodes_the_same_symbols(
    photograph, monkeypatch
) -> None:
    """Without tables in the weights, so that each process also makes its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd() / "cache"))
    models = {"scale": ProgressiveHyperprior, "mean": ProgressiveMeanScaleHyperprior}
    for name, model_class in models.items():
        torch.save(lively(model_class(64, 96)).state_dict(), f"{name}.pt")
        codec = Codec.load(f"{name}.pt")
        y, z = codec.coder.analyse(photograph[:190, :250])
        np.savez(f"{name}.npz", y=y, z=z)
        Path(f"{name}.pdtd").write_bytes(codec.coder.encode_latents(y, z, 250, 190))
    children = {
        name: subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CHILD, *models],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, settings in MACHINES.items()
    }
    said = {name: child.communicate()[0] for name, child in children.items()}
    assert not any(child.returncode for child in children.values())
    assert codec.fingerprint.hex() in said["one thread"]
    assert len(set(said.values())) == 1, said


@pytest.mark.parametrize("count", ["2000", pytest.param("10000", marks=pytest.mark.slow)])
def test_damaged_and_forged_streams(script, count) -> None:
    code, output = script("fuzz_codec.py", "--count", count)
    assert code == 0, output[-3000:]
    assert "damaged: DamagedError" in output
    assert "forged: DamagedError" in output
