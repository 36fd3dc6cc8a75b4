"""Contrastive learning against sentence-transformers: its loss on the same batch in torch, and its reader of what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_bert
from support.typed import as_text, found

import transferlab as tl
from transferlab.data.columns import NoTarget
from transferlab.data.dataset import Dataset
from transferlab.train import Settings

transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")
torch = pytest.importorskip("torch")

WORDS = ("good", "bad", "film", "the", "a", "day", "was", "very")


def pairs(count: int) -> Dataset:
    rng = np.random.default_rng(0)
    sides = [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(2 * count)]
    records = [{"id": f"row {i}", "text": sides[2 * i], "text_pair": sides[2 * i + 1]} for i in range(count)]
    ids, order = tuple(record["id"] for record in records), np.arange(count)
    return Dataset(
        "pairs", "pair", NoTarget((), np.zeros((count, 0))), records, ids, order[4:], order[:0], order[:4], "p"
    )


def embedded(model, tokenizer, texts: list[str]):
    """Mean over the tokens, as sentence-transformers' Pooling."""
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None].float()
    return (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_first_loss_and_gradient_are_those_of_multiple_negatives_ranking(symmetric: bool, tmp_path: Path) -> None:
    write_bert(tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    source, data = tl.load(tmp_path / "bert"), pairs(12)
    task = tl.tasks.Contrastive(symmetric=symmetric)
    # The batch has room for more examples than there are.
    run = tl.adapt(source, data, task=task, settings=Settings(learning_rate=1e-3, steps=1, batch_size=10, log_every=1))
    row = run.fit().history[0]
    model = transformers.BertModel.from_pretrained(tmp_path / "bert").train()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")
    batch = [data.records[int(i)] for i in run.order[0].indices]
    first, second = (embedded(model, tokenizer, [record[side] for record in batch]) for side in ("text", "text_pair"))
    # sentence_transformers.losses.MultipleNegativesRankingLoss: util.cos_sim, scale 20, cross-entropy with the diagonal.
    normal = torch.nn.functional.normalize
    scores = 20.0 * normal(first, dim=-1) @ normal(second, dim=-1).T
    labels = torch.arange(len(batch))
    loss = torch.nn.functional.cross_entropy(scores, labels)
    if symmetric:
        loss = (loss + torch.nn.functional.cross_entropy(scores.T, labels)) / 2
    loss.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters() if p.grad is not None))
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert row["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
def test_sentence_transformers_gives_the_vectors_of_what_is_written(normalise: bool, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="pip install --no-deps sentence-transformers"
    )
    from dataclasses import replace

    source, data = tl.load(write_bert(tmp_path / "bert")), pairs(12)
    source = replace(source, normalise=normalise)
    result = tl.adapt(source, data, settings=Settings(learning_rate=1e-3, steps=2, batch_size=4, log_every=1)).fit()
    tl.save(found(result.source), tmp_path / "encoder")
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    texts = [data.records[int(i)][side] for i in data.test for side in ("text", "text_pair")]
    np.testing.assert_allclose(model.encode(texts).reshape(4, 2, -1), result.predictions["embedding"], atol=1e-5)
    assert model.max_seq_length == as_text(source.transform).max_length
