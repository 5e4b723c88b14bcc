import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import TINY, composed, refused, succeeded
from PIL import Image

from progdtd import Codec, ProgDTD, data
from progdtd.evaluation import bd, evaluator, protocols, subjects
from progdtd.evaluation.results import COLUMNS
from progdtd.evaluation.subjects import warn_of_no_levels
from progdtd.experiment import run
from progdtd.images import pictures
from progdtd.models import weights
from progdtd.tail_drop import TailDrop


def test_evaluates_a_run_with_both_protocols(command, trained, images) -> None:
    (images / "broken.png").write_text("no image")
    output = succeeded(command, "evaluate", f"run={trained.parent}/*", f"images={images}")
    assert "Skipped" in output
    assert "broken.png" in output
    for protocol in ("native", "reference", "reference-all-patches"):
        table = pd.read_csv(trained / f"evaluation/images_{protocol}.csv")
        assert list(table.columns) == COLUMNS
        assert len(table) == 5 * 16
        assert set(table.protocol) == {protocol}
        assert set(table.model) == {"hyperprior"}
        for _, image in table.groupby("image"):
            assert image.bpp.is_monotonic_increasing
            assert image.latent_channels.tolist() == sorted(image.latent_channels)
        assert table.bytes.notna().all() == (protocol == "native")
        assert table.bytes.notna().any() == (protocol == "native")
    native = pd.read_csv(trained / "evaluation/images_native.csv")
    real_bpp = native.bytes * 8 / (native.width * native.height)
    assert native.bpp.tolist() == pytest.approx(real_bpp.tolist())
    sizes = {
        path.relative_to(images).with_suffix("").as_posix(): Image.open(path).size
        for path in images.rglob("*.*")
        if path.stem in "abcde"
    }
    assert {row.image: (row.width, row.height) for row in native.itertuples()} == sizes


def test_planes_stand_beside_channels(command, drawn, trained, images) -> None:
    arguments = (f"run={trained}", f"images={images}", "protocols=[native]")
    succeeded(
        command, "evaluate", *arguments, "kinds=[channels,planes,channels]", "levels=[0.3,1.0]"
    )
    tables = [
        pd.read_csv(trained / f"evaluation/images_native{kind}.csv") for kind in ("", "_planes")
    ]
    assert [set(table.kind) for table in tables] == [{"channels"}, {"planes"}]
    assert [len(table) for table in tables] == [10, 10]
    whole = [table[table.p == 1].psnr.tolist() for table in tables]
    assert whole[0] == whole[1]
    succeeded(command, "figures", f"runs={trained}", "images=images")
    assert bd.ITS_CHANNELS in set(pd.read_csv("outputs/figures/bd.csv").against)
    assert "No kind of level mine" in refused(command, "evaluate", *arguments, "kinds=[mine]")


def test_effort_stands_beside_none(command, drawn, trained, images) -> None:
    arguments = (f"run={trained}", f"images={images}", "levels=[0.3,1.0]")
    succeeded(command, "evaluate", *arguments)
    succeeded(command, "evaluate", *arguments, "effort=1", "kinds=[channels,planes]")
    kinds = {"native": "channels", "native_planes": "planes", "reference": "channels"}
    for table, kind in kinds.items():
        rows = pd.read_csv(trained / f"evaluation/images_{table}_effort-1.csv")
        assert (set(rows.kind), set(rows.effort), len(rows)) == ({kind}, {1}, 10)
        assert set(rows.run) == {trained.name}
    succeeded(command, "figures", f"runs={trained}", "images=images")
    assert "rate_distortion_native_effort" in drawn
    assert bd.WITHOUT_EFFORT in set(pd.read_csv("outputs/figures/bd.csv").against)


def test_every_level_is_decoded(script, trained, images) -> None:
    output = succeeded(script, "every_level.py", trained, "--images", images)
    row = next(line for line in output.splitlines() if line.startswith("| 0.1 | [0, 1] |"))
    fewest, most, smallest = re.match(r".*\| (\d+) to (\d+) \| (\d+) to ", row).groups()
    assert 2 <= int(fewest) <= int(most)
    assert int(smallest) > 0
    assert "all levels of 5 images" in output
    codec = Codec.load(trained)
    read = [picture for _, picture in pictures(data.folder(images))]
    planes, one = (
        sum(len(codec.encode(picture, levels)) for picture in read) for levels in ("planes", [1.0])
    )
    over_one, over_compressai = map(float, re.findall(r"([-+][\d.]+) %", row))
    assert over_one == pytest.approx(100 * (planes / one - 1), abs=0.01)
    assert over_one - 30 < over_compressai < over_one + 60
    assert "nowhere" in refused(script, "every_level.py", "nowhere", "--images", images)


