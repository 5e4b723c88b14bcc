"""Tables for people, in Markdown."""

from collections.abc import Iterable, Sequence


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], align: str = "lr", note: str = ""
) -> str:
    """A Markdown table.

    Args:
        header: names of the columns.
        rows: the cells of each line.
        align: `l` or `r` for each column; the last one stands for all that follow.
        note: a paragraph below it.
    """
    sides = align.ljust(len(header), align[-1])[: len(header)]
    rule = f"|{'|'.join('---:' if side == 'r' else '---' for side in sides)}|"
    head, *lines = (f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows))
    text = "\n".join((head, rule, *lines))
    return f"{text}\n\n{note}" if note else text
