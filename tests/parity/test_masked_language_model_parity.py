"""Masked language models in transformers' ...ForMaskedLM: heads that are read, losses on one masked batch, heads that are written."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from test_text_encoders_parity import BERT_SIZES, CASES, configured, inputs, randomised

import transferlab as tl
from transferlab import trees
from transferlab.models import MaskedLanguageModelConfig
from transferlab.models.backbone import key_for
from transferlab.pretrained.families import FAMILIES
from transferlab.tasks import MaskedLanguageModel
from transferlab.tasks.base import StepBatch

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

KINDS = {
    "bert": ("Bert", {**BERT_SIZES, "max_position_embeddings": 40, "pad_token_id": 0}),
    **{name: CASES[name] for name in ("roberta, two types, other padding", "xlm-roberta", "camembert", "distilbert",
                                      "mpnet", "modernbert", "modernbert, biases, even windows")},
}  # fmt: skip


def reference(kind: str, suffix: str = "ForMaskedLM", **more):
    if kind == "bert":
        name, config = "Bert", transformers.BertConfig(**KINDS[kind][1], **more)
    else:
        name, config = configured(kind, **more)
    torch.manual_seed(0)
    model = randomised(getattr(transformers, f"{name}{suffix}")(config))
    model.tie_weights()
    return model.eval()


def masked_batch(config) -> dict[str, np.ndarray]:
    """Hidden as a step hides it: seven tokens at most, the padding never."""
    batch = inputs(config)
    units = np.where(batch["attention_mask"] > 0, np.arange(27), -1).astype(np.int32)
    targets = {
        "units": units,
        "vocabulary": np.repeat([[config.vocab_size, 3]], len(units), axis=0),
        "text": np.arange(len(units), dtype=np.uint32),
    }
    step: StepBatch = {
        "inputs": {name: jnp.asarray(x) for name, x in batch.items()},
        "targets": {name: jnp.asarray(x) for name, x in targets.items()},
        "weight": jnp.ones(len(units)),
    }
    return MaskedLanguageModel(rate=0.25).prepare(step, key_for(0, 1))["inputs"]


def theirs(model, batch) -> tuple[np.ndarray, float]:
    """Logits, and the loss over the hidden tokens."""
    ids = np.asarray(batch["input_ids"])
    labels = np.full(ids.shape, -100)
    rows, columns = np.nonzero(np.asarray(batch["selected"]) >= 0)
    labels[rows, np.asarray(batch["selected"])[rows, columns]] = np.asarray(batch["labels"])[rows, columns]
    given = {"input_ids": ids, "attention_mask": np.asarray(batch["attention_mask"]), "labels": labels}
    with torch.no_grad():
        out = model(**{name: torch.tensor(value) for name, value in given.items()})
    return out.logits.numpy(), float(out.loss)


def ours(source: tl.Source, batch) -> tuple[np.ndarray, float]:
    plain = {name: np.asarray(batch[name]) for name in ("input_ids", "attention_mask")}
    likelihood = np.asarray(source.module()(batch)["log_likelihood"])
    return np.asarray(source(plain)["logits"]), -likelihood.sum() / (np.asarray(batch["labels"]) >= 0).sum()


def compare(source: tl.Source, model) -> None:
    batch = masked_batch(model.config)
    (logits, loss), (want, want_loss) = ours(source, batch), theirs(model, batch)
    real = np.asarray(batch["attention_mask"]) > 0
    # A window of nothing but padding differs between transformers' own implementations.
    np.testing.assert_allclose(logits[real], want[real], atol=2e-5, rtol=1e-5)
    assert loss == pytest.approx(want_loss, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoints_head_is_read_with_the_same_logits_and_loss(kind: str, tmp_path: Path) -> None:
    model = reference(kind)
    model.save_pretrained(tmp_path / "base")
    source = tl.load(tmp_path / "base")
    assert source.head == FAMILIES[source.family].masked_head(source.config) and source.tied  # pyright: ignore[reportOptionalCall]
    compare(source, model)
    tl.save(source, tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "base/model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_head_is_written_for_transformers(kind: str, tmp_path: Path) -> None:
    reference(kind, "Model").save_pretrained(tmp_path / "base")
    source = tl.load(tmp_path / "base")
    assert source.head is None
    head = FAMILIES[source.family].masked_head(source.config)  # pyright: ignore[reportOptionalCall]
    rng = np.random.default_rng(1)
    shapes = trees.flatten(trees.define(source.config.build(head)).params)
    flat = {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in shapes.items()
            if path.startswith(("head/", "embed/word"))}  # fmt: skip
    trained = source.with_params(trees.unflatten(flat), head=head)
    tl.save(trained, tmp_path / "out")
    model, said = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    assert type(model).__name__ == type(reference(kind)).__name__
    compare(trained, model.eval())
    compare(tl.load(tmp_path / "out"), model)


def test_a_trained_head_replaces_all_its_copies(tmp_path: Path) -> None:
    """Files of old hold the tied kernel and the bias twice."""
    from safetensors.numpy import load_file, save_file

    model = reference("bert", "ForPreTraining")
    model.save_pretrained(tmp_path / "base")
    path = tmp_path / "base/model.safetensors"
    tensors = load_file(path)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    save_file(tensors, path, {"format": "pt"})
    source = tl.load(tmp_path / "base")
    assert source.tied and isinstance(source.head, MaskedLanguageModelConfig) and source.config.pooler
    bias = np.linspace(-1, 1, 101).astype(np.float32)
    table = np.asarray(source.leaves["embed/word/embedding"].read())[::-1].copy()
    tl.save(source.with_params({"head": {"bias": bias}, "embed": {"word": {"embedding": table}}}), tmp_path / "out")
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path / "out").eval()
    compare(tl.load(tmp_path / "out"), again)


def test_a_head_of_its_own_kernel_is_read_as_it_is(tmp_path: Path) -> None:
    model = reference("distilbert", tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "base")
    source = tl.load(tmp_path / "base")
    assert not source.tied and "head/kernel" in source.leaves
    compare(source, model)