def test_compressai_reads_the_json(command, trained, images) -> None:
    succeeded(command, "evaluate", f"run={trained}", f"images={images}", "protocols=[native]")
    from compressai.utils.plot.__main__ import parse_json_file

    path = trained / "evaluation/images_native.json"
    for metric in ("psnr", "ms-ssim"):
        curve = parse_json_file(path, metric)
        assert len(curve["xs"]) == len(curve["ys"]) == 16
    means = pd.read_csv(path.with_suffix(".csv")).groupby("p").psnr.mean()
    assert json.loads(path.read_text())["results"]["psnr-rgb"] == pytest.approx(means.tolist())


def test_names_that_are_no_text_and_levels_given_twice(command, trained, images) -> None:
    os.rename(os.fsencode(images / "a.png"), os.path.join(os.fsencode(images), b"caf\xe9.png"))
    arguments = (f"run={trained}", f"images={images}", "protocols=native", "levels=[0.5,0.5,1.0]")
    succeeded(command, "evaluate", *arguments)
    path = trained / "evaluation/images_native.json"
    assert "caf\N{REPLACEMENT CHARACTER}" in set(pd.read_csv(path.with_suffix(".csv")).image)
    assert len(json.loads(path.read_text())["results"]["bpp"]) == 2


@pytest.mark.parametrize(
    ("levels", "bounds", "said"),
    [
        ([0.1, 0.5, 1.0], (0.3, 1.0), "levels=0.1: not within the range of p, [0.3, 1.0]."),
        ([0.1, 0.9], (0.0, 0.6), "levels=0.9: not within the range of p, [0.0, 0.6]."),
        ([0.3, 1.0], (0.3, 1.0), ""),
    ],
)
def test_levels_that_are_none_of_the_models_are_named(caplog, levels, bounds, said) -> None:
    warn_of_no_levels(levels, TailDrop(latent=True, hyper=True, range=bounds))
    assert bool(said) == bool(caplog.records)
    assert said in caplog.text


def test_held_out_images_are_those_not_trained_on(command, trained) -> None:
    arguments = (f"run={trained}", "images=held_out", "protocols=[native]", "levels=[0.5]")
    succeeded(command, "evaluate", *arguments)
    table = pd.read_csv(trained / "evaluation/photos-held-out_native.csv")
    assert set(table.image) == {"coffee", "rocket"}
    (trained / "run.json").unlink()  # as a released model has none
    assert "does not say which images it held out" in refused(command, "evaluate", *arguments)


def test_what_a_table_lacks_is_said(command, trained, images) -> None:
    """Images that cannot be read, images too small for MS-SSIM, and what it held before."""
    Image.new("RGB", (40, 30)).save(images / "small.png")
    arguments = (f"run={trained}", f"images={images}", "protocols=native")
    output = succeeded(command, "evaluate", *arguments, "levels=[0.5,1.0]")
    assert "1 images have no MS-SSIM" in output
    curve = json.loads((trained / "evaluation/images_native.json").read_text())["results"]
    assert set(curve) == {"p", "bpp", "psnr-rgb"}, "not an MS-SSIM of other images than the rate"
    assert "is kept as" not in output
    (images / "a.png").write_bytes(b"no image")
    output = succeeded(command, "evaluate", *arguments, "levels=1.0")
    assert "a.png: " in output
    assert "had other images or levels, and is kept as" in output
    succeeded(command, "evaluate", *arguments, "levels=0.5")  # other points, not fewer
    before = [pd.read_csv(trained / f"evaluation/images_native.csv.before-{n}") for n in (1, 2)]
    images_at = [table.groupby("p").image.nunique().to_dict() for table in before]
    assert images_at == [{0.5: 6, 1: 6}, {1: 5}], "hours of work may be in either"


