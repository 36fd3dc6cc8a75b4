"""A config of a small study, as a person writes one."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict()
    config.source = {source!r}
    config.data = {data!r}
    config.test_examples = 40
    config.budgets = (12, 40)
    config.seeds = (0, 1)
    config.baselines = ("majority", "tfidf")
    config.train = ConfigDict({{"batch_size": 8, "epochs": 2, "learning_rate": 1e-2}})
    config.methods = ConfigDict({{
        "probe-random": {{"method": "probe", "weights": "random", "train": {{"steps": 20}}}},
        "probe": {{"train": {{"steps": 20}}, "tune": ({{"learning_rate": 1e-2}}, {{"optimizer": {{"name": "sgd"}}}})}},
        "full": {{"first_seeds": 1, "tune": ({{"learning_rate": 1e-2}}, {{"learning_rate": 1e-3}})}},
        "scratch": {{"largest_budget": 12, "all_labels": True}},
    }})
    return config
"""


def write_config(path: Path, source: Path, data: Path) -> Path:
    """Write the config of a study of this checkpoint on this table."""
    path.write_text(CONFIG.format(source=str(source), data=str(data)))
    return path
