"""The README and docs/: short enough, and true where a test can tell."""

import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("outputs/*/README.md"))]
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead within the project."""
    found = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text()))
    return [link for link in found if "://" not in link]


def anchors(page: Path) -> set[str]:
    """What links to a page's headings end in."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_the_readme_is_read_in_minutes() -> None:
    assert len(README.read_bytes()) <= 10 * 1024
    pictures = [ROOT / link for link in links(README) if link.endswith((".png", ".jpg"))]
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.stat().st_size <= 120_000, picture
        assert picture.suffix == ".jpg" or Image.open(picture).mode == "P", picture


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_there(page) -> None:
    text = page.read_text()
    for module in re.findall(r"python -m (progdtd[\w.]*\w)", text):
        assert importlib.util.find_spec(module), module
    for script in re.findall(r"(?:python|bash) (scripts/[\w/.]*\w)", text):
        assert (ROOT / script).exists(), script
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE):
        assert target in targets, target


def test_the_chart_is_drawn_from_the_table(script) -> None:
    code, output = script("pictures.py", "--to", "drawn")
    assert code == 0, output
    drawn, there = (Image.open(path / "rate_distortion.png") for path in (Path("drawn"), DOCS))
    assert (drawn.mode, drawn.size) == (there.mode, there.size)


def test_every_page_is_one_link_from_the_readme() -> None:
    reached = {(ROOT / link.partition("#")[0]).resolve() for link in links(README)}
    assert {page.resolve() for page in PAGES if page.parent == DOCS} <= reached
