"""Which of two tweets is rated more positive? MiniLM-L6, adapted and from scratch, on pairs.

python experiments/tasks/pairs_data.py
transferlab run experiments/tasks/pairs.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the study."""
    config = ConfigDict()
    config.source = "minilm-l6"
    config.data = ConfigDict(
        {
            "source": {"train": "results/tasks/pairs/train.csv", "test": "results/tasks/pairs/test.csv"},
            "text": ("first", "second"),
            "target": "more_positive",
        }
    )
    config.budgets = (1024,)
    config.seeds = (0, 1, 2)
    config.grid = "full"
    config.workdir = "results/tasks/pairs/study"
    config.baselines = ("majority", "tfidf")
    config.train = ConfigDict({"batch_size": 32})

    probe = {"steps": 400, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup": 0.0, "schedule": "cosine"}
    rates = tuple({"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2, 3e-2))
    deep = {"steps": 64, "batch_size": 16}
    config.methods = ConfigDict(
        {
            "probe": {"train": probe, "tune": rates},
            "lora": {"rank": 8, "alpha": 16.0, "train": {"learning_rate": 3e-3, **deep}},
            "scratch": {"train": {"learning_rate": 3e-4, **deep}},
        }
    )
    return config
