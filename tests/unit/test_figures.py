import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROW, refused, succeeded
from PIL import Image

from progdtd.evaluation import bd, charts, curves, results


def write_runs(gain: float = 1.0, dataset: str = "kodak") -> None:
    """Results as six models would leave them: the published curves, better by `gain` dB."""
    for key, curve in curves.progdtd().groupby(["lambda", "range_low", "range_high"]):
        named = ROW | {"run": "-".join(map(str, key)), "dataset": dataset}
        named |= dict(zip(("lambda", "range_low", "range_high"), key, strict=True))
        for protocol in ("native", "reference"):
            rows = []
            for r in curve.itertuples():
                point = {"p": r.p, "psnr": r.psnr + gain, "ms_ssim_db": r.ms_ssim_db}
                for i in range(curves.IMAGES):
                    shift = (-1) ** i * 0.001
                    image = {"protocol": protocol, "image": i, "bpp": r.bpp + shift}
                    rows.append(named | point | image)
            run = Path("outputs/train", str(named["run"]))
            results.write(rows, run / f"evaluation/{dataset}_{protocol}.csv")


def write_again(source: Path, run: str, name: str = "", **different: object) -> None:
    """The results of a run as those of another, but for what is different."""
    table = pd.read_csv(source).assign(run=run, **different)
    path = Path("outputs/train", run, "evaluation", name or source.name)
    results.write(table.to_dict("records"), path)


def write_codec(codec: str, points: Iterable[tuple[int, float]], dataset: str = "kodak") -> None:
    """Results of a measured codec, which has these images and p."""
    named = {"codec": codec, "protocol": "native", "dataset": dataset}
    rows = [named | {"image": i, "p": p, "bpp": p, "psnr": 30 + p} for i, p in points]
    results.write(rows, Path(f"outputs/baselines/{dataset}_native.csv"))


def curve(shift: float = 0.0, scale: float = 1.0) -> pd.DataFrame:
    bpp = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
    return pd.DataFrame({"bpp": bpp * scale, "psnr": 30 + 5 * np.log2(bpp / 0.1) + shift})


def rows_of(**different: object) -> pd.DataFrame:
    """A curve of a model, which is that of ROW but for what is different."""
    rows = [
        ROW | different | {"p": p, "bpp": p, "psnr": 30 + p, "ms_ssim_db": 12 + p}
        for p in (0.5, 1.0)
    ]
    return pd.DataFrame(rows)


def test_bd_of_known_curves() -> None:
    none = {"bd_rate": 0, "bd_psnr": 0, "bpp_from": 0.1, "bpp_to": 1.6}
    assert bd.delta(curve(), curve()) == pytest.approx(none, abs=1e-6)
    assert bd.delta(curve(), curve(scale=2))["bpp_from"] == pytest.approx(0.2)
    assert bd.delta(curve(), curve(shift=1))["bd_psnr"] == pytest.approx(1)
    assert bd.delta(curve(), curve(scale=1.25))["bd_rate"] == pytest.approx(25)
    assert bd.delta(curve(), curve(scale=0.5))["bd_rate"] == pytest.approx(-50)


def test_bd_without_overlap_or_with_dead_tails() -> None:
    assert np.isnan(bd.delta(curve(), curve(scale=100))["bd_psnr"])
    assert np.isnan(bd.delta(curve(), curve().iloc[:2])["bd_rate"])
    tail = pd.concat([curve(), *[curve().tail(1)] * 3])
    assert len(bd.rising(tail)) == 5
    assert bd.delta(curve(), tail)["bd_psnr"] == pytest.approx(0, abs=1e-6)
    exact = pd.concat([curve(), pd.DataFrame({"bpp": [2.0], "psnr": [np.inf]})])
    assert bd.delta(curve(), exact)["bd_psnr"] == pytest.approx(0, abs=1e-6)


