"""The probes and baselines of the study ``ratings`` at 1,024 labels.

transferlab run experiments/tasks/ratings_probes.py
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the study."""
    config = runpy.run_path(str(Path(__file__).with_name("ratings.py")))["get_config"]()
    config.budgets = (1024,)
    config.workdir = "results/tasks/ratings/probes"
    config.methods = ConfigDict({name: arm for name, arm in config.methods.items() if name.startswith("probe")})
    return config
