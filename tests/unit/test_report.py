from pathlib import Path

import pandas as pd
import pytest
from conftest import refused, succeeded

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "outputs/reference"


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    """What the script reads, of the project's own results."""
    return {name: pd.read_csv(PUBLISHED / name) for name in ("results.csv", "bd.csv")}


def printed(script, tables: dict[str, pd.DataFrame], *more: str) -> str:
    for name, table in tables.items():
        table.to_csv(name, index=False)
    return succeeded(script, "report.py", ".", *more)


def test_every_table_of_the_pages_is_what_the_script_prints(script) -> None:
    more = (PUBLISHED.with_name("controls"), PUBLISHED.with_name("priors"))
    output = succeeded(script, "report.py", PUBLISHED, "--controls", more[0], "--priors", more[1])
    pages = (ROOT / "README.md", ROOT / "docs/results.md", PUBLISHED / "README.md")
    pages += tuple(folder / "README.md" for folder in more)
    text_of_all = "".join(page.read_text() for page in pages)
    for section in (
        "summary",
        "results",
        "others",
        "groups",
        "overhead",
        "effort",
        "drops",
        "priors",
    ):
        text = text_of_all.partition(f"<!-- {section} -->")[2].partition(f"<!-- /{section} -->")[0]
        assert text.strip(), section
        assert text.strip() in output


def test_models_without_planes_have_tables_too(script, tables) -> None:
    channels = {name: table[table.kind != "planes"] for name, table in tables.items()}
    controls = pd.read_csv(PUBLISHED.with_name("controls") / "results.csv")
    Path("controls").mkdir()
    controls[controls.kind != "planes"].to_csv("controls/results.csv", index=False)
    output = printed(script, channels, "--controls", "controls")
    assert "dB more, and in MS-SSIM" not in output
    assert "planes with effort have" not in output
    assert "| effort | p = 1 without |" in output


def test_a_folder_without_tables_is_named(script, tables) -> None:
    tables["results.csv"].to_csv("results.csv", index=False)
    for folder, missing in (("nowhere", "nowhere/results.csv"), (".", "bd.csv")):
        assert missing in refused(script, "report.py", folder)


def test_two_seeds_are_refused(script, tables) -> None:
    more = {name: table.assign(seed=1, run="other") for name, table in tables.items()}
    for name in tables:
        pd.concat([tables[name], more[name]]).to_csv(name, index=False)
    assert "one line for each lambda, range and drop" in refused(script, "report.py", ".")


def test_two_efforts_have_two_lines(script, tables) -> None:
    more = {name: table[table.effort == 10].assign(effort=20) for name, table in tables.items()}
    output = printed(script, {name: pd.concat([tables[name], more[name]]) for name in tables})
    lines = [line.split(" | ") for line in output.splitlines()]
    steps = [line[2] for line in lines if line[:2] == ["| 0.01", "[0, 1]"] and len(line) == 8]
    assert steps == ["10", "20"]


def test_values_are_interpolated_in_the_logarithm_of_the_rate(script, tables) -> None:
    table = tables["results.csv"]
    ends = table[table.codec == "WebP"].iloc[:2].copy()
    ends[["bpp", "psnr", "ms_ssim_db"]] = [[0.05, 20.0, 5.0], [0.2, 30.0, 10.0]]
    tables["results.csv"] = pd.concat([table[table.codec != "WebP"], ends])
    lines = printed(script, tables).splitlines()
    assert "| WebP | 25.00, 7.50 |  |  |  |" in lines
    assert "| WebP, a file for each rate | 25.00 |  |  |  |" in lines
