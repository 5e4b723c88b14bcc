"""The Hydra launcher behind `launcher=slurm`: submitit's, and what sbatch refuses said plainly."""

from collections.abc import Sequence
from importlib.util import find_spec

from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException

if find_spec("hydra_plugins.hydra_submitit_launcher"):
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

    class Slurm(SlurmLauncher):
        """Runs the jobs of a sweep as a Slurm array."""

        def launch(
            self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
        ) -> Sequence[JobReturn]:
            from submitit.core.utils import FailedJobError

            try:
                return super().launch(job_overrides, initial_job_idx)
            except FailedJobError as error:
                if not str(error).startswith("sbatch:"):
                    raise
                said = f"launcher=slurm: nothing was submitted. {error}"
                raise CompactHydraException(said) from error