def test_results_of_another_folder_of_the_name_are_kept(command, trained, images, tmp_path) -> None:
    other = tmp_path / "elsewhere/images"
    other.mkdir(parents=True)
    Image.open(images / "a.png").crop((0, 0, 48, 48)).save(other / "a.png")
    arguments = (f"run={trained}", "protocols=native", "levels=1.0")
    for folder, said in ((images, False), (images, False), (other, True)):
        code, output = command("evaluate", *arguments, f"images={folder}")
        assert (code, "had other images or levels" in output) == (0, said), output
    before = pd.read_csv(trained / "evaluation/images_native.csv.before-1")
    assert len(before) == 5


def test_where_nothing_can_be_written_nothing_is_measured(
    command, trained, images, monkeypatch
) -> None:
    (trained / "evaluation").touch()
    monkeypatch.setattr(evaluator, "measure", None)
    output = refused(command, "evaluate", f"run={trained}", f"images={images}")
    assert "No results can be written to" in output


def test_results_of_earlier_weights_are_named(command, drawn, trained, images) -> None:
    arguments = ("protocols=reference", "levels=[0.5,1.0]")
    succeeded(command, "evaluate", f"run={trained}", f"images={images}", *arguments)
    drawing = ("figures", f"runs={trained}", "images=images")
    said = "images_reference.csv is of other weights than those of its run now"
    assert said not in succeeded(command, *drawing)
    loaded = weights.load_model(trained)
    with torch.no_grad():
        loaded.model.g_s[0].bias += 1
    weights.save_weights(trained / "weights.safetensors", loaded.model, loaded.meta)
    assert said in succeeded(command, *drawing)
    (trained / "weights.safetensors").rename(trained / "last.pt")
    assert "is of a run that is not finished" in succeeded(command, *drawing)
    (trained / "last.pt").unlink()  # as where results are kept without weights
    assert "is of a run that is not finished" not in succeeded(command, *drawing)


def test_an_interrupted_evaluation_goes_on_where_it_was(
    command, trained, images, monkeypatch
) -> None:
    shutil.copytree(trained, "undisturbed")
    arguments = (f"images={images}", "levels=[0.5,1.0]", "effort=1")
    succeeded(command, "evaluate", "run=undisturbed", *arguments)
    native, seen = protocols.native, []

    def interrupted(codec, picture, *rest, **options):
        seen.append(picture)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return native(codec, picture, *rest, **options)

    monkeypatch.setattr(protocols, "native", interrupted)
    output = refused(command, "evaluate", f"run={trained}", *arguments)
    assert "Interrupted: the same command goes on" in output
    (unfinished,) = trained.glob("evaluation/*")
    kept = unfinished.read_text()
    unfinished.write_text(f"{kept}{kept[:-9]}")  # the last line cut, as by a full disk
    of_another = unfinished.with_name(unfinished.name.replace("-", "-0"))
    of_another.write_text(kept)
    code, output = command("evaluate", f"run={trained}", *arguments)
    assert (code, "2 of 5 images were measured before" in output) == (0, True), output
    assert len(seen) == 3 + 3
    assert not unfinished.exists()
    assert of_another.read_text() == kept
    for path in sorted(Path("undisturbed/evaluation").glob("*.csv")):
        expected, table = (
            pd.read_csv(one).drop(columns=["run", "encode_s", "decode_s"])
            for one in (path, trained / "evaluation" / path.name)
        )
        pd.testing.assert_frame_equal(table, expected, check_exact=True)
    seen.clear()
    for other in ("effort=2", "effort=1"):  # rows of another effort are measured anew
        seen[:] = [None] if other == "effort=2" else [None] * 9
        code, output = command("evaluate", f"run={trained}", *arguments[:2], other)
        assert code == (other == "effort=2"), output
        assert "were measured before" not in output


def test_what_was_evaluated_is_not_again(command, trained, images, monkeypatch) -> None:
    native, seen = protocols.native, []
    monkeypatch.setattr(protocols, "native", lambda *a, **o: seen.append(1) or native(*a, **o))
    arguments = (f"run={trained}", f"images={images}", "levels=[1.0]")
    table = trained / "evaluation/images_native.csv"
    broken = images / "broken.png"
    for change, measured in (
        (lambda: None, 5),
        (lambda: None, 0),
        (lambda: (trained / "evaluation/images_reference.csv").unlink(), 5),
        (lambda: (images / "a.png").unlink(), 4),
        (lambda: broken.write_text("broken"), 4),
        (lambda: None, 4),  # an image that could not be read may be there now
    ):
        change()
        seen.clear()
        output = succeeded(command, "evaluate", *arguments)
        assert len(seen) == measured
        assert ("was evaluated so before" in output) == (not measured)
        assert table.exists()
    succeeded(command, "evaluate", *arguments[:2], "levels=[0.5]")
    assert set(pd.read_csv(table).p) == {0.5}


