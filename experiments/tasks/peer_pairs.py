"""What scikit-learn reaches on the rows of the study ``pairs``.

python experiments/tasks/peer_pairs.py                              # needs the extra `parity`, and pairs_data.py's files

Logistic regression on the difference of the two texts' features, from words (tf-idf) or from a frozen MiniLM-L6 in transformers. It is told
what the study's arms have to find out: that both texts are read alike, and that swapping them swaps the answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from peer import study, texts_of
from peer_ratings import features
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV


def main() -> None:
    config = study("pairs")
    data = config.data.open(config.test_examples)
    labels = data.labels
    pairs = texts_of(data, np.arange(len(data.ids)))
    states = features([text for pair in pairs for text in pair])[:, -1].reshape(len(pairs), 2, -1)
    for budget in config.budgets:
        scores: dict[str, list[float]] = {}
        for seed in config.seeds:
            train = data.subset(budget, seed).train
            words = TfidfVectorizer().fit([text for i in train for text in pairs[i]])
            first, second = (csr_matrix(words.transform([pair[side] for pair in pairs])) for side in (0, 1))
            words_apart: Any = first - second
            of_words = LogisticRegression(C=10.0, fit_intercept=False).fit(words_apart[train], labels[train])
            states_apart = states[:, 0] - states[:, 1]
            linear = LogisticRegression(fit_intercept=False, max_iter=2000)
            of_states = GridSearchCV(linear, {"C": np.logspace(-4, 2, 7)}).fit(states_apart[train], labels[train])
            for name, model, inputs in (
                ("difference of tf-idf", of_words, words_apart),
                ("difference of frozen states", of_states, states_apart),
            ):
                scores.setdefault(name, []).append(
                    float(np.mean(model.predict(inputs[data.test]) == labels[data.test]))
                )
            print(budget, seed, {name: round(values[-1], 3) for name, values in scores.items()}, flush=True)
        for name, values in scores.items():
            print(f"{budget:>5} pairs, {name}: accuracy {np.mean(values):.3f}")


if __name__ == "__main__":
    main()
