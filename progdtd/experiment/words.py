"""Words of a command line: those that Hydra cannot read, and how to type a text."""

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from progdtd.errors import UserError
from progdtd.experiment.config import CONF, sentences
from progdtd.machine import steady_streams


def quoted(text: str) -> str:
    """Text in the quotes with which Hydra takes it for nothing else."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def printed(option: str, text: object) -> str:
    """The word that sets an option to text, in the quotes that Hydra and a shell need."""
    text = str(text)
    try:
        plain = parsed(f"{option}={text}").value() == text
    except HydraException:
        plain = False
    word = f"{option}={text if plain else quoted(text)}"
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def parsed(word: str) -> Override:
    """What Hydra reads in a word.

    Raises:
        HydraException: it cannot.
    """
    return OverridesParser.create().parse_override(word)


def check_readable(words: Sequence[str]) -> None:
    """Refuse words of a command line that Hydra cannot read.

    Raises:
        UserError: names the word, such as one whose value begins with a tilde, and how to type it.
    """
    for word in words:
        option, given, value = word.partition("=")
        if not given or option.startswith("-"):
            continue
        try:
            parsed(word)
        except HydraException:
            raise UserError(
                f"{word}: Hydra cannot read this value. If it is text, give it quotes of its own "
                f"within the shell's: {printed(option, value)}"
            ) from None


def command(name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a function of a configuration the command that a file in `conf/` is named after."""

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        task: Any = hydra.main(config_path=CONF, config_name=name, version_base="1.3")(function)

        def main() -> None:
            steady_streams()
            with sentences():
                check_readable(sys.argv[1:])
                task()

        return main

    return decorate
