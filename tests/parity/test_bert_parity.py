"""BERT against transformers' own model and tokenizer, on the same weights."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.comparison import compare
from support.typed import as_text

import transferlab as tl

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

SIZES = {
    "twelve layers, narrow": {"hidden_size": 36, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 50,
                              "vocab_size": 101, "max_position_embeddings": 40, "type_vocab_size": 2},
    "one head, three types": {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 64,
                              "vocab_size": 57, "max_position_embeddings": 33, "type_vocab_size": 3, "layer_norm_eps": 1e-5},
    "tanh gelu, wide": {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 12, "intermediate_size": 70,
                        "vocab_size": 300, "max_position_embeddings": 64, "hidden_act": "gelu_new"},
}  # fmt: skip


def inputs(config, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    batch, length = 5, 29
    mask = np.ones((batch, length), np.int64)
    mask[1, 20:] = 0
    mask[2, :7] = 0  # padding on the left
    mask[3, 1:] = 0
    return {
        "input_ids": rng.integers(0, config.vocab_size, (batch, length)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, config.type_vocab_size, (batch, length)),
    }


def randomised(model):
    """Random weights that are not the initialiser's: biases and norms away from 0 and 1 too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model.eval()


def reference(model, given):
    with torch.no_grad():
        return model(**{name: torch.tensor(value) for name, value in given.items()})


near = partial(compare, family="BERT", form="transformers")


@pytest.mark.parametrize("size", SIZES)
def test_hidden_states_and_pooler_equal_transformers(size: str, tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES[size])
    model = randomised(transformers.BertModel(config))
    model.save_pretrained(tmp_path)
    source = tl.load(tmp_path)
    given = inputs(config)
    want, got = reference(model, given), source(given)
    seen = given["attention_mask"].astype(bool)
    near(np.asarray(got["hidden"])[seen], want.last_hidden_state[seen], what="hidden")
    near(got["pooled"], want.pooler_output, what="pooled")


def test_a_classifier_keeps_its_logits_and_label_names(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES["one head, three types"], id2label={0: "bad", 1: "fair", 2: "good"},
                                     label2id={"bad": 0, "fair": 1, "good": 2})  # fmt: skip
    model = randomised(transformers.BertForSequenceClassification(config))
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs(config)
    near(source(given)["logits"], reference(model, given).logits)
    assert source.labels == ("bad", "fair", "good")


def test_a_bare_encoder_without_prefix_and_a_torch_file_load_alike(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES["tanh gelu, wide"])
    model = randomised(transformers.BertModel(config, add_pooling_layer=False))
    model.save_pretrained(tmp_path / "a")
    given = inputs(config)
    want = reference(model, given).last_hidden_state
    seen = given["attention_mask"].astype(bool)
    old = {
        "bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in model.state_dict().items()
    }
    for name, legacy in (("zip", True), ("legacy", False)):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(tmp_path / "a" / "config.json", folder)
        torch.save(old, folder / "pytorch_model.bin", _use_new_zipfile_serialization=legacy)
        got = np.asarray(tl.load(folder)(given)["hidden"])
        compare(got[seen], want[seen], family="BERT", form="torch file", what="hidden")
    assert "pooled" not in tl.load(tmp_path / "a")(given)


def test_gradients_of_the_logits_equal_transformers(tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp

    from transferlab import trees

    config = transformers.BertConfig(**SIZES["twelve layers, narrow"], num_labels=2)
    model = randomised(transformers.BertForSequenceClassification(config))
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs(config)
    model(**{k: torch.tensor(v) for k, v in given.items()}).logits.square().sum().backward()
    params = trees.unflatten({p: jnp.asarray(leaf.read()) for p, leaf in source.leaves.items()})

    def loss(params):
        out = source.definition.merge(params)({k: jnp.asarray(v) for k, v in given.items()})
        return jnp.square(out["logits"]).sum()

    grads = trees.flatten(jax.grad(loss)(params))
    theirs = dict(model.named_parameters())
    for path, leaf in source.leaves.items():
        want = leaf.layout.to_tree(theirs[leaf.key].grad.numpy())
        if path == "embed/word/embedding":
            want, grads[path] = want[1:], grads[path][1:]  # torch's padding_idx keeps row 0 from training
        near(grads[path], want, what="gradients", tolerance=2e-4, where=path)


@pytest.mark.network
def test_minilm_equals_transformers_on_awkward_text(tmp_path: Path) -> None:
    source = tl.load("minilm-l6")
    folder = Path(source.provenance["path"])
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    texts = [
        "",
        "Café naïve Ångström",
        "I 💚 this 👩‍👩‍👧!!",
        "word " * 600,
        "don't  stop\tnow\n",
        "漢字 and ümlauts",
        "[MASK] [SEP] x",
    ]
    encoded = as_text(source.transform).encode(texts)
    theirs = tokenizer(texts, truncation=True, max_length=as_text(source.transform).max_length)
    assert [list(e.ids) for e in encoded] == theirs["input_ids"]
    assert [e.cut > 0 for e in encoded] == [False, False, False, True, False, False, False]
    given = as_text(source.transform).pad(encoded, 256, len(texts))
    want = reference(model, {k: v.astype(np.int64) for k, v in given.items()})
    got = source(given)
    seen = given["attention_mask"].astype(bool)
    names = {"family": "MiniLM (published weights)", "form": "sentence-transformers", "tolerance": 1e-5}
    compare(np.asarray(got["hidden"])[seen], want.last_hidden_state[seen], what="hidden", **names)
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"]
    mean = (want.last_hidden_state.numpy() * seen[..., None]).sum(1) / seen.sum(1, keepdims=True)
    compare(got["pooled"], mean / np.linalg.norm(mean, axis=1, keepdims=True), what="pooled", **names)
    again = transformers.BertModel.from_pretrained(tl.save(source, tmp_path / "ours")).eval()
    there = reference(again, {k: v.astype(np.int64) for k, v in given.items()}).last_hidden_state
    compare(there[seen], np.asarray(got["hidden"])[seen], what="hidden", way="written", **names)