def test_figures_and_tables_from_results(command) -> None:
    write_runs(gain=1.0)
    write_codec("JPEG", [(0, p) for p in (0.2, 0.5, 1.0, 1.5)])
    output = succeeded(command, "figures")
    out = Path("outputs/figures")
    for protocol in ("native", "reference"):
        for suffix in ("pdf", "png"):
            assert f"rate_distortion_{protocol}.{suffix}" in output
        assert (out / f"rate_distortion_{protocol}.pdf").read_bytes().startswith(b"%PDF")
        image = Image.open(out / f"rate_distortion_{protocol}.png")
        assert image.width > 1500
        assert len(image.convert("RGB").getcolors(2**20)) > 100
    aggregated = pd.read_csv(out / "results.csv")
    assert len(aggregated) == 2 * len(curves.progdtd()) + 4
    expected = curves.progdtd().sort_values(["lambda", "range_low", "p"]).bpp
    ours = aggregated[aggregated.protocol == "reference"].sort_values(["lambda", "range_low", "p"])
    assert ours.bpp.tolist() == pytest.approx(expected.tolist())

    deltas = pd.read_csv(out / "bd.csv")
    published = deltas[deltas.against == "ProgDTD (published)"]
    assert set(published.protocol) == {"reference"}
    assert published.bd_psnr.tolist() == pytest.approx([1.0] * 6, abs=1e-6)
    assert (published.bd_rate < 0).all()
    assert {"JPEG", "bmshj2018-hyperprior (published)"} <= set(
        deltas[deltas.protocol == "native"].against
    )
    lines = (out / "bd.md").read_text().splitlines()
    assert lines[0].startswith("| codec | model |")
    assert "| seed | run | levels | effort | protocol | against | BD-rate (%) |" in lines[0]
    assert sum("| reference | ProgDTD (published) |" in line for line in lines) == 6
    succeeded(command, "figures", "published=false", "out=alone")
    assert "ProgDTD (published)" not in Path("alone/bd.csv").read_text()


def test_published_curves_belong_to_kodak_alone(command, drawn) -> None:
    write_runs(dataset="mine")
    succeeded(command, "figures", "images=mine")
    assert "published" not in Path("outputs/figures/bd.csv").read_text()


