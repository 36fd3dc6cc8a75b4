"""The weights that masked.py kept, in transformers' BertForMaskedLM: the same hidden tokens, the same loss?

python experiments/tasks/peer_masked.py STUDY
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from transformers import BertForMaskedLM

import transferlab as tl
from transferlab.data.batches import evaluation_order


def entropy(folder: str, data: tl.data.Dataset, run: tl.train.Predictor) -> float:
    """Cross-entropy in nats of the hidden tokens of the test split, by transformers."""
    model = BertForMaskedLM.from_pretrained(folder).eval()
    feed = run.task.inputs(data.records, run.transform, content=data.content)
    rows, total, tokens = feed.rows_of(data.test), 0.0, 0
    for batch in evaluation_order(rows, feed.buckets(rows), 8):
        made = feed.inputs(batch.indices, batch.bucket, 8), run.task.collate({}, feed, batch, 8)
        hidden = jax.device_get(run.task.evaluation(*jax.tree.map(jax.numpy.asarray, made)))
        row, place = np.nonzero(hidden["labels"] >= 0)
        labels = np.full(hidden["input_ids"].shape, -100, np.int64)
        labels[row, hidden["selected"][row, place]] = hidden["labels"][row, place]
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: torch.tensor(hidden[name].astype(np.int64)) for name in names if name in hidden}
        with torch.no_grad():
            total += float(model(**inputs, labels=torch.tensor(labels)).loss) * len(row)
        tokens += len(row)
    return total / tokens


def main(study: Path) -> None:
    """Print both of each arm's run that kept its weights."""
    data = tl.dataset("results/fortunes.txt", test_examples=200)
    for path in sorted(study.glob("runs/*/*/*/checkpoints")):
        run, ours = tl.open_run(path.parent), json.loads((path.parent / "result.json").read_text())["test"]
        with tempfile.TemporaryDirectory() as folder:
            tl.save(run.adapted.merged(), folder)
            theirs = entropy(folder, data, run)
        arm, budget, seed = path.parts[-4:-1]
        print(
            f"{arm}, {budget} texts, seed {seed}: cross-entropy {ours['cross_entropy']:.6f} here, {theirs:.6f} in transformers, "
            f"perplexity {ours['perplexity']:.1f} and {np.exp(theirs):.1f}"
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Give the directory of the study.")
    main(Path(sys.argv[1]))
