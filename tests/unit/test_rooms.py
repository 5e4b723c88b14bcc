"""The rooms of the package: which of them may use which. Arrows go one way."""

import ast
from pathlib import Path

import pytest

import progdtd

HOUSE = Path(progdtd.__file__).parent

LEAVES = {
    "classical_files",
    "data",
    "download",
    "downsampling_factor",
    "errors",
    "files",
    "images",
    "machine",
    "metrics",
    "options",
    "readers",
    "tail_drop",
}
"""The idea, and what everything uses."""

MAY_USE: dict[str, set[str]] = {
    "wavelet": set(),
    "page": set(),
    "models": {"wavelet"},
    "experiment": set(),
    "codec": {"models", "wavelet", "page"},
    "evaluation": {"codec", "models", "wavelet", "experiment"},
    "training": {"evaluation", "codec", "models", "wavelet", "experiment"},
}
"""What each room may use beside itself and LEAVES. Everything else, which is the commands and the
package's own `__init__`, may use all of it, but no other command."""

FILES = sorted(HOUSE.rglob("*.py"))


def module_of(path: Path) -> str:
    """What a file is imported as."""
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = set(map(module_of, FILES))


def imported(path: Path) -> set[str]:
    """The modules of this package that a file imports, wherever it does: an import within a
    function only waits, and one for types alone still ties this file to that one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively, which is not looked through here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name in MODULES}


def room_of(module: str) -> str:
    """A folder or a file directly in the package; empty for the package itself."""
    return ".".join(module.split(".")[1:2])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_arrows_go_one_way(path) -> None:
    room = room_of(module_of(path))
    above = LEAVES if room in LEAVES else LEAVES | MAY_USE.get(room, set(MAY_USE)) | {room}
    against = {name for name in imported(path) if room_of(name) not in above}
    assert not against, f"{module_of(path)} may not import {', '.join(sorted(against))}"


def test_no_file_needs_itself() -> None:
    """No circle, within a room neither. The package's `__init__` is run before all of its modules
    and needs one of them itself, but what it offers is imported when it is first used."""
    needs = {module_of(path): imported(path) for path in FILES}
    needs[progdtd.__name__] = set()
    while free := {module for module, others in needs.items() if not others & needs.keys()}:
        needs = {module: others for module, others in needs.items() if module not in free}
    while unused := needs.keys() - set().union(*needs.values()):
        needs = {module: others for module, others in needs.items() if module not in unused}
    assert not needs, f"a circle among {', '.join(sorted(needs))}"


def test_every_room_says_what_it_answers_and_which_file_to_read_first() -> None:
    for room in MAY_USE:
        text = ast.get_docstring(ast.parse((HOUSE / room / "__init__.py").read_text()))
        assert text, room
        question, _, rest = text.partition("\n\n")
        assert question.endswith("?"), room
        first = rest.partition("Read `")[2].partition("`")[0]
        assert (HOUSE / room / first).is_file(), room
