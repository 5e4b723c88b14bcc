import io
import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import refused, succeeded
from PIL import Image

from progdtd import classical_files
from progdtd.errors import UserError
from progdtd.evaluation import classical
from progdtd.evaluation.results import COLUMNS


@pytest.mark.parametrize("name", list(classical.CODECS))
def test_rate_and_quality_grow_with_the_setting(name, photograph) -> None:
    if name == "JPEG XL":
        pytest.importorskip("pillow_jxl")
    rows = pd.DataFrame(classical.measure(classical.CODECS[name], photograph[:256, :256]))
    assert rows.p.is_monotonic_increasing
    assert 0 < rows.p.min() < rows.p.max() <= 1
    assert rows.bytes.is_monotonic_increasing
    assert (rows.psnr.diff().dropna() > -0.3).all()
    assert rows.psnr.iloc[-1] > rows.psnr.iloc[0] + 6
    assert (rows.bpp == 8 * rows.bytes / 256**2).all()


def test_bytes_are_those_of_a_file_that_pillow_opens(photograph) -> None:
    streams = dict(classical.CODECS["JPEG"].streams(Image.fromarray(photograph)))
    assert np.asarray(Image.open(io.BytesIO(streams[0.9]))).shape == photograph.shape


def test_each_setting_has_its_own_time(monkeypatch, photograph) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def streams(image):
        for number in (1, 2, 3):
            now[0] += number
            yield number / 10, classical.save(image, "JPEG")

    rows = classical.measure(classical.Baseline("x", streams), photograph[:64, :64])
    assert [row["encode_s"] for row in rows] == [1, 2, 3]


def test_jpeg2000_is_at_its_best(photograph) -> None:
    """Without its colour transform it would lose to JPEG, by decibels."""
    jpeg, jpeg2000 = (
        pd.DataFrame(classical.measure(classical.CODECS[name], photograph[:256, :256]))
        for name in ("JPEG", "JPEG 2000")
    )
    at = [0.6, 1.0]
    ours, theirs = (np.interp(at, t.bpp, t.psnr) for t in (jpeg2000, jpeg))
    assert (ours > theirs + 0.5).all()


def test_jpeg2000_has_no_markers_that_its_decoder_does_not_need(photograph) -> None:
    """The pixels are those of what OpenJPEG writes."""
    image = Image.fromarray(photograph)
    layers = [24 / rate for rate in classical.LAYERS]
    quality = {"quality_mode": "rates", "quality_layers": layers, "irreversible": True, "mct": 1}
    plain = classical.save(image, "JPEG2000", **quality, no_jp2=True)
    stream, ends = classical.jpeg2000(image, classical.LAYERS)
    assert len(stream) == ends[-1] + 2 < len(plain) - 30
    for marker in (classical_files.PLT, classical_files.COM):
        assert marker not in stream[: ends[0]]
    whole, *others = (
        np.asarray(Image.open(io.BytesIO(content)))
        for content in (stream, plain, dict(classical.jpeg2000_prefixes(image))[1.0])
    )
    assert all(np.array_equal(whole, other) for other in others)


def test_jpeg2000_prefixes_are_prefixes(photograph) -> None:
    """Apart from the tile's length and the end marker, each is the beginning of the next."""
    streams = [bytes(s) for _, s in classical.jpeg2000_prefixes(Image.fromarray(photograph))]
    tile = streams[0].index(b"\xff\x90")
    bare = [s[: tile + 6] + s[tile + 10 : -2] for s in streams]
    assert all(b.startswith(a) for a, b in itertools.pairwise(bare))
    assert len(bare[0]) < len(bare[-1]) / 8


def test_command_writes_the_common_table(command, images) -> None:
    (images / "a.png").write_text("broken")
    assert "a.png" in succeeded(command, "baselines", f"images={images}", "codecs=[JPEG,WebP]")
    table = pd.read_csv("outputs/baselines/images_native.csv")
    assert list(table.columns) == COLUMNS
    assert len(table) == 4 * 2 * len(classical.QUALITIES)
    assert table.bytes.notna().all()


def test_an_image_that_one_codec_cannot_take_costs_no_other_rows(command, tmp_path) -> None:
    root = tmp_path / "wide"
    root.mkdir()
    for width in (64, 16400):
        Image.new("RGB", (width, 16)).save(root / f"{width}.png")
    output = succeeded(command, "baselines", f"images={root}", "codecs=[JPEG,WebP]", "out=base")
    assert "WebP cannot code 16400: " in output
    table = pd.read_csv("base/wide_native.csv", dtype={"image": str})
    assert set(zip(table.codec, table.image, strict=True)) == {
        ("JPEG", "64"),
        ("JPEG", "16400"),
        ("WebP", "64"),
    }


