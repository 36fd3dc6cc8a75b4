"""What scikit-learn reaches on the rows of the study ``tags``.

python experiments/tasks/peer_tags.py                               # needs tags_data.py's files

One against the rest: logistic regressions on tf-idf with C = 10, as our baseline's, by ``OneVsRestClassifier``.
"""

from __future__ import annotations

import numpy as np
from peer import study, texts_of
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.multiclass import OneVsRestClassifier

BUDGETS = (256, 1024, 4000)


def scores(probabilities: np.ndarray, tags: np.ndarray) -> tuple[float, float, float]:
    """F1 micro, F1 macro and average precision."""
    predicted = probabilities >= 0.5
    return (
        float(f1_score(tags, predicted, average="micro")),
        float(f1_score(tags, predicted, average="macro")),
        float(average_precision_score(tags, probabilities, average="macro")),
    )


def main() -> None:
    config = study("tags")
    data = config.data.open(config.test_examples)
    tags, texts = np.asarray(data.target.values), texts_of(data, np.arange(len(data.ids)))
    for budget in BUDGETS:
        rows = []
        for seed in config.seeds:
            train = data.subset(budget, seed).train
            words = TfidfVectorizer().fit([texts[i] for i in train])
            inputs = [words.transform([texts[i] for i in indices]) for indices in (train, data.test)]
            model = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=2000)).fit(inputs[0], tags[train])
            rows.append(scores(model.predict_proba(inputs[1]), tags[data.test]))
        micro, macro, precision = np.mean(rows, 0)
        print(f"{budget:>5} labels: F1 micro {micro:.3f}, macro {macro:.3f}, average precision {precision:.3f}")


if __name__ == "__main__":
    main()
