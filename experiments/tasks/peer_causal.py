"""The model of causal.py before training, and after LoRA, in transformers' LlamaForCausalLM: one document at a time, by its own tokenizer.

python experiments/tasks/peer_causal.py STUDY
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

import transferlab as tl


def scores(source: tl.pretrained.Source, texts: list[str]) -> tuple[float, float]:
    """Perplexity of a token and bits per byte of these texts, by transformers."""
    with tempfile.TemporaryDirectory() as folder:
        tl.save(source, folder)
        model, tokenizer = LlamaForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    nats, tokens = 0.0, 0
    for text in texts:
        # A text begins and ends with the token that ends a text.
        end = [model.config.eos_token_id]
        ids = torch.tensor([end + tokenizer(text, add_special_tokens=False)["input_ids"] + end])
        with torch.no_grad():
            nats += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    return float(np.exp(nats / tokens)), nats / np.log(2) / sum(len(text.encode()) for text in texts)


def main(study: Path) -> None:
    """Print both of the source as it is, and of the run with LoRA that kept its weights."""
    data = tl.dataset("results/fortunes.txt", test_examples=100)
    texts = [data.records[int(i)]["text"] for i in data.test]
    first = next(iter(sorted(study.glob("runs/zero_shot/*/*/record.json"))))
    sides = [("zero-shot", json.loads(first.read_text())["test"], tl.load("smollm2-135m"))]
    for path in sorted(study.glob("runs/lora/*/*/checkpoints")):
        test = json.loads((path.parent / "result.json").read_text())["test"]
        sides.append(("LoRA, seed " + path.parent.name, test, tl.open_run(path.parent).adapted.merged()))
    for name, ours, source in sides:
        perplexity, bits = scores(source, texts)
        print(
            f"{name}: perplexity {ours['perplexity']:.3f} here, {perplexity:.3f} in transformers; "
            f"bits per byte {ours['bits_per_byte']:.4f} and {bits:.4f}"
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Give the directory of the study.")
    main(Path(sys.argv[1]))