def test_other_codecs_stay_in_the_table(command, images, monkeypatch) -> None:
    monkeypatch.setattr(classical, "QUALITIES", (10, 50, 90))
    for codecs in ("codecs=[JPEG,WebP]", "codecs=WebP"):
        succeeded(command, "baselines", f"images={images}", codecs)
    table = pd.read_csv("outputs/baselines/images_native.csv")
    assert table.groupby("codec").size().to_dict() == dict.fromkeys(
        ("JPEG", "WebP"), 5 * len(classical.QUALITIES)
    )


def test_what_is_not_measured_again_is_kept(command, images, monkeypatch) -> None:
    """In the table the rows of other codecs, beside it those of an image that is gone; of a folder
    that is called a number."""
    monkeypatch.setattr(classical, "QUALITIES", (10, 50, 90))
    folder = images.rename("2020")
    for codec in ("WebP", "JPEG"):
        assert "is kept as" not in succeeded(command, "baselines", "images=2020", f"codecs={codec}")
    (folder / "a.png").unlink()
    output = succeeded(command, "baselines", "images=2020", "codecs=JPEG")
    assert "had other images or levels, and is kept as" in output
    before = pd.read_csv("outputs/baselines/2020_native.csv.before-1")
    assert before.image.nunique() == 5


def test_folders_of_one_name_are_not_mixed(command, images, tmp_path, photograph) -> None:
    """Their images may have the same names too."""
    Image.fromarray(photograph[:40, :40]).save(images / "a.png")
    other = tmp_path / "elsewhere/images"
    other.mkdir(parents=True)
    Image.fromarray(photograph[:40, 60:100]).save(other / "a.png")
    succeeded(command, "baselines", f"images={images}", "codecs=[JPEG,WebP]")
    output = succeeded(command, "baselines", f"images={other}", "codecs=JPEG")
    assert "had other images or levels" in output
    table = pd.read_csv("outputs/baselines/images_native.csv")
    assert (set(table.codec), set(table.image)) == ({"JPEG"}, {"a"})
    before = pd.read_csv("outputs/baselines/images_native.csv.before-1")
    assert set(before.codec) == {"JPEG", "WebP"}


def test_where_nothing_can_be_written_nothing_is_measured(command, images, monkeypatch) -> None:
    Path("file").touch()
    output = refused(command, "baselines", f"images={images}", "out=file")
    assert "No results can be written to file (File exists)" in output
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    monkeypatch.setattr(classical, "measure", None)
    output = refused(command, "baselines", f"images={images}", "out=there")
    assert "to there (Permission denied)" in output


def test_scans_begin_where_their_headers_end(photograph) -> None:
    """As a walk from marker to marker finds them."""
    whole = classical.save(
        Image.fromarray(photograph), "JPEG", quality=90, progressive=True, optimize=True
    )
    found = [match.span() for match in classical.JPEG_SCAN.finditer(whole)]
    position, scans = 2, []
    while whole[position + 1] != 0xD9:
        scan = whole[position + 1] == 0xDA
        position += 2 + int.from_bytes(whole[position + 2 : position + 4])
        if scan:
            begin = position
            while whole[position] != 0xFF or whole[position + 1] in (0, *range(0xD0, 0xD8)):
                position += 1
            scans.append((begin, position))
    assert len(scans) > 5
    assert found == scans


def test_a_codec_without_its_plugin_is_left_out(monkeypatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    assert [codec.name for codec in classical.available(["JPEG", "JPEG XL"])] == ["JPEG"]
    assert "JPEG XL is left out: pip install pillow-jxl-plugin" in caplog.text
    with pytest.raises(UserError, match="None of the codecs"):
        classical.available(["JPEG XL"])


@pytest.mark.parametrize("name", ["JPEG 2000 (prefix)", "JPEG progressive (prefix)"])
@pytest.mark.parametrize("side", [16, 64, 100])
def test_prefixes_too_short_to_decode_are_left_out(name, side, photograph) -> None:
    for picture in (photograph[:side, :side], np.full((side, side, 3), 255, np.uint8)):
        rows = list(classical.measure(classical.CODECS[name], picture))
        assert 1 <= len(rows) <= len(classical.FRACTIONS)
        assert rows[-1]["p"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["codecs=[MP3]"], "No codec MP3; there are JPEG"), ([], "download_kodak.py")],
)
def test_bad_input_gets_one_clear_message(command, arguments, said) -> None:
    assert said in refused(command, "baselines", *arguments)
