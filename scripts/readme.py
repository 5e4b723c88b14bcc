"""Sections of the README and of docs/ that scripts write, so that no number there is typed by
hand."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("reference", "controls", "priors")
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "outputs" / name / "README.md" for name in RESULTS),
]


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
