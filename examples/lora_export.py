"""LoRA, exported for other libraries: a checkpoint for transformers, an adapter for PEFT.

    python examples/lora_export.py reviews.csv minilm-l6 exported

``AutoModelForSequenceClassification.from_pretrained("exported/merged")`` reads the former, and PEFT the latter.
"""

from __future__ import annotations

import sys
from pathlib import Path

import transferlab as tl
from transferlab.train import Settings


def main(table: str, model: str = "minilm-l6", directory: str = "exported", steps: str = "200") -> None:
    source = tl.load(model)
    settings = Settings(learning_rate=3e-3, steps=int(steps))
    # BERT's classifier in transformers reads the pooler: only a head that does so too can be written for it.
    run = tl.adapt(source, tl.dataset(table), method=tl.methods.LoRA(rank=8, pooling="pooler"), settings=settings)
    result = run.fit()
    print(f"accuracy: {result.test['accuracy']:.3f} with {run.plan.trainable_parameters:,} parameters trained")
    adapted = result.adapted
    assert adapted is not None, "a run of LoRA keeps its adapters"
    adapted.save_adapter(Path(directory) / "adapter")
    tl.save(adapted.merged(), Path(directory) / "merged")
    print(*sorted(str(path) for path in Path(directory).rglob("*.safetensors")), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
