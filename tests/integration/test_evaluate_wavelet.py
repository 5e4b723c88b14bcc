"""Evaluating a wavelet model: a file that is coded without a hyperprior's protocols."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refused, succeeded
from PIL import Image

from progdtd import Codec
from progdtd.evaluation.results import COLUMNS
from progdtd.evaluation.subjects import LOW
from progdtd.images import psnr, read_image
from progdtd.models import wavelet_file
from progdtd.models.wavelet import Wavelet
from progdtd.tail_drop import P_LEVELS


@pytest.fixture
def model() -> Path:
    torch.manual_seed(0)
    wavelet_file.save(Wavelet(width=8, pixel_width=8, blocks=1), Path("model.onnx"), {"seed": 5})
    return Path("model.onnx")


def test_a_wavelet_model_is_evaluated_and_drawn(command, drawn, model, images) -> None:
    succeeded(command, "evaluate", f"run={model}", f"images={images}")
    (csv,) = Path("outputs/weights").glob("*/evaluation/images_native.csv")
    table = pd.read_csv(csv)
    assert list(table.columns) == COLUMNS
    assert {*table.kind, *table.model, *table.seed} == {"wavelet", 5}
    assert sorted(set(table.p)) == sorted({*LOW, *P_LEVELS})
    codec = Codec.load(model)
    for _, rows in table.groupby("image"):
        assert rows.bytes.is_monotonic_increasing
        assert (rows.bytes <= np.maximum(rows.p * rows.bytes.max(), rows.bytes.min())).all()
    picture = read_image(next(images.rglob("a.png")))
    stream = codec.encode(picture)
    rows = table[table.image == "a"]
    assert rows.bytes.max() == len(stream)
    row = rows[rows.p == 0.3].iloc[0]
    assert row.psnr == pytest.approx(
        psnr(picture, np.asarray(codec.decode(stream[: row.bytes]))), abs=1e-4
    )
    output = succeeded(command, "evaluate", f"run={model}", f"images={images}")
    assert "was evaluated so before" in output
    succeeded(command, "figures", f"runs={csv.parent.parent}", "images=images")
    assert "rate_distortion_native" in drawn


@pytest.mark.parametrize(
    ("option", "said"),
    [("protocols=reference", "measured by protocols=native alone"), ("effort=1", "takes none")],
)
def test_what_a_wavelet_model_has_not_is_refused(command, model, images, option, said) -> None:
    assert said in refused(command, "evaluate", f"run={model}", f"images={images}", option)


def test_bits_are_compared_with_those_of_other_codecs(command, script, model, images) -> None:
    arguments = (f"images={images}", "protocols=native", "levels=[0.05,0.1,0.2,0.4,0.7,1.0]")
    succeeded(command, "evaluate", f"run={model}", *arguments)
    (csv,) = Path("outputs/weights").glob("*/evaluation/images_native.csv")
    twice = pd.read_csv(csv)
    twice.assign(model=None, codec="twice", bpp=2 * twice.bpp).to_csv("twice.csv", index=False)
    output = succeeded(script, "same_psnr.py", csv, "--beside", csv, "twice.csv")
    rows = {line.split(" | ")[0][2:]: line for line in output.splitlines() if line[:2] == "| "}
    same = next(line for name, line in rows.items() if name.startswith("wavelet ("))
    *at_rates, bd_rate = map(float, re.findall(r"([-+][\d.]+) %", same))
    assert set(at_rates) == {0}
    assert abs(bd_rate) < 0.3  # it interpolates between other points
    for name in ("twice", "twice, image by image"):
        found = [*map(float, re.findall(r"([-+][\d.]+) %", rows[name]))]
        assert found == pytest.approx([-50] * len(found), abs=0.5)
        assert found
    assert "nowhere.csv" in refused(script, "same_psnr.py", "nowhere.csv")


def test_pictures_of_as_many_bytes(script, model, images) -> None:
    to, image = Path("sheet.png"), images / "a.png"
    options = ("--images", image, "--rates", 1.5, 3, "--side", 64, "--to", to)
    output = succeeded(script, "same_bytes.py", model, *options)
    assert Image.open(to).size == (4 * 68, 2 * 78)
    sizes = re.findall(r": (\d+), [\d.]+ dB", output)
    width, height = Image.open(image).size
    assert len(sizes) == 6
    assert all(int(size) <= 3 * width * height / 8 for size in sizes)