def test_aggregated_results_are_enough_to_draw_again(command, drawn) -> None:
    write_runs()
    succeeded(command, "figures", "out=first")
    succeeded(command, "figures", "runs=nowhere", "results=first/results.csv", "out=again")
    for table in ("results.csv", "bd.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(f"again/{table}"), pd.read_csv(f"first/{table}"))


def test_a_curve_has_a_colour_and_a_marker_of_its_own_among_many() -> None:
    lambdas, bounds = [0.003 * 2**i for i in range(9)], [(0.1 * i, 1.0) for i in range(7)]
    models = [
        {"lambda": lmbda, "range_low": low, "range_high": high, "run": f"{lmbda}-{low}"}
        for lmbda in lambdas
        for low, high in bounds
    ]
    table = pd.concat([rows_of(**model) for model in models], ignore_index=True)
    none = pd.DataFrame(columns=["codec", "lambda", "range_low", "range_high", "bpp", "p"])
    figure = charts.rate_distortion(table, none, none, none, "many")
    drawn = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(drawn) == len(models)


def test_a_file_is_no_directory_to_draw_into(command) -> None:
    write_runs()
    Path("taken").write_text("")
    output = refused(command, "figures", "out=taken")
    assert "No results can be written to taken (File exists)" in output


@pytest.mark.parametrize("anew", [False, True])
def test_the_projects_own_results_draw_again(command, drawn, anew) -> None:
    """From the means, and from the models' tables of every image beside the means of codecs."""
    kept = Path(__file__).parents[2] / "outputs" / "reference"
    runs = (f"runs={kept}/*",) if anew else ()
    succeeded(command, "figures", f"results={kept}/results.csv", *runs)
    for table in ("results.csv", "bd.csv"):
        written = Path("outputs/figures", table)
        if anew:  # where the mean's last digit may be another
            again, before = pd.read_csv(written), pd.read_csv(kept / table)
            pd.testing.assert_frame_equal(again, before, rtol=1e-6)
        else:
            assert written.read_bytes() == (kept / table).read_bytes()
    again = pd.read_csv("outputs/figures/results.csv")
    native = again[again.protocol == "native"]
    assert native[native["drop"] == "dtd"].groupby(["lambda", "range_low"]).ngroups == 6


def test_codecs_measured_earlier_stand_beside_runs_on_the_same_images(command, drawn) -> None:
    write_runs()
    write_codec("JPEG", itertools.product(range(curves.IMAGES), (0.1, 0.2, 0.3)))
    succeeded(command, "figures", "out=first")
    Path("outputs/baselines/kodak_native.csv").unlink()
    arguments = ("figures", "results=first/results.csv")
    for words, there in (((), True), (("baselines=none",), False)):
        code, output = command(*arguments, *words)
        assert (code, "No other codecs were measured here" in output) == (0, there), output
        assert ("JPEG" in set(pd.read_csv("outputs/figures/results.csv").codec)) == there
    kept = pd.read_csv("first/results.csv")
    kept.assign(images=12).to_csv("first/results.csv", index=False)
    assert "No other codecs were measured here" not in succeeded(command, *arguments)


def test_only_the_named_images_are_drawn(command, drawn) -> None:
    write_runs()
    write_runs(dataset="kodak_small")
    succeeded(command, "figures", "images=kodak")
    assert set(pd.read_csv("outputs/figures/results.csv").dataset) == {"kodak"}
    assert "DPICT" in refused(command, "figures", "codecs=[nonesuch]")


def test_no_results_says_how_to_make_some(command) -> None:
    output = refused(command, "figures", "runs=nowhere/*")
    assert "progdtd.evaluate" in output
    assert "nowhere/*" in output


def test_a_mistyped_run_does_not_draw_the_projects_own_results(command, monkeypatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    output = refused(command, "figures", "runs=outputs/train/typo*", "out=/nowhere")
    assert "No results for kodak under outputs/train/typo*: make some" in output


def test_null_is_nothing_to_draw(command, drawn) -> None:
    write_runs()
    succeeded(command, "figures", "baselines=null", "results=null")
    assert "No results for kodak" in refused(command, "figures", "runs=null", "results=null")


def test_a_part_of_kodak_is_not_compared_with_published_curves(command, drawn) -> None:
    write_runs()
    for path in Path("outputs/train").glob("*/evaluation/*.csv"):
        table = pd.read_csv(path)
        results.write(table[table.image < 3].to_dict("records"), path)
    output = succeeded(command, "figures")
    assert "Published curves are of all 24 images of Kodak, and results here of 3" in output
    assert "published" not in Path("outputs/figures/bd.csv").read_text()
    assert "published=no must be true or false" in refused(command, "figures", "published=no")


def test_curves_of_other_images_and_curves_in_no_figure_are_named(command, drawn) -> None:
    write_runs()
    (path, *_) = sorted(Path("outputs/train").glob("*/evaluation/kodak_native.csv"))
    write_again(path, "x", drop="latent_only", range_low=0.3)
    table = pd.read_csv(path)
    results.write(table[table.image == 1].to_dict("records"), path)
    output = succeeded(command, "figures")
    assert "Not of the same images as the rest" in output
    assert "dtd 0.0 1 0.01 0 0.01-0.0-1 channels 0 native kodak (1 images)" in output
    assert (
        "In no figure of native, but in the tables: ProgDTD hyperprior latent_only 0.3 1" in output
    )


def test_planes_alone_are_drawn_with_a_picture_that_is_exact(command) -> None:
    rows = [
        ROW | {"kind": "planes", "p": p, "bpp": p, "psnr": np.inf if p == 1 else 30 + p}
        for p in (0.1, 0.5, 0.8, 1.0)
    ]
    results.write(rows, Path("outputs/train/r/evaluation/d_native_planes.csv"))
    succeeded(command, "figures", "images=d")
    assert Path("outputs/figures/rate_distortion_native_planes.png").exists()
    assert not Path("outputs/figures/rate_distortion_native.png").exists()


def test_strip_of_one_image(command, drawn, trained, images) -> None:
    write_runs()
    succeeded(command, "figures", f"strip.run={trained}", f"strip.image={images}/b.jpg")
    assert Image.open("outputs/figures/strip_b.jpg").width > 1500
    output = refused(command, "figures", f"strip.run={trained}", "strip.image=nowhere.png")
    assert "nowhere.png cannot be read" in output


def test_effort_seeds_and_runs_can_be_told_apart(command, drawn) -> None:
    """Curves of one lambda and range have markers of their own, and an effort its own figure; runs
    that differ in what no column holds, as a sweep over learning rates does, have their names."""
    write_runs()
    source = Path("outputs/train/0.1-0.0-1/evaluation/kodak_native.csv")
    write_again(source, "seed", seed=1)
    write_again(source, "lr-3e-3")
    for gain, kind in ((1, "channels"), (2, "planes")):
        better = {"psnr": pd.read_csv(source).psnr + gain, "effort": 10, "kind": kind}
        write_again(source, "0.1-0.0-1", f"kodak_native_{kind}.csv", **better)
    assert "In no figure" not in succeeded(command, "figures")
    assert "rate_distortion_native_effort" in drawn
    deltas = pd.read_csv("outputs/figures/bd.csv").groupby(["effort", "kind", "against"])
    gained = deltas.bd_psnr.mean().to_dict()
    assert gained[10, "channels", bd.WITHOUT_EFFORT] == pytest.approx(1)
    assert gained[10, "planes", bd.ITS_CHANNELS] == pytest.approx(1)
    assert (0, "channels", bd.WITHOUT_EFFORT) not in gained
    ours = results.read_means(Path("outputs/figures/results.csv"))
    native = ours[(ours.protocol == "native") & (ours["lambda"] == 0.1) & (ours.range_low == 0)]
    for (suffix, part, _), shown in zip(
        charts.panels(native), {"": 3, "_effort": 3}.items(), strict=True
    ):
        none = curves.progdtd().iloc[:0], ours.iloc[:0], ours.iloc[:0]
        lines = {
            line.get_label(): (line.get_color(), line.get_marker(), str(line.get_linestyle()))
            for line in charts.rate_distortion(part, *none, "").axes[0].lines
        }
        assert len(set(lines.values())) == len(lines)
        assert (suffix, len(lines)) == shown
        assert ("ours without effort" in lines) == (suffix == "_effort")


def test_another_double_tail_drop_stands_beside_that_of_the_project(command, drawn) -> None:
    """It is no control, whatever it is called, and looks like no other curve."""
    write_runs()
    for source in Path("outputs/train").glob("*/evaluation/kodak_native.csv"):
        write_again(source, f"annealed-{source.parents[1].name}", drop="annealed")
    assert "In no figure" not in succeeded(command, "figures", "published=false", "codecs=[]")
    assert set(drawn) == {"rate_distortion_native", "rate_distortion_reference"}
    lines = drawn["rate_distortion_native"].axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == 12


def test_planes_have_panels_for_each_lambda_and_squashed_images_the_published_curves(
    command, drawn
) -> None:
    write_runs()
    for source in Path("outputs/train").glob("*/evaluation/kodak_native.csv"):
        write_again(source, source.parents[1].name, "kodak_native_planes.csv", kind="planes")
    succeeded(command, "figures")
    planes = drawn["rate_distortion_native_planes"]
    assert [axis.get_title() for axis in planes.axes[:3]] == ["λ = 0.01", "λ = 0.1", "λ = 1"]
    highest = [axis.get_xlim()[1] for axis in planes.axes]
    assert highest[:3] == sorted(highest[:3]) == highest[3:]
    named = {
        name: {text.get_text() for text in figure.legends[0].get_texts()}
        for name, figure in drawn.items()
    }
    ours = {"p ∈ [0, 1]", "p ∈ [0.3, 1]", "p ∈ [0, 1], planes", "p ∈ [0.3, 1], planes"}
    assert ours <= named["rate_distortion_native_planes"]
    with_published = {name for name, labels in named.items() if charts.PUBLISHED in labels}
    assert with_published == {"rate_distortion_reference"}


def test_other_runs_and_long_seeds_are_no_kinds_of_one_model(command, drawn) -> None:
    """Planes of one run beside channels of another are named; images may be called a number."""
    write_runs(dataset="2020")
    source = Path("outputs/train/0.1-0.0-1/evaluation/2020_native.csv")
    write_again(source, "finer", kind="planes")
    write_again(source, "a", seed=20240101)
    write_again(source, "b", seed=20240102)
    succeeded(command, "figures", "images=2020")
    ours = results.read_means(Path("outputs/figures/results.csv"))
    native = ours[(ours.protocol == "native") & (ours["lambda"] == 0.1) & (ours.range_low == 0)]
    nothing = ours.iloc[:0]
    figure = charts.rate_distortion(native, curves.progdtd().iloc[:0], nothing, nothing, "")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == 4
    assert [sum(said in label for label in labels) for said in ("20240101", "20240102")] == [1, 1]
    assert [label.split(", ")[-1] for label in labels if "planes" in label] == ["finer"]
    assert any(label.endswith("0.1-0.0-1") for label in labels)


def test_only_runs_that_nothing_else_tells_apart_have_their_names(command, drawn) -> None:
    """And the published curves are those of the lambdas that are drawn."""
    write_runs()
    source = Path("outputs/train/0.1-0.0-1/evaluation/kodak_reference.csv")
    write_again(source, "mine")
    succeeded(command, "figures")
    axis = drawn["rate_distortion_reference"].axes[0]
    labels = {line.get_label() for line in axis.lines}
    assert {label for label in labels if label.endswith(("0.1-0.0-1", "mine"))} == {
        "λ = 0.1, p ∈ [0, 1], 0.1-0.0-1",
        "λ = 0.1, p ∈ [0, 1], mine",
    }
    assert {"λ = 0.1, p ∈ [0.3, 1]", "λ = 1, p ∈ [0, 1]"} <= labels

    def published(*runs: str) -> list:
        succeeded(command, "figures", f"runs=outputs/train/{runs[0]}")
        lines = drawn["rate_distortion_reference"].axes[0].lines
        return [line.get_color() for line in lines if line.get_label() == charts.PUBLISHED]

    assert published("0.1-*") == 2 * [charts.COLOURS[0]]
    assert published("0.01-*") == 2 * [charts.COLOURS[0]]
    write_again(source, "own", **{"lambda": 0.05})
    assert published("own") == 6 * [charts.GREY]


def test_levels_that_not_all_images_have_are_left_out_and_said(command, drawn) -> None:
    write_runs(dataset="mine")
    points = [(i, p) for p, count in ((0.1, 3), (0.2, curves.IMAGES)) for i in range(count)]
    write_codec("JPEG 2000 (prefix)", points, "mine")
    output = succeeded(command, "figures", "images=mine")
    assert "JPEG 2000 (prefix) is left out at p = 0.1, where not all images have a" in output
    table = results.read_means(Path("outputs/figures/results.csv"))
    assert table[table.codec == "JPEG 2000 (prefix)"].p.tolist() == [0.2]


def test_a_panel_is_as_high_as_what_it_shows() -> None:
    published = curves.progdtd().query("`lambda` == 0.01 and range_low == 0")
    ours = pd.DataFrame([ROW | point for point in published.to_dict("records")])
    points = {"JPEG": (0.1, 25.0), "no PSNR": (0.1, np.nan), "lossless": (9.0, 60.0)}
    baselines = pd.DataFrame(
        [
            {"codec": codec, "bpp": bpp + more, "psnr": psnr, "ms_ssim_db": 12.0}
            for codec, (bpp, psnr) in points.items()
            for more in (0, 0.1, 9)
        ]
    )
    nothing = curves.codecs().iloc[:0]
    figure = charts.rate_distortion(ours, curves.progdtd().iloc[:0], baselines, nothing, "")
    psnr = figure.axes[1]
    assert psnr.get_ylim()[0] < ours.psnr.min()
    assert ours.psnr.max() < psnr.get_ylim()[1] < 40
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"JPEG", "no PSNR"} <= shown
    assert "lossless" not in shown


def test_panels_have_what_belongs_together() -> None:
    def drawn(*parts: pd.DataFrame) -> dict:
        table = pd.concat(parts, ignore_index=True)
        return {
            suffix: ({*zip(part["drop"], part.effort, strict=True)}, beside)
            for suffix, part, beside in charts.panels(table)
        }

    dtd, none = ("dtd", 0), ("none", 0)
    assert drawn(rows_of(drop="none")) == {"": ({none}, False)}
    assert drawn(rows_of(protocol="reference")) == {"": ({dtd}, True)}
    assert drawn(rows_of(protocol="reference-all-patches")) == {"": ({dtd}, False)}
    assert drawn(rows_of(), rows_of(drop="none"), rows_of(effort=2)) == {
        "": ({dtd}, False),
        "_effort": ({dtd, ("dtd", 2)}, False),
        "_drops": ({dtd, none}, False),
    }


def test_markers_and_the_order_of_a_legend() -> None:
    theirs = curves.progdtd().query("`lambda` == 0.1")
    none = rows_of().iloc[:0]
    lines = charts.rate_distortion(rows_of(), theirs, none, none, "").axes[0].lines
    drawn = {line.get_marker(): line.get_label() for line in lines[1:]}
    assert drawn == {"s": charts.PUBLISHED, "o": "λ = 0.1, p ∈ [0, 1]"}
    assert (lines[0].get_marker(), lines[0].get_label()) == ("o", charts.PUBLISHED)
    published, others = curves.progdtd().iloc[:0], curves.codecs().iloc[:0]
    jpeg = rows_of().assign(codec="JPEG")
    ours = pd.concat(
        [
            rows_of(**{"lambda": lmbda}, kind=kind)
            for lmbda in (0.1, 1.0)
            for kind in ("channels", "planes")
        ],
        ignore_index=True,
    )
    figure = charts.rate_distortion(ours, published, jpeg, others, "")
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["p ∈ [0, 1]", "p ∈ [0, 1], planes", "JPEG"]
    fitted = pd.concat([rows_of(), rows_of(effort=2)], ignore_index=True)
    figure = charts.rate_distortion(fitted, published, jpeg.iloc[:0], others, "")
    assert {line.get_label(): line.get_marker() for line in figure.axes[0].lines} == {
        "ours without effort": "",
        "λ = 0.1, p ∈ [0, 1], effort 2": "o",
    }
