"""CompressAI's networks, without all else that `import compressai` brings.

Python runs the `__init__` of a package before any module in it, and that of CompressAI imports data
sets and models of point clouds, with torch_geometric, torchvision, pandas and torch._dynamo: twice
the time that PyTorch itself takes, in every command. Here the packages that bring them wait. The
networks are imported from CompressAI's own files under their own names; as soon as anybody asks one
of the waiting packages for what is not there yet, all of them run, as if they had been imported
just then. So `import compressai` means the same after this file as before it, and the classes are
the same. Who imports CompressAI first has it whole, and nothing waits.

The same goes for scipy.stats, of which CompressAI takes one function for tables that this project
makes itself.
"""

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

PACKAGES = (
    "datasets",
    "latent_codecs",
    "losses",
    "models",
    "optimizers",
    "registry",
    "transforms",
    "zoo",
)
"""Of CompressAI, all but those that the networks need as a whole."""

LOCK = threading.RLock()
"""Taken by whoever runs modules that waited."""


class Waiting(ModuleType):
    """A module that runs when it is first asked for something that it does not have, and after it
    those of the same package that wait, too."""

    running = 0
    """How many modules run, or are imported by themselves: what they need runs alone."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # as imports ask, and who only looks around
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet")
        with LOCK:
            self.run()
            if not Waiting.running:
                package = self.__name__.partition(".")[0]
                for other in [m for m in sys.modules.values() if type(m) is Waiting]:
                    if other.__name__.partition(".")[0] == package:
                        other.run()
            return ModuleType.__getattribute__(self, name)

    def run(self) -> None:
        """Run the module's own file, unless that has begun."""
        if type(self) is Waiting and "__began__" not in vars(self):
            vars(self)["__began__"] = True
            Waiting.running += 1
            try:
                self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
            finally:
                Waiting.running -= 1
                self.__class__ = ModuleType  # type: ignore[assignment]


def wait(spec: ModuleSpec | None) -> ModuleType:
    """Put a module where imports find it, and let it wait."""
    assert spec
    module = sys.modules[spec.name] = module_from_spec(spec)
    module.__class__ = Waiting
    return module


@contextlib.contextmanager
def parts_of_compressai() -> Iterator[None]:
    """Import here modules of CompressAI by themselves."""
    if "compressai" in sys.modules:
        yield
        return
    root = find_spec("compressai")
    assert root
    inside = root.submodule_search_locations
    waiting = {name: wait(PathFinder.find_spec(f"compressai.{name}", inside)) for name in PACKAGES}
    if "scipy.stats" not in sys.modules:
        wait(find_spec("scipy.stats"))
    registry = importlib.import_module("compressai.registry.torch")
    public = {name: value for name, value in vars(registry).items() if name[0] != "_"}
    vars(waiting["registry"]).update(public)
    Waiting.running += 1
    yield
    Waiting.running -= 1
    for name in public:  # who asks for one wants to find all that is registered
        delattr(waiting["registry"], name)


with parts_of_compressai():
    from compressai.layers import GDN
    from compressai.models.google import MeanScaleHyperprior, ScaleHyperprior
    from compressai.models.utils import remap_old_keys
    from compressai.ops import quantize_ste
    from compressai.zoo.pretrained import load_pretrained

__all__ = [
    "GDN",
    "MeanScaleHyperprior",
    "ScaleHyperprior",
    "load_pretrained",
    "quantize_ste",
    "remap_old_keys",
]
