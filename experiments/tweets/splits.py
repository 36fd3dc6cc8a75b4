"""How far does a probe's accuracy on tweets depend on the split? Scikit-learn's logistic regression on frozen features.

python experiments/tweets/splits.py
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

import transferlab as tl
from transferlab.train.fit import prepare

BUDGETS, SPLITS, SEEDS = (16, 64, 256, 1024), 10, 3


def features(source: tl.pretrained.Source) -> dict[str, np.ndarray]:
    """Mean-pooled features by the example's id, which is the same in every split."""
    data = tl.dataset("tweets")
    run = tl.adapt(source, data, method=tl.methods.Probe())
    member, _ = prepare(run, {})
    indices = np.concatenate([data.train, data.test])
    assert member.key is not None
    table = run.cache.rows(member.key, indices, 0, len(indices), ())["pooled"]
    return {data.ids[i]: row for i, row in zip(indices, table, strict=True)}


def main() -> None:
    """Print a line per split, then mean and standard deviation over splits."""
    known = features(tl.load("minilm-l6"))
    means = np.zeros((SPLITS, len(BUDGETS)))
    for split in range(SPLITS):
        data = tl.dataset("tweets", split_seed=split)
        test = np.stack([known[data.ids[i]] for i in data.test])
        for column, budget in enumerate(BUDGETS):
            scores = []
            for seed in range(SEEDS):
                subset = data.subset(budget, seed)
                train = np.stack([known[subset.ids[i]] for i in subset.train])
                model = LogisticRegression(max_iter=3000).fit(train, subset.labels[subset.train])
                scores.append(model.score(test, data.labels[data.test]))
            means[split, column] = np.mean(scores)
        print(split, np.round(means[split], 3))
    for budget, mean, deviation in zip(BUDGETS, means.mean(0), means.std(0), strict=True):
        print(f"{budget:>5} labels: {mean:.3f}, standard deviation over splits {deviation:.3f}")


if __name__ == "__main__":
    main()
