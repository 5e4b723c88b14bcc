"""Words of a command line: read as they are meant, and printed so that they can be typed."""

import functools
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from progdtd.errors import UserError
from progdtd.experiment.config import CONF, no_option, sentences
from progdtd.machine import steady_streams

TEXT = {
    "run_name",
    "group",
    "init_from",
    "dataset.root",
    "run",
    "images",
    "out",
    "baselines",
    "results",
    "strip.run",
    "strip.image",
}
"""Options that are names and paths, of which Hydra would make numbers where it can."""


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


def understood(words: Sequence[str]) -> list[str]:
    """Words of a command line as Hydra is to get them: names that look like numbers have quotes.

    Raises:
        UserError: Hydra could not read its value, such as one that begins with a tilde, or could
            not go over its values.
    """
    others = any(word.startswith("hydra/sweeper=") for word in words)  # which take intervals
    return [_understood(word, others) for word in words]


def _understood(word: str, intervals: bool) -> str:
    option, given, value = word.partition("=")
    if not given or option.startswith("-"):
        return word
    try:
        read = parsed(word)
    except HydraException:
        raise UserError(
            f"{word}: Hydra cannot read this value. If it is text, give it quotes of its own "
            f"within the shell's: {printed(option, value)}"
        ) from None
    if read.is_sweep_override() and not (read.is_discrete_sweep() or intervals):
        raise UserError(f"{word}: a sweep needs the values to go over, as {option}=1,2,3.")
    if option.lstrip("+") not in TEXT:
        return word
    pieces = value.split(",") if read.is_choice_sweep() else [value]
    return f"{option}={','.join(map(_as_text, pieces))}"


def _as_text(value: str) -> str:
    """A value in quotes if Hydra would make a number or a truth value of it."""
    try:
        number = isinstance(parsed(f"x={value}").value(), int | float)
    except HydraException:  # a piece of something that only together can be read
        return value
    return quoted(value.strip()) if number else value


def command(name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a function of a configuration the command that a file in `conf/` is named after."""

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def checked(cfg: DictConfig) -> None:
            known = [*map(str, OmegaConf.load(Path(CONF, f"{name}.yaml")))]
            for key in map(str, cfg):
                if key not in known:
                    raise UserError(no_option(key, known))
            function(cfg)

        task: Any = hydra.main(config_path=CONF, config_name=name, version_base="1.3")(checked)

        def main() -> None:
            steady_streams()
            with sentences():
                sys.argv[1:] = understood(sys.argv[1:])
                task()

        return main

    return decorate
