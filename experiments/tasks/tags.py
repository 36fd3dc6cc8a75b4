"""Which tags does a package of Debian have, by the line that describes it? MiniLM-L6, adapted and from scratch.

python experiments/tasks/tags_data.py
transferlab run experiments/tasks/tags.py
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the study."""
    config = ConfigDict()
    config.source = "minilm-l6"
    config.data = ConfigDict(
        {
            "source": {"train": "results/tasks/tags/train.csv", "test": "results/tasks/tags/test.csv"},
            "text": "description",
            "target": "tags",
            "separator": "|",
        }
    )
    config.budgets = (256,)
    config.seeds = (0, 1, 2)
    config.grid = "full"
    config.workdir = "results/tasks/tags/study"
    config.baselines = ("prior", "tfidf")
    config.train = ConfigDict({"batch_size": 32})

    probe = {"steps": 400, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup": 0.0, "schedule": "cosine"}
    rates = tuple({"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2, 3e-2))
    deep = {"steps": 64, "batch_size": 16}
    config.methods = ConfigDict(
        {
            "probe": {"train": probe, "tune": rates},
            "lora": {"rank": 8, "alpha": 2.0, "train": {"learning_rate": 1e-2, **deep}},
            "scratch": {"head_lr_scale": 10.0, "train": {"learning_rate": 3e-4, **deep}},
        }
    )
    return config
