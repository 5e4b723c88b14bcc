"""Sections of the README that scripts write, so that no number in it is typed by hand."""

from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def put(section: str, text: str) -> None:
    """Replace what stands between `<!-- section -->` and `<!-- /section -->` in the README."""
    begin, end = f"<!-- {section} -->\n", f"<!-- /{section} -->"
    before, found, rest = README.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{README} has no section {begin.strip()} ... {end}.")
    README.write_text(f"{before}{begin}{text.strip()}\n{end}{after}")
