"""transferlab: start a model from what another has learned, see what was transferred, measure what it gained.

    import transferlab as tl

    source = tl.load("minilm-l6")
    data = tl.dataset("tweets", examples=64, seed=0)
    run = tl.adapt(source, data, method=tl.methods.LoRA(rank=8))
    print(run.plan)
    result = run.fit()

Names are imported when they are first used, so ``import transferlab`` (and ``transferlab --help``) does not load jax.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_FACE = {
    "Derived": "transferlab.transfer.derived",
    "Group": "transferlab.transfer.groups",
    "Optimizer": "transferlab.train.optimizers",
    "adapt": "transferlab.train.run",
    "dataset": "transferlab.data.dataset",
    "define": "transferlab.trees",
    "edit": "transferlab.methods.editing",
    "extract_features": "transferlab.transfer.features",
    "fit_together": "transferlab.train.fit",
    "from_tree": "transferlab.pretrained.network_source",
    "function_network": "transferlab.models.foreign.network",
    "generate": "transferlab.evaluate.generation",
    "graft": "transferlab.transfer.grafting",
    "inspect_checkpoint": "transferlab.pretrained.inspection",
    "labels": "transferlab.selectors",
    "linen_network": "transferlab.models.foreign.network",
    "load": "transferlab.pretrained.loading",
    "load_adapter": "transferlab.methods.adapted",
    "merge": "transferlab.methods.editing",
    "network": "transferlab.models.foreign.network",
    "open_run": "transferlab.train.predictor",
    "run_study": "transferlab.studies.study",
    "select": "transferlab.selectors",
    "stage": "transferlab.models.foreign.stages",
    "train_step": "transferlab.train.step",
    "zero_shot_classifier": "transferlab.evaluate.zero_shot",
    "save": "transferlab.pretrained.writing",
}
_FOLDERS = ("data", "evaluate", "measure", "methods", "models", "pretrained", "studies", "tasks", "train", "transfer")

__all__ = [
    "Derived",
    "Group",
    "Optimizer",
    "TransferlabError",
    "__version__",
    "adapt",
    "data",
    "dataset",
    "define",
    "edit",
    "evaluate",
    "extract_features",
    "fit_together",
    "from_tree",
    "function_network",
    "generate",
    "graft",
    "inspect_checkpoint",
    "labels",
    "linen_network",
    "load",
    "load_adapter",
    "measure",
    "merge",
    "methods",
    "models",
    "network",
    "open_run",
    "pretrained",
    "run_study",
    "save",
    "select",
    "stage",
    "studies",
    "tasks",
    "train",
    "train_step",
    "transfer",
    "zero_shot_classifier",
]

if TYPE_CHECKING:
    from transferlab import data, evaluate, measure, methods, models, pretrained, studies, tasks, train, transfer
    from transferlab.data.dataset import dataset
    from transferlab.errors import TransferlabError
    from transferlab.evaluate.generation import generate
    from transferlab.evaluate.zero_shot import zero_shot_classifier
    from transferlab.methods.adapted import load_adapter
    from transferlab.methods.editing import edit, merge
    from transferlab.models.foreign import function_network, linen_network, network, stage
    from transferlab.pretrained.inspection import inspect_checkpoint
    from transferlab.pretrained.loading import load
    from transferlab.pretrained.network_source import from_tree
    from transferlab.pretrained.writing import save
    from transferlab.selectors import labels, select
    from transferlab.studies.study import run_study
    from transferlab.train.fit import fit_together
    from transferlab.train.optimizers import Optimizer
    from transferlab.train.predictor import open_run
    from transferlab.train.run import adapt
    from transferlab.train.step import train_step
    from transferlab.transfer.derived import Derived
    from transferlab.transfer.features import extract_features
    from transferlab.transfer.grafting import graft
    from transferlab.transfer.groups import Group
    from transferlab.trees import define


def __getattr__(name: str) -> Any:
    if name == "TransferlabError":
        from transferlab.errors import TransferlabError

        return TransferlabError
    if name in _FACE:
        return getattr(importlib.import_module(_FACE[name]), name)
    if name in _FOLDERS:
        return importlib.import_module(f"transferlab.{name}")
    if importlib.util.find_spec(f"transferlab.{name}") is not None:
        # Import itself asks first, and goes on where there is no attribute.
        raise AttributeError(f"module 'transferlab' has no attribute '{name}'; import it as transferlab.{name}")
    from transferlab.errors import no_attribute

    if not name.startswith("_"):
        for folder in _FOLDERS:
            if name in getattr(importlib.import_module(f"transferlab.{folder}"), "__all__", ()):
                raise AttributeError(f"module 'transferlab' has no attribute '{name}'; it is tl.{folder}.{name}")
    raise no_attribute(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted(__all__)