def test_an_interrupted_evaluation_is_of_its_weights_and_levels(images, monkeypatch) -> None:
    cfg, seen = composed("experiment=smoke", *TINY), []
    meta = {"model": dict(cfg.model), "drop": {"latent": True, "hyper": True}, "lambda": 0.1}
    file = Path("run/weights.safetensors")

    def interrupted(ways, paths, levels, title, unfinished):
        seen.append(unfinished.exists())
        unfinished.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluator, "measure", interrupted)
    first = {"seed": 0, "protocols": ["native"], "levels": [1.0], "kinds": ["channels"], "code": 1}
    others = {"seed": 1, "protocols": ["reference"], "levels": [0.5], "kinds": ["planes"]}
    others |= {"code": 2}
    for change in ({}, {}, *({name: other} for name, other in others.items())):
        now = first | change
        torch.manual_seed(now.pop("seed"))
        weights.save_weights(file, weights.build_model(cfg.model), meta)
        facts = {"code": now.pop("code"), "host": len(seen), "cores": len(seen)}
        monkeypatch.setattr(run, "provenance", partial(dict, facts))
        chosen = subjects.Choices(device="cpu", effort=0, **now)
        with pytest.raises(KeyboardInterrupt):
            evaluator.evaluate(file, str(images), chosen)
    assert seen == [False, True] + 5 * [False]


def test_a_single_rate_model_has_the_whole_range() -> None:
    drop = TailDrop(latent=False, hyper=False, range=(0.3, 1.0))
    made = subjects.identity(weights.Loaded(None, drop, {"model": {"name": "m"}}))
    assert (made["codec"], made["range_low"], made["range_high"]) == ("single-rate", 1.0, 1.0)


def test_a_glob_finds_the_runs_among_what_else_is_there(command, trained, images) -> None:
    for name in ("sweep.json", "multirun.yaml", "a.png"):
        shutil.copy(images / "a.png", trained.with_name(name))
    shutil.copy(trained / "last.pt", trained.with_name("z"))
    arguments = (f"images={images}", "protocols=[native]", "levels=[1.0]")
    trained.with_name("failed").mkdir()
    trained.with_name("failed").joinpath("run.json").write_text("{}")
    output = succeeded(command, "evaluate", f"run={trained.parent}/*", *arguments)
    assert f"Without weights, and left out: {trained.with_name('failed')}" in output
    assert (trained / "evaluation/images_native.csv").exists()
    assert len(list(Path("outputs/weights").iterdir())) == 1
    output = refused(command, "evaluate", f"run={trained.parent}/*.png", *arguments)
    assert "and files that hold no weights" in output
    output = refused(command, "evaluate", f"run={trained.parent}/sweep.json", *arguments)
    assert "not a readable checkpoint" in output


def test_a_run_that_cannot_be_evaluated_costs_the_others_nothing(command, trained, images) -> None:
    broken = shutil.copytree(trained, trained.with_name("broken"))
    (broken / "weights.safetensors").write_bytes(b"cut off")
    stray = trained.with_name("a-folder")
    stray.mkdir()
    shutil.copy(trained / "last.pt", stray / "stray.pt")
    arguments = (f"images={images}", "protocols=native", "levels=1.0")
    output = refused(command, "evaluate", f"run={trained.parent}/*", *arguments)
    assert f"1 of 2 could not be evaluated: {broken}" in output
    assert (trained / "evaluation/images_native.csv").exists()


