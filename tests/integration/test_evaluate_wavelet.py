"""Evaluating a wavelet model: a file that is coded without a hyperprior's protocols."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

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
    code, output = command("evaluate", f"run={model}", f"images={images}")
    assert code == 0, output
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
    code, output = command("evaluate", f"run={model}", f"images={images}")
    assert (code, "was evaluated so before" in output) == (0, True), output
    code, output = command("figures", f"runs={csv.parent.parent}", "images=images")
    assert code == 0, output
    assert "rate_distortion_native" in drawn


@pytest.mark.parametrize(
    ("option", "said"),
    [("protocols=reference", "measured by protocols=native alone"), ("effort=1", "takes none")],
)
def test_what_a_wavelet_model_has_not_is_refused(command, model, images, option, said) -> None:
    code, output = command("evaluate", f"run={model}", f"images={images}", option)
    assert (code, said in output) == (1, True), output
