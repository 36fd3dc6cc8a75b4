"""Causal language models: the loss of packed rows is that of transformers on each document alone, and on a padded batch."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.corpora import corpus, sentences, write_words
from test_decoders_parity import MODELS

import transferlab as tl
from transferlab.data.batches import Batch
from transferlab.tasks import CausalLanguageModel

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")


@pytest.mark.parametrize(
    "kind", ["gpt2", "llama", "mistral", "qwen3, biases, windows", "gemma 2, tight caps", "gemma 3"]
)
def test_packed_rows_have_the_loss_of_each_document_alone(kind: str, tmp_path: Path) -> None:
    name, fields = MODELS[kind]
    config = getattr(transformers, f"{name}{'Text' if name == 'Gemma3' else ''}Config")(**fields)
    torch.manual_seed(0)
    kind = {"GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM")
    model = getattr(transformers, kind)._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.mul_(3.0)
    model.save_pretrained(tmp_path / "model")
    write_words(tmp_path / "model", ("<pad>", "<unk>", "<s>", "</s>"))
    source, data, task = tl.load(tmp_path / "model"), corpus(sentences(9, longest=24)), CausalLanguageModel(length=40)
    assert source.transform is not None
    feed = task.inputs(data.records, source.transform)
    rows = feed.rows_of(data.train)
    assert len(rows) < 6
    bucket = int(feed.buckets(rows)[0])
    made = feed.inputs(rows, bucket, len(rows)), task.collate({}, feed, Batch(rows, bucket), len(rows))
    inputs = task.evaluation(*jax.tree.map(jnp.asarray, made))
    out = {name: np.asarray(values) for name, values in task.predict(source.module()(inputs)).items()}
    ours = {example: arrays["log_likelihood"] for example, _, arrays in task.gather(out, feed, Batch(rows, bucket))}
    documents = [feed.document(i) for i in range(9)]
    for example, document in enumerate(documents):
        ids = torch.tensor(document[None].astype(np.int64))
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=ids).loss)
        assert -ours[example].mean() == pytest.approx(loss, abs=1e-5)
    longest = max(map(len, documents))
    ids = np.stack([np.pad(document, (0, longest - len(document))) for document in documents]).astype(np.int64)
    mask = np.stack([np.arange(longest) < len(document) for document in documents])
    with torch.no_grad():
        given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask.astype(np.int64))}
        loss = float(model(**given, labels=torch.tensor(np.where(mask, ids, -100))).loss)
    assert -np.concatenate(list(ours.values())).mean() == pytest.approx(loss, abs=1e-5)
