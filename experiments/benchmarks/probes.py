"""A sweep of linear probes: 30 pairs of learning rate and decay × 5 seeds × 10 epochs on 1 000 tweets.

python experiments/benchmarks/probes.py [sweep given]     # needs the extra `parity`

The seeds draw initialisation and order. ``sweep`` is a cold process: interpreter, compilation and the feature pass count.
Its peer is a loop with a frozen transformers encoder, timed on one run of the 150 and multiplied. ``given`` starts from features in memory; its peer is
scikit-learn's logistic regression at 30 strengths of its penalty, 5 times each.
"""

from __future__ import annotations

import pairs
from pairs import Work, on_gpu, side, torch_device

LABELS, EPOCHS, SEEDS, BATCH = 1000, 10, 5, 32
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
DECAYS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)


def runs(source, data):
    import transferlab as tl
    from transferlab.train import Settings

    chosen = data.subset(LABELS, 0)
    precision = "bfloat16" if on_gpu() else "float32"
    return [
        tl.adapt(
            source, chosen, method=tl.methods.Probe(), seed=seed,
            settings=Settings(
                learning_rate=rate, weight_decay=decay, epochs=EPOCHS, batch_size=BATCH, schedule="cosine", warmup=0.0,
                precision=precision,
            ),
        )
        for seed in range(SEEDS)
        for rate in RATES
        for decay in DECAYS
    ]  # fmt: skip


def best(results) -> str:
    """Accuracy of the best pair, mean over seeds: that both sides solve the same task is part of the answer."""
    import numpy as np

    table = np.array([result.test["accuracy"] for result in results]).reshape(SEEDS, -1)
    return f"accuracy {table.mean(0).max():.3f}"


@side("sweep", "ours", cold=True)
def sweep_ours() -> Work:
    def work() -> str:
        import transferlab as tl
        from transferlab.train.fit import fit_together
        from transferlab.transfer.cache import FrontierCache

        made = runs(tl.load("minilm-l6"), tl.dataset("tweets"))
        nothing = FrontierCache(None)
        for run in made:
            run.cache = nothing
        return best(fit_together(made))

    return work


@side("sweep", "peer")
def sweep_peer() -> Work:
    from pathlib import Path

    import numpy as np
    import torch
    from transformers import BertModel

    import transferlab as tl
    from transferlab.data.batches import BatchSampler
    from transferlab.data.inputs import inputs_for
    from transferlab.data.text import TextTransform

    device = torch_device()
    source, data = tl.load("minilm-l6"), tl.dataset("tweets").subset(LABELS, 0)
    encoder = BertModel.from_pretrained(Path(source.provenance["path"]), add_pooling_layer=False).eval()
    torch.nn.Module.to(encoder, device)
    called = torch.compile(encoder) if device == "cuda" else encoder
    assert isinstance(source.transform, TextTransform)
    feed = inputs_for(data.records, source.transform, content=data.content, sha256=data.sha256)
    steps = EPOCHS * -(-LABELS // BATCH)
    order = BatchSampler(data.train, feed.buckets(data.train), BATCH, steps, 0, True)

    def features(indices, bucket):
        inputs = feed.inputs(indices, bucket, len(indices))
        ids, mask = (torch.tensor(inputs[name]).long().to(device) for name in ("input_ids", "attention_mask"))
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            hidden = called(input_ids=ids, attention_mask=mask).last_hidden_state
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def work() -> str:
        torch.manual_seed(0)
        head = torch.nn.Linear(384, 2).to(device)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            chosen = order[step]
            loss = torch.nn.functional.cross_entropy(
                head(features(chosen.indices, chosen.bucket)),
                torch.tensor(data.labels[chosen.indices]).long().to(device),
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        buckets = feed.buckets(data.test)
        hits = 0
        with torch.no_grad():
            for bucket in np.unique(buckets):
                rows = data.test[buckets == bucket]
                for i in range(0, len(rows), BATCH):
                    some = rows[i : i + BATCH]
                    hits += int((head(features(some, int(bucket))).argmax(1).cpu().numpy() == data.labels[some]).sum())
        return f"accuracy {hits / len(data.test):.3f}, one run of 150"

    return work


def features():
    import numpy as np

    import transferlab as tl
    from transferlab.train.fit import prepare

    source, data = tl.load("minilm-l6"), tl.dataset("tweets")
    run = runs(source, data)[0]
    member, _ = prepare(run, {})
    key = member.key
    assert key is not None, "the features are kept"
    indices = np.sort(np.concatenate([run.data.train, run.data.test]))
    table = run.cache.rows(key, indices, 0, len(indices), ())["pooled"]
    return source, data, indices, table.astype(np.float32)


@side("given", "ours")
def given_ours() -> Work:
    from transferlab.train.fit import fit_together

    source, data, _, _ = features()

    def work() -> str:
        return best(fit_together(runs(source, data)))

    return work


@side("given", "peer")
def given_peer() -> Work:
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    _, data, indices, table = features()

    def rows(wanted):
        return table[np.searchsorted(indices, wanted)]

    def work() -> str:
        scores = np.zeros((SEEDS, 30))
        subset = data.subset(LABELS, 0)
        for seed in range(SEEDS):
            for i, strength in enumerate(np.logspace(-4, 2, 30)):
                model = LogisticRegression(C=strength, max_iter=2000, random_state=seed)
                model.fit(rows(subset.train), subset.labels[subset.train])
                scores[seed, i] = model.score(rows(subset.test), subset.labels[subset.test])
        return f"accuracy {scores.mean(0).max():.3f}"

    return work


if __name__ == "__main__":
    pairs.main(
        __file__,
        {
            "sweep": "150 probes from a cold process; peer: one transformers run of the 150 (ratio × 150)",
            "given": "150 probes, features given; peer: scikit-learn, 30 penalties × 5 seeds",
        },
        repeats=5,
    )
