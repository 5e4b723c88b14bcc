"""Train a model: `python -m progdtd.train model=hyperprior drop=dtd lambda=0.01`; see `--help`."""

import contextlib
import logging
import os
import sys
from pathlib import Path

from progdtd.errors import NOT_INSTALLED, UserError

try:
    import hydra
except ModuleNotFoundError as error:
    sys.exit(NOT_INSTALLED.format(error.name))

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from progdtd.experiment import run, sweep
from progdtd.experiment.check import check, warnings
from progdtd.experiment.config import CONF, sentences
from progdtd.experiment.signals import LAUNCHER, end_with_parent
from progdtd.experiment.words import check_readable
from progdtd.files import WEIGHTS
from progdtd.machine import loading, steady_streams

log = logging.getLogger(__name__)


def main() -> None:
    """The command: one training, or with `-m` a sweep of them that ends in a table."""
    steady_streams()
    try:
        with sentences(), sweep.reported():
            words = sys.argv[1:]
            sweep.check_words(words)
            check_readable(words)
            sys.argv[1:] = sorted(words, key=lambda word: word not in ("-m", "--multirun"))
            task()
    except KeyboardInterrupt:
        log.error("Interrupted. The same command resumes.")
        sys.exit(130)


@hydra.main(config_path=CONF, config_name="train", version_base="1.3")
def task(cfg: DictConfig) -> None:
    """Train as configured; torch is loaded once it is clear that there is something to do."""
    directory = Path(os.path.relpath(HydraConfig.get().runtime.output_dir))
    try:
        if HydraConfig.get().mode == RunMode.RUN and LAUNCHER not in os.environ:
            check(cfg)  # of a sweep it is recorded which run was refused
        if follows():
            follow(cfg, directory)
        else:
            with run.locked(directory):
                lead(cfg, directory)
    except (UserError, OSError) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # Hydra shows only the first, at the end
            log.error("%s", error)
        with contextlib.suppress(OSError):
            directory.rmdir()  # that Hydra made for it, if there is nothing in it
        raise


def lead(cfg: DictConfig, directory: Path) -> None:
    """Train in a locked directory, unless it holds another or a finished run."""
    run.compare(directory, cfg)
    if (directory / WEIGHTS).exists():
        log.info("%s is finished: nothing to do. Delete it to train again.", directory)
        return
    with run.recording(directory):
        check(cfg)
        sweep.check_mode(cfg)
        for message in warnings(cfg):
            log.warning(message)
        with loading():
            from progdtd.training import trainer  # that one refused or skipped need not load

        trainer.train(cfg, directory)


def follow(cfg: DictConfig, directory: Path) -> None:
    """Train as one process of a run that another leads, or end where that one does: it would be
    waited for in vain."""
    end_with_parent()
    logging.getLogger().setLevel(logging.ERROR)
    run.compare(directory, cfg)
    if not (directory / WEIGHTS).exists():
        with loading():
            from progdtd.training import trainer

        check(cfg)
        trainer.train(cfg, directory)


def follows() -> bool:
    """Whether this is a process of a run that another one leads."""
    ranks = map(os.environ.get, ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next(filter(None, ranks), 0)) > 0


if __name__ == "__main__":
    main()