def test_weights_of_one_name_have_results_of_their_own(command, trained, images) -> None:
    for name in ("a", "b"):
        Path(name).mkdir()
        shutil.copy(trained / "weights.safetensors", f"{name}/m.safetensors")
    Path("elsewhere").mkdir()
    shutil.copytree("a", "elsewhere/a")
    arguments = (f"images={images}", "protocols=native", "levels=1")
    for model in ("[a/m.safetensors,b/m.safetensors]", "elsewhere/a/m.safetensors"):
        succeeded(command, "evaluate", f"run={model}", *arguments)
    found = sorted(Path("outputs/weights").glob("*/evaluation/images_native.csv"))
    assert [path.parts[2].rpartition("_")[0] for path in found] == ["a_m", "a_m", "b_m"]


def test_a_run_has_its_name_also_from_within(command, trained, images, monkeypatch) -> None:
    monkeypatch.chdir(trained)
    succeeded(command, "evaluate", "run=.", f"images={images}", "protocols=native", "levels=1")
    assert set(pd.read_csv("evaluation/images_native.csv").run) == {trained.name}


def test_a_model_that_cannot_code_images_has_a_way(command, trained, images) -> None:
    model = weights.load_model(trained).model
    with torch.no_grad():
        model.g_s[0].bias[0] = float("inf")
    meta = weights.load_model(trained).meta
    weights.save_weights(Path("w/infinite.safetensors"), model, meta)
    arguments = ("run=w/infinite.safetensors", f"images={images}", "levels=1.0")
    output = refused(command, "evaluate", *arguments)
    assert "cannot code images" in output
    assert "protocols=reference estimates bits" in output
    succeeded(command, "evaluate", *arguments, "protocols=reference")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run=nowhere"], "run=nowhere matches nothing"),
        (["run=empty"], "without weights"),
        ([], "Which run?"),
        (["run=RUN", "images=images", "levels=2"], "p=2 is not within"),
        (["run=RUN", "images=images", "protocols=[mine]"], "No protocol mine"),
        (["run=RUN", "images=images", "protocols=mine"], "No protocol mine"),
        (["run=w.pt", "images=images"], "not a readable checkpoint"),
        (["run=RUN", "images=nowhere"], "nowhere is no directory"),
        (["run=RUN", "images=images", "levels=[1.5]"], "p=1.5 is not within"),
        (["run=RUN"], "download_kodak.py"),
        (["run=2024"], "run=2024 matches only directories without weights"),
        (["run=RUN", "images=null"], "None is no directory"),
        (["run=RUN", "images=images", "device=null"], "device"),
        (["run=RUN", "images=images", "effort=-1"], "effort=-1 is not a number of steps"),
        (["run=RUN", "images=images", "effort=much"], "effort='much' is not a number of steps"),
        (["run=RUN", "images=images", "levels=[true]"], "p=True is not within"),
        (["run=RUN", "protocols=reference", "kinds=planes"], "by protocols=native alone"),
        (["run=RUN", "images=images", "device=gpu"], "device=gpu cannot be used here"),
        (["run=RUN", "protocol=native"], "Did you mean protocols?"),
    ],
)
def test_bad_input_gets_one_clear_message(command, trained, images, arguments, said) -> None:
    Path("empty").mkdir()
    Path("2024").mkdir()
    Path("w.pt").write_text("no weights")
    output = refused(command, "evaluate", *(a.replace("RUN", str(trained)) for a in arguments))
    assert said in output


def test_a_line_that_was_cut_costs_no_other(tmp_path) -> None:
    path = tmp_path / "u.jsonl"
    path.write_text('\n["a", [{"p": 1}]]\n["cut", [{\n["b", [{"p": 2}]]')
    assert evaluator.measured_before(path) == {"a": [{"p": 1}], "b": [{"p": 2}]}


def test_folders_of_images_may_have_brackets(command, trained, images) -> None:
    images.rename("pics[1]")
    evaluate = ("evaluate", f"run={trained}", "images='pics[1]'", "protocols=native", "levels=1")
    for again in (False, True):
        code, output = command(*evaluate)
        assert (code, "was evaluated so before" in output) == (0, again), output
    succeeded(command, "figures", f"runs={trained}", "images='pics[1]'")
    trained.rename("run [2]")
    succeeded(command, "evaluate", "run='run [2]'", *evaluate[2:])
    succeeded(command, "figures", "runs='run [2]'", "images='pics[1]'")
    assert "finished" in succeeded(command, "status", "--once", "run [2]")
    assert len(ProgDTD("run [2]", 1.0, 0.1, "pics[1]/a.png")) == 4
