"""What are pretrained weights worth for parts of speech, of Brown's sentences?

transferlab run experiments/tasks/speech.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the study."""
    config = ConfigDict()
    config.source = "minilm-l6"
    config.data = "brown-tags"
    config.task = "token_labels"
    config.test_examples = 200
    config.budgets = (100,)
    config.seeds = (0, 1, 2)
    config.workdir = ""
    config.baselines = ("majority", "frequent_tag")
    config.train = ConfigDict({"batch_size": 8, "steps": 60})
    config.methods = ConfigDict(
        {
            "probe": {"train": {"steps": 200, "learning_rate": 1e-2, "weight_decay": 0.0, "schedule": "cosine"}},
            "lora": {"rank": 8, "alpha": 16.0, "train": {"learning_rate": 3e-3}},
            "full": {"train": {"learning_rate": 3e-4}},
            "scratch": {"train": {"learning_rate": 3e-4}},
        }
    )
    return config
