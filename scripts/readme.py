"""Sections of the README and of docs/ that scripts write, so that no number there is typed by
hand."""

from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("reference", "controls", "priors")
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "outputs" / name / "README.md" for name in RESULTS),
]


def show(sections: Mapping[str, str], into_pages: bool) -> None:
    """Print the texts of sections and, if asked to, put them into their pages."""
    print(*sections.values(), sep="\n\n")
    if into_pages:
        for section, text in sections.items():
            put(section, text)


def put(section: str, text: str) -> None:
    """Replace what stands between `<!-- section -->` and `<!-- /section -->` in its page."""
    begin, end = f"<!-- {section} -->\n", f"<!-- /{section} -->"
    for page in PAGES:
        before, found, rest = page.read_text().partition(begin)
        _, closed, after = rest.partition(end)
        if found and closed:
            page.write_text(f"{before}{begin}{text.strip()}\n{end}{after}")
            return
    raise SystemExit(f"No page has a section {begin.strip()} ... {end}.")
