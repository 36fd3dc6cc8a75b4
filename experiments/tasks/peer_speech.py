"""The arm `full` of speech.py in transformers: the same sentences, weights, sub-words and optimizer.

python experiments/tasks/peer_speech.py
"""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, get_linear_schedule_with_warmup

import transferlab as tl
from transferlab.measure import t_interval

BUDGETS, SEEDS, STEPS, ROWS, RATE, LENGTH = (100,), (0, 1, 2), 60, 8, 3e-4, 256


def encoded(tokenizer, records: list[dict], tags: list[str]) -> dict[str, torch.Tensor]:
    """A padded batch; the first sub-word of each word has its tag, all others are ignored."""
    batch = tokenizer(
        [record["words"] for record in records], is_split_into_words=True, truncation=True, max_length=LENGTH,
        padding=True, return_tensors="pt",
    )  # fmt: skip
    labels = torch.full_like(batch["input_ids"], -100)
    for row, record in enumerate(records):
        before = None
        for place, word in enumerate(batch.word_ids(row)):
            if word is not None and word != before:
                labels[row, place] = tags.index(record["word_tags"][word])
            before = word
    assert int((labels >= 0).sum()) == sum(len(record["words"]) for record in records), "a word was cut off"
    return {**batch, "labels": labels}


def accuracy(model, tokenizer, records: list[dict], tags: list[str]) -> float:
    """Fraction of the words whose likeliest tag is right."""
    right = words = 0
    with torch.no_grad():
        for start in range(0, len(records), 32):
            batch = encoded(tokenizer, records[start : start + 32], tags)
            hits = (model(**batch).logits.argmax(-1) == batch["labels"]) & (batch["labels"] >= 0)
            right, words = right + int(hits.sum()), words + int((batch["labels"] >= 0).sum())
    return right / words


def main() -> None:
    """Print the accuracy of each run, and mean and 95 % interval of each budget."""
    data, source = tl.dataset("brown-tags", test_examples=200), tl.load("minilm-l6")
    folder = tempfile.mkdtemp()
    tl.save(source, folder)
    tokenizer, tags = AutoTokenizer.from_pretrained(folder), list(data.target.names)
    test = [data.records[int(i)] for i in data.test]
    for budget in BUDGETS:
        scores = []
        for seed in SEEDS:
            train = [data.records[int(i)] for i in data.subset(budget, seed).train]
            torch.manual_seed(seed)
            model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=len(tags)).train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
            schedule = get_linear_schedule_with_warmup(optimizer, STEPS // 10, STEPS)
            rng, order = np.random.default_rng(seed), np.zeros(0, np.int64)
            for _ in range(STEPS):
                if len(order) < ROWS:
                    order = np.concatenate([order, rng.permutation(len(train))])
                rows, order = order[:ROWS], order[ROWS:]
                model(**encoded(tokenizer, [train[i] for i in rows], tags)).loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            scores.append(accuracy(model.eval(), tokenizer, test, tags))
            print(f"{budget} sentences, seed {seed}: accuracy {scores[-1]:.3f}", flush=True)
        low, high = t_interval(scores)
        print(f"{budget} sentences: accuracy {np.mean(scores):.3f} ±{(high - low) / 2:.3f}", flush=True)


if __name__ == "__main__":
    main()
