import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

from progdtd import results

ROOT = Path(__file__).parents[2]


@pytest.fixture
def report(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("report", ROOT / "scripts/report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables_of(report, command, capfd, monkeypatch, levels: pd.DataFrame) -> str:
    """What the script prints of results, drawn before by `progdtd.figures`."""
    levels.to_csv("means.csv", index=False)
    assert command("figures", "results=means.csv", "out=drawn")[0] == 0
    monkeypatch.setattr(sys, "argv", ["report.py", "drawn"])
    report.main()
    return "".join(capfd.readouterr())


@pytest.fixture
def own() -> pd.DataFrame:
    return results.read_means(ROOT / "outputs/reference/results.csv")


def test_every_table_of_the_readme_is_what_the_script_prints(
    report, own, command, capfd, monkeypatch
) -> None:
    printed = tables_of(report, command, capfd, monkeypatch, own)
    readme = (ROOT / "README.md").read_text()
    for section in ("results", "others", "groups", "effort"):
        text = readme.partition(f"<!-- {section} -->")[2].partition(f"<!-- /{section} -->")[0]
        assert text.strip() in printed


def test_models_without_planes_have_tables_too(report, own, command, capfd, monkeypatch) -> None:
    printed = tables_of(
        report, command, capfd, monkeypatch, own[own.codec.map(results.kind) != "planes"]
    )
    assert "planes are ahead" not in printed
    assert "+0.05 dB |  |" in printed


def test_two_efforts_have_two_lines(report, own, command, capfd, monkeypatch) -> None:
    fitted = own[own.codec == "ProgDTD, effort 10"]
    printed = tables_of(
        report, command, capfd, monkeypatch,
        pd.concat([own, fitted.assign(codec="ProgDTD, effort 20")]),
    )  # fmt: skip
    lines = [line.split(" | ") for line in printed.splitlines()]
    steps = [line[2] for line in lines if line[:2] == ["| 0.01", "[0, 1]"] and len(line) == 8]
    assert steps == ["10", "20"]
