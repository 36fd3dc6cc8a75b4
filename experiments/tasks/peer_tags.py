"""What scikit-learn and transformers reach on the rows of the study ``tags``.

python experiments/tasks/peer_tags.py [linear]                      # needs the extra `parity`, and tags_data.py's files

- One against the rest: logistic regressions (C = 10, as our baseline's) on tf-idf, ``OneVsRestClassifier``.
- Fine-tuning: :mod:`torch_side` with ``problem_type="multi_label_classification"``, at the study's budgets; not with ``linear``.
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.multiclass import OneVsRestClassifier
from torch_side import fine_tuned, study, texts_of

BUDGETS = (256, 1024, 4000)


def scores(probabilities: np.ndarray, tags: np.ndarray) -> tuple[float, float, float]:
    """F1 micro, F1 macro and average precision."""
    predicted = probabilities >= 0.5
    return (
        float(f1_score(tags, predicted, average="micro", zero_division=0)),
        float(f1_score(tags, predicted, average="macro", zero_division=0)),
        float(average_precision_score(tags, probabilities, average="macro")),
    )


def main() -> None:
    config = study("tags")
    data = config.data.open(config.test_examples)
    tags, texts = np.asarray(data.target.values), texts_of(data, np.arange(len(data.ids)))
    for budget in BUDGETS:
        rows: dict[str, list[tuple[float, float, float]]] = {"scikit-learn, tf-idf": [], "transformers, full": []}
        for seed in config.seeds:
            train = data.subset(budget, seed).train
            words = TfidfVectorizer().fit([texts[i] for i in train])
            inputs = [words.transform([texts[i] for i in rows_]) for rows_ in (train, data.test)]
            model = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=2000)).fit(inputs[0], tags[train])
            rows["scikit-learn, tf-idf"].append(scores(model.predict_proba(inputs[1]), tags[data.test]))
            if budget not in config.budgets or "linear" in sys.argv:
                continue
            logits = fine_tuned(
                [texts[i] for i in train], tags[train].astype(np.float32), [texts[i] for i in data.test],
                outputs=tags.shape[1], problem="multi_label_classification", arm=config.methods["full"], seed=seed,
            )  # fmt: skip
            rows["transformers, full"].append(scores(1 / (1 + np.exp(-logits)), tags[data.test]))
        for name, values in rows.items():
            if values:
                micro, macro, precision = np.mean(values, 0)
                print(
                    f"{budget:>5} labels, {name}: F1 micro {micro:.3f}, macro {macro:.3f}, average precision {precision:.3f}"
                )


if __name__ == "__main__":
    main()
