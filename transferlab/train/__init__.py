"""Training: settings, the compiled step, the loop, checkpoints, and opening a finished run."""

from typing import TYPE_CHECKING

from transferlab.errors import face_of
from transferlab.train.evaluation import Evaluation, evaluate_run
from transferlab.train.interrupt import Interrupted
from transferlab.train.optimizers import Optimizer
from transferlab.train.predictor import Predictor, open_run
from transferlab.train.result import Diverged, Result
from transferlab.train.run import Run, adapt
from transferlab.train.settings import Settings
from transferlab.train.setup import Seeds

__all__ = [
    "Diverged",
    "Evaluation",
    "Interrupted",
    "Optimizer",
    "Predictor",
    "Result",
    "Run",
    "Seeds",
    "Settings",
    "adapt",
    "evaluate_run",
    "open_run",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_of(__name__, __all__)
