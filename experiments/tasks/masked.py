"""What are pretrained weights worth for hidden words of fortunes?

python experiments/tasks/fortunes.py FOLDER results/fortunes.txt
transferlab run experiments/tasks/masked.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the study."""
    config = ConfigDict()
    config.source = "minilm-l6"
    config.data = "results/fortunes.txt"
    config.task = "masked_language_model"
    config.test_examples = 200
    config.budgets = (60,)
    config.seeds = (0, 1, 2)
    config.workdir = ""
    config.baselines = ("unigram",)
    config.train = ConfigDict({"batch_size": 8, "steps": 60})
    config.methods = ConfigDict(
        {
            "lora": {"rank": 8, "alpha": 16.0, "train": {"learning_rate": 3e-3}},
            "full": {"train": {"learning_rate": 3e-4}},
            "scratch": {"train": {"learning_rate": 3e-4}},
        }
    )
    return config
