import pandas as pd
import pytest
from conftest import ROW

from progdtd.errors import UserError
from progdtd.evaluation import markdown, results


def test_means_are_of_per_image_values_dB_included(tmp_path) -> None:  # noqa: N802
    rows = [
        ROW | {"image": name, "p": p, "bpp": bpp, "psnr": psnr, "ms_ssim_db": psnr / 2}
        for name, p, bpp, psnr in (("a", 0.1, 1, 30), ("b", 0.1, 3, 40), ("a", 0.2, 5, 41))
    ]
    results.write(rows, tmp_path / "deep/er/t.csv")
    table = results.read([tmp_path / "deep/er/t.csv"])
    assert list(table.columns) == results.COLUMNS
    mean = results.aggregate(table)
    assert mean.p.tolist() == [0.1, 0.2]
    assert mean.bpp.tolist() == [2, 5]
    assert mean.psnr.tolist() == [35, 41]
    assert mean.ms_ssim_db.tolist() == [17.5, 20.5]
    assert mean.images.tolist() == [2, 1]


def test_what_some_images_lack_has_no_mean(tmp_path) -> None:
    """MS-SSIM of the larger images alone would stand at the rate of all."""
    rows = [
        ROW | {"image": i, "p": p, "bpp": i, "psnr": 30, "ms_ssim": 0.9 if i > p else None}
        for i in (1, 2)
        for p in (0.5, 1.0)
    ]
    results.write(rows, tmp_path / "t.csv")
    mean = results.aggregate(results.read([tmp_path / "t.csv"]))
    assert mean.bpp.tolist() == [1.5, 1.5]
    assert mean.ms_ssim.fillna(0).tolist() == [0.9, 0]


def test_levels_of_some_images_alone_are_told_from_those_of_all() -> None:
    rows = [
        ROW | {"kind": kind, "image": i, "p": p, "bpp": i}
        for kind in ("channels", "planes")
        for i in (1, 2)
        for p in (0.5, 1.0)
        if i == 1 or p == 1 or kind == "planes"
    ]
    means = results.aggregate(pd.DataFrame(rows).reindex(columns=results.COLUMNS))
    assert means.images.tolist() == [1, 2, 2, 2]
    kept = results.of_all_images(means)
    assert [*zip(kept.kind, kept.p, strict=True)] == [
        ("channels", 1),
        ("planes", 0.5),
        ("planes", 1),
    ]


def test_codecs_without_a_model_are_aggregated_too(tmp_path) -> None:
    rows = [{"codec": "JPEG", "image": i, "p": 0.5, "bpp": i, "psnr": 30} for i in (1, 3)]
    results.write(rows, tmp_path / "t.csv")
    assert results.aggregate(results.read([tmp_path / "t.csv"])).bpp.tolist() == [2]


def test_two_runs_of_one_name_are_not_averaged(tmp_path) -> None:
    for name, lmbda in (("one", 1), ("two", 1.0)):
        row = ROW | {"lambda": lmbda, "image": "a", "p": 0.1, "bpp": 1}
        results.write([row], tmp_path / f"{name}.csv")
    with pytest.raises(UserError, match=r"one.csv and .*two.csv: .* same name"):
        results.read([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert len(results.read([tmp_path / "one.csv", tmp_path / "one.csv"])) == 1


def test_runs_of_one_name_in_two_groups_are_told_apart(tmp_path) -> None:
    row = ROW | {"image": "a", "p": 0.1, "bpp": 1}
    for group in ("reference", "paper"):
        for kind in ("channels", "planes")[: 1 + (group == "paper")]:
            results.write([row | {"kind": kind}], tmp_path / group / f"r/evaluation/{kind}.csv")
    paths = [*sorted(tmp_path.glob("reference/*/*/*")), *sorted(tmp_path.glob("paper/*/*/*"))]
    table = results.read(paths)
    assert table["run"].tolist() == ["r", "paper/r", "paper/r"]


def test_a_run_goes_by_the_directory_that_it_lies_in(tmp_path) -> None:
    results.write([ROW | {"image": "a", "p": 0.1, "bpp": 1}], tmp_path / "old/evaluation/a.csv")
    assert results.read([tmp_path / "old/evaluation/a.csv"])["run"].tolist() == ["old"]


def test_models_are_shown_where_they_were_trained() -> None:
    table = pd.DataFrame(
        [ROW | {"p": p, "range_low": 0.1, "range_high": 0.5} for p in (0.05, 0.1, 0.5, 1.0)]
    )
    assert results.trained(table).p.tolist() == [0.1, 0.5]
    assert len(results.trained(table.assign(kind="planes"))) == 4


def test_names_that_look_like_numbers_are_names(tmp_path) -> None:
    names = ["0.001", "01", "1", "NA", "null"]
    for name in names:
        row = ROW | {"run": name, "image": "7", "p": 0.1, "bpp": 1.0, "psnr": 30.0}
        results.write([row], tmp_path / f"{name}.csv")
    table = results.read(sorted(tmp_path.glob("*.csv")))
    assert sorted(table.run) == names
    assert set(table["image"]) == {"7"}
    results.aggregate(table).to_csv(tmp_path / "means", index=False)
    assert sorted(results.read_means(tmp_path / "means").run) == names


def test_nothing_to_read_is_an_empty_table() -> None:
    assert list(results.read([]).columns) == results.COLUMNS
    assert results.aggregate(results.read([])).empty


def test_foreign_files_are_named(tmp_path) -> None:
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "other.csv")
    (tmp_path / "empty.csv").touch()
    for name, why in (("other.csv", "not found.*codec"), ("empty.csv", "No columns")):
        with pytest.raises(UserError, match=rf"{name}.*{why}"):
            results.read([tmp_path / name])


def test_tables_edited_by_hand_are_named(tmp_path) -> None:
    rows = [ROW | {"image": "a", "p": p, "bpp": 1.0, "psnr": 30.0} for p in (0.1, 0.2)]
    path = tmp_path / "t.csv"
    for name, value in (("psnr", "n/a"), ("p", "10%"), ("seed", "x")):
        results.write([rows[0] | {name: value}, rows[1]], path)
        with pytest.raises(UserError, match=rf"t.csv is not a results table.*{value}"):
            results.read([path])
    results.write([*rows, rows[0]], path)
    with pytest.raises(UserError, match=r"t.csv: several rows are of one image and level"):
        results.read([path])
    results.write([rows[0] | {"psnr": "nan"}, rows[1]], path)
    assert results.aggregate(results.read([path])).psnr.fillna(0).tolist() == [0, 30]


def test_a_table_for_people_has_a_side_for_each_column() -> None:
    text = markdown.table(("λ", "range", "a", "b"), [(0.1, "[0, 1]", "", 3)], "rlr")
    assert text == "| λ | range | a | b |\n|---:|---|---:|---:|\n| 0.1 | [0, 1] |  | 3 |"
