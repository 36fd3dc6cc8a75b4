"""How much does MiniLM-L6 gain on the mean ratings of tweets, from -4 to 4, over the same network from scratch?

transferlab run experiments/tasks/ratings.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the study."""
    config = ConfigDict()
    config.source = "minilm-l6"
    config.data = "tweets-ratings"
    config.task = ConfigDict({"name": "regression", "error": "squared"})
    config.test_examples = 600
    config.budgets = (256,)
    config.seeds = (0, 1, 2)
    config.grid = "full"  # The probes are tuned; the other arms have one setting, that of configs/tweets.py.
    config.workdir = "results/tasks/ratings/study"
    config.baselines = ("mean", "tfidf")
    config.train = ConfigDict({"batch_size": 32})

    probe = {"steps": 400, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup": 0.0, "schedule": "cosine"}
    rates = tuple({"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2, 3e-2))
    deep = {"steps": 48, "batch_size": 16}
    config.methods = ConfigDict(
        {
            "probe-random": {"method": "probe", "weights": "random", "train": probe, "tune": rates},
            "probe": {"train": probe, "tune": rates},
            "probe-stages": {"method": "probe", "pooling": "stages", "train": probe, "tune": rates},
            "lora": {"rank": 8, "alpha": 16.0, "train": {"learning_rate": 3e-3, **deep}},
            "scratch": {"train": {"learning_rate": 3e-4, **deep}},
        }
    )
    return config
