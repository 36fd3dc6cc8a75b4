"""What is frozen is paid for once: the last of six layers and the head, 10 epochs on 1 000 tweets, from raw texts to test.

python experiments/benchmarks/frozen.py [last last-mean]      # needs the extra `parity`

Ours computes each example's features below the trained layer once, within the time measured, in a cache of its own;
the peer is transformers with the other layers frozen, on the same batches and padding, dropout off in what is frozen.
Both classify the first token of a text, in ``last-mean`` the mean of its tokens.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import pairs
from pairs import Work, on_gpu, side, torch_device

LABELS, EPOCHS, BATCH, RATE = 1000, 10, 32, 3e-4


def opened():
    import transferlab as tl

    return tl.load("minilm-l6"), tl.dataset("tweets", examples=LABELS)


def ours(pooling) -> Work:
    import transferlab as tl
    from transferlab.train import Settings
    from transferlab.transfer import Group
    from transferlab.transfer.cache import FrontierCache

    @dataclass(frozen=True)
    class LastLayer(tl.methods.Full):
        def groups(self, stages):
            return (Group("layers/5"), Group("head"))

    source, data = opened()

    def work() -> str:
        precision = "bfloat16" if on_gpu() else "float32"
        settings = Settings(learning_rate=RATE, epochs=EPOCHS, batch_size=BATCH, precision=precision)
        run = tl.adapt(source, data, method=LastLayer(pooling=pooling), settings=settings)
        run.cache = FrontierCache(None)
        return f"accuracy {run.fit().test['accuracy']:.3f}"

    return work


def peer(pooling) -> Work:
    from pathlib import Path

    import numpy as np
    import torch
    from transformers import BertModel

    from transferlab.data.batches import BatchSampler
    from transferlab.data.inputs import inputs_for
    from transferlab.data.text import TextTransform

    device = torch_device()
    source, data = opened()
    assert isinstance(source.transform, TextTransform)
    feed = inputs_for(data.records, source.transform, content=data.content, sha256=data.sha256)
    steps = EPOCHS * -(-LABELS // BATCH)
    order = BatchSampler(data.train, feed.buckets(data.train), BATCH, steps, 0, True)
    model = BertModel.from_pretrained(Path(source.provenance["path"]), add_pooling_layer=False).eval()
    torch.nn.Module.to(model, device)
    called = torch.compile(model) if device == "cuda" else model
    model.requires_grad_(False)
    last = model.encoder.layer[-1].requires_grad_(True)
    pretrained = copy.deepcopy(last.state_dict())

    def work() -> str:
        torch.manual_seed(0)
        last.load_state_dict(pretrained)
        last.train()
        head = torch.nn.Linear(384, 2).to(device)
        moving = [*last.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(moving, lr=RATE, weight_decay=0.01)
        warm = round(0.1 * steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: (step + 1) / warm if step < warm else (steps - step) / (steps - warm)
        )

        def logits(indices, bucket):
            inputs = feed.inputs(indices, bucket, len(indices))
            ids, mask = (torch.tensor(inputs[name]).long().to(device) for name in ("input_ids", "attention_mask"))
            hidden = called(input_ids=ids, attention_mask=mask).last_hidden_state
            if pooling == "first":
                return head(hidden[:, 0])
            return head((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

        for step in range(steps):
            chosen = order[step]
            labels = torch.tensor(data.labels[chosen.indices]).long().to(device)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = torch.nn.functional.cross_entropy(logits(chosen.indices, chosen.bucket), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(moving, 1.0)
            optimizer.step()
            schedule.step()
        last.eval()
        hits, buckets = 0, feed.buckets(data.test)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            for bucket in np.unique(buckets):
                rows = data.test[buckets == bucket]
                for some in (rows[i : i + BATCH] for i in range(0, len(rows), BATCH)):
                    hits += int((logits(some, int(bucket)).argmax(1).cpu().numpy() == data.labels[some]).sum())
        return f"accuracy {hits / len(data.test):.3f}"

    return work


ROWS = {"last": "first", "last-mean": "mean"}
for row, pooling in ROWS.items():
    side(row, "ours")(partial(ours, pooling))
    side(row, "peer")(partial(peer, pooling))


if __name__ == "__main__":
    title = "last of six layers and head, 10 epochs on 1 000 tweets; peer: transformers, the rest frozen"
    pairs.main(__file__, {"last": title, "last-mean": "the same, the mean of the tokens classified"}, repeats=3)
