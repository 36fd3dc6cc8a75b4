"""How much do ImageNet weights (EfficientNet-Lite0) gain on silhouettes of animals over the same network from scratch?

transferlab run configs/animals.py
transferlab run configs/animals.py --config.grid=full
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the study."""
    config = ConfigDict()
    config.source = "efficientnet-lite0"
    config.data = "animals"
    config.image_size = 96
    config.test_examples = 1000
    config.budgets = (10, 100, 1000)
    config.seeds = (0, 1, 2, 3, 4)
    config.grid = "quick"
    config.workdir = ""
    config.baselines = ("majority", "pixels")
    config.train = ConfigDict({"batch_size": 32})

    probe = {"steps": 400, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup": 0.0, "schedule": "cosine"}
    rates = ({"learning_rate": 1e-2}, {"learning_rate": 3e-3})
    deep = {"epochs": 20, "max_steps": 240}
    # From random weights it takes longer until the validation curve is flat.
    longer = {"epochs": 40, "max_steps": 480}
    few = {"largest_budget": 100, "first_seeds": 3}
    config.methods = ConfigDict(
        {
            # The features of every stage, concatenated: on silhouettes they are better than those of the last stage alone.
            "probe-random": {
                "method": "probe",
                "weights": "random",
                "pooling": "stages",
                "train": probe,
                "tune": rates,
                **few,
            },
            "probe": {"pooling": "stages", "train": probe, "tune": rates},
            "probe-last": {"method": "probe", "pooling": "mean", "train": probe, "tune": rates},
            "lora": {
                "rank": 8,
                "targets": "stages/*/*/{expand,project}/kernel",
                "train": {"learning_rate": 3e-3, **deep},
                "tune": ({"learning_rate": 3e-3}, {"learning_rate": 1e-3}),
                **few,
            },
            "full": {
                "train": {"learning_rate": 1e-3, **deep},
                "tune": ({"learning_rate": 1e-3}, {"learning_rate": 3e-4}),
                **few,
            },
            "scratch": {
                "train": {"learning_rate": 1e-3, **longer},
                "tune": ({"learning_rate": 1e-3}, {"learning_rate": 3e-3}),
                "all_labels": True,
                **few,
            },
        }
    )
    return config
