"""Ridge regression of scikit-learn on features of a frozen MiniLM-L6 in transformers, on the rows of the study ``ratings``.

python experiments/tasks/peer_ratings.py                            # needs the extra `parity`

The features are means over the tokens: of the last layer's states, or of the embeddings and all six layers side by side. The penalty is
chosen by leaving each training example out.
"""

from __future__ import annotations

import numpy as np
import torch
from peer import minilm, study, texts_of
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

BUDGETS = (64, 256, 1024, 1200)


def features(texts: list[str]) -> np.ndarray:
    """(texts, 7, 384): means over tokens of the embeddings and of each layer."""
    folder, longest = minilm()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    out = np.zeros((len(texts), 7, 384), np.float32)
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    with torch.no_grad():
        for start in range(0, len(texts), 64):
            rows = by_length[start : start + 64]
            batch = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            states = torch.stack(model(**batch, output_hidden_states=True).hidden_states, 1)
            mask = batch["attention_mask"][:, None, :, None]
            out[rows] = ((states * mask).sum(2) / mask.sum(2)).numpy()
    return out


def main() -> None:
    config = study("ratings")
    data = config.data.open(config.test_examples)
    texts, ratings = texts_of(data, np.arange(len(data.ids))), data.target.values.reshape(-1)
    states = features(texts)
    penalties = np.logspace(-3, 5, 17)
    rows = {
        "tf-idf": None,
        "last layer": states[:, -1],
        "all layers": states.reshape(len(texts), -1),
    }
    print("features   | " + " | ".join(f"{budget:>4} labels: RMSE, Spearman" for budget in BUDGETS))
    for name, table in rows.items():
        cells = []
        for budget in BUDGETS:
            scores = []
            for seed in config.seeds:
                train = data.subset(budget, seed).train
                if table is None:
                    words = TfidfVectorizer().fit([texts[i] for i in train])
                    inputs = [words.transform([texts[i] for i in rows]) for rows in (train, data.test)]
                    model = RidgeCV(penalties)
                else:
                    inputs = [table[train], table[data.test]]
                    model = make_pipeline(StandardScaler(), RidgeCV(penalties))
                predicted = model.fit(inputs[0], ratings[train]).predict(inputs[1])
                error = np.sqrt(np.mean((predicted - ratings[data.test]) ** 2))
                scores.append((error, spearmanr(predicted, ratings[data.test])[0]))
            cells.append("{:>18.2f}, {:.3f}".format(*np.mean(scores, 0)))
        print(f"{name:<10} | " + " | ".join(cells))


if __name__ == "__main__":
    main()
