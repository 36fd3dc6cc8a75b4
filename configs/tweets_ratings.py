"""How much does MiniLM-L6 gain on the mean ratings of tweets, from -4 to 4, over the same network from scratch?

transferlab run configs/tweets_ratings.py                           # one setting an arm, at most 60 updates
transferlab run configs/tweets_ratings.py --config.grid=full        # tuned, every arm at every budget × 5 seeds
"""

from ml_collections import ConfigDict


def long(*learning_rates: float) -> tuple[dict[str, float], ...]:
    """Tuning trials of the full grid: also ten epochs, up to 160 updates."""
    return tuple({"learning_rate": rate, "max_steps": 160} for rate in learning_rates)


def get_config() -> ConfigDict:
    """Return the study."""
    config = ConfigDict()
    config.source = "minilm-l6"
    config.data = "tweets-ratings"
    config.task = ConfigDict({"name": "regression", "error": "squared"})
    config.test_examples = 1000
    config.budgets = (16, 64, 256, 1024)
    config.seeds = (0, 1, 2, 3, 4)
    config.grid = "quick"
    config.workdir = ""
    config.baselines = ("mean", "tfidf")
    config.train = ConfigDict({"batch_size": 32})

    probe = {"steps": 400, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup": 0.0, "schedule": "cosine"}
    probe_rates = ({"learning_rate": 1e-2}, {"learning_rate": 3e-3})
    deep = {"epochs": 10, "max_steps": 60}
    few = {"largest_budget": 256, "first_seeds": 3}
    config.methods = ConfigDict(
        {
            "probe-random": {"method": "probe", "weights": "random", "train": probe, "tune": probe_rates, **few},
            "probe": {"train": probe, "tune": probe_rates},
            "lora": {
                "rank": 8,
                "alpha": 16.0,
                "train": {"learning_rate": 3e-3, **deep},
                "tune": long(3e-3, 1e-3),
                **few,
            },
            "full": {
                "train": {"learning_rate": 3e-4, **deep},
                "tune": long(3e-4, 1e-4),
                **few,
            },
            "scratch": {
                "train": {"learning_rate": 3e-4, **deep},
                "tune": long(3e-4, 1e-4),
                "all_labels": True,
                **few,
            },
        }
    )
    return config
