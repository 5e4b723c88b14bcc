"""Train a model: `python -m progdtd.train model=hyperprior drop=dtd lambda=0.01`; see `--help`."""

import hydra
from omegaconf import DictConfig

from progdtd.errors import UserError
from progdtd.paths import CONF


@hydra.main(config_path=CONF, config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from progdtd.training import train

    try:
        train(cfg)
    except KeyboardInterrupt:
        raise UserError("Interrupted. The same command resumes at the last checkpoint.") from None


if __name__ == "__main__":
    main()
