"""One update of MiniLM-L6 on 32 texts of 64 tokens, dropout on: full fine-tuning against transformers, LoRA against peft.

python experiments/benchmarks/steps.py [full lora …]      # needs the extra `parity` and, for LoRA, peft
"""

from __future__ import annotations

import pairs
from pairs import Work, side

ROWS, LENGTH = 32, 64


def batch(length: int = LENGTH):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(1000, 20000, (ROWS, length)), rng.integers(0, 2, ROWS)


def ours(method) -> Work:
    import jax
    import numpy as np

    import transferlab as tl
    from transferlab.train import Settings
    from transferlab.train.fit import prepare

    run = tl.adapt(tl.load("minilm-l6"), tl.dataset("tweets", examples=64), method=method, settings=Settings())
    member, state = prepare(run, {})
    ids, labels = batch()
    inputs = {"input_ids": ids.astype(np.int32), "attention_mask": np.ones_like(ids, np.int32)}
    inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    made = jax.device_put({"carry": inputs, "label": labels.astype(np.int32), "weight": np.ones(ROWS, np.float32)})
    hyper = run.hyper()

    def work() -> None:
        nonlocal state
        state, metrics = run.program.step(state, member.frozen, made, hyper)
        jax.block_until_ready((state, metrics))

    return work


def peer(adapt) -> Work:
    from pathlib import Path

    import torch
    from transformers import BertForSequenceClassification

    import transferlab as tl

    torch.set_num_threads(2)
    folder = Path(tl.load("minilm-l6").origin["path"])
    model = adapt(BertForSequenceClassification.from_pretrained(folder, num_labels=2)).train()
    ids, labels = (torch.tensor(x) for x in batch())
    mask = torch.ones_like(ids)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=3e-4, weight_decay=0.01)

    def work() -> None:
        optimizer.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()

    return work


@side("full", "ours")
def full_ours() -> Work:
    import transferlab as tl

    return ours(tl.methods.Full())


@side("full", "peer")
def full_peer() -> Work:
    return peer(lambda model: model)


@side("lora", "ours")
def lora_ours() -> Work:
    import transferlab as tl

    return ours(tl.methods.LoRA(rank=8, alpha=16.0))


@side("lora", "peer")
def lora_peer() -> Work:
    def adapt(model):
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], modules_to_save=["classifier"])
        return get_peft_model(model, config)

    return peer(adapt)


if __name__ == "__main__":
    pairs.main(
        __file__,
        {
            "full": "full fine-tuning step, MiniLM-L6, 32 × 64 tokens, dropout on; peer: transformers",
            "lora": "LoRA step, rank 8 on query and value, same; peer: peft",
        },
    )
