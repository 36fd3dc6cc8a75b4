"""From your own table to a score: texts with labels in a CSV file, a pretrained encoder, a linear probe.

    python examples/own_table.py reviews.csv              # columns text and label
    python examples/own_table.py reviews.csv minilm-l6 runs/reviews

Prints what will be trained, then the score on held-out texts, and the model's predictions for two new texts.
"""

from __future__ import annotations

import sys

import transferlab as tl


def main(table: str, model: str = "minilm-l6", directory: str = "runs/own_table") -> None:
    source = tl.load(model)
    data = tl.dataset(table)
    run = tl.adapt(source, data, method=tl.methods.Probe(), directory=directory)
    print(run.plan)
    result = run.fit()
    print(f"accuracy on {len(data.test)} held-out texts: {result.test['accuracy']:.3f}")
    # Later, in any process: only the run's directory is needed.
    predictor = tl.open_run(directory)
    texts = ["What a wonderful day", "I am so tired of this"]
    for text, probabilities in zip(texts, predictor(texts), strict=True):
        print(f"{predictor.labels[probabilities.argmax()]}\t{text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
