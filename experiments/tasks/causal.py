"""What are pretrained weights worth for continuing fortunes?

python experiments/tasks/fortunes.py FOLDER results/fortunes.txt
transferlab run experiments/tasks/causal.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the study."""
    config = ConfigDict()
    config.source = "smollm2-135m"
    config.data = "results/fortunes.txt"
    config.task = ConfigDict({"name": "causal_language_model", "length": 64})
    config.test_examples = 100
    config.budgets = (120,)
    config.seeds = (0, 1)
    config.workdir = ""
    config.baselines = ("ngram", "zero_shot")
    config.train = ConfigDict({"batch_size": 4, "steps": 16})
    config.methods = ConfigDict(
        {
            "lora": {"rank": 8, "alpha": 16.0, "train": {"learning_rate": 1e-3}},
            "scratch": {"train": {"learning_rate": 3e-4}},
        }
    )
    return config
