"""Train a model: `python -m progdtd.train model=hyperprior drop=dtd lambda=0.01`; see `--help`."""

import logging
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from progdtd.errors import UserError
from progdtd.paths import CONF

log = logging.getLogger(__name__)


@hydra.main(config_path=CONF, config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from progdtd.training import train

    try:
        train(cfg)
    except UserError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # Hydra shows only the first, at the end
            log.error("%s", error)
        raise
    except KeyboardInterrupt:
        log.error("Interrupted. The same command resumes at the last checkpoint.")
        sys.exit(130)


if __name__ == "__main__":
    main()
