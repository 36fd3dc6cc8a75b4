"""Heads of masked language models in files: which are read, in which forms, and what stays as it was for everyone else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import WORDS
from support.corpora import write_words

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.methods import adapted
from transferlab.models import MaskedLanguageModelConfig
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.names import to_file
from transferlab.train.setup import plan_for

SIZES: dict[str, Any] = {"vocab_size": 24, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}  # fmt: skip
KINDS = {
    "bert": "cls.predictions.decoder",
    "roberta": "lm_head.decoder",
    "distilbert": "vocab_projector",
    "mpnet": "lm_head.decoder",
    "modernbert": "decoder",
}


def write(folder: Path, kind: str, **more: np.ndarray) -> dict[str, np.ndarray]:
    """Write a model with the head of its family, and other tensors; return all of them."""
    family = FAMILIES[kind]
    config = family.config(**SIZES)
    config = (
        config.without_pooler() if getattr(config, "pooler", False) and hasattr(config, "without_pooler") else config
    )
    assert family.masked_head is not None and family.to_hf is not None
    head = family.masked_head(config)
    raw, names = family.to_hf(config, head)
    shapes, rng = trees.flatten(trees.define(config.build(head)).params), np.random.default_rng(0)
    tensors = to_file(names, {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()})
    tensors |= more
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(raw))
    write_words(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "[CLS] $A [SEP]")
    return tensors


def rewrite(folder: Path, **changes: np.ndarray | None) -> None:
    tensors = {**load_file(folder / "model.safetensors"), **changes}
    kept = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_read_and_the_next_classifier_replaces_it(kind: str, tmp_path: Path) -> None:
    tensors = write(tmp_path, kind)
    source = tl.load(tmp_path)
    assert isinstance(source.head, MaskedLanguageModelConfig) and source.tied and not source.unused
    assert json.loads((tmp_path / "config.json").read_text())["architectures"][0].endswith("ForMaskedLM")
    assert {leaf.key for leaf in source.leaves.values()} == set(tensors)
    plan = plan_for(source, ("a", "b"), tl.methods.Full())
    assert {leaf.action for leaf in plan.leaves if leaf.path.startswith("head/")} == {"initialised"}
    assert {reason for _, reason in plan.unused} == {"replaced by the new head"}
    assert (
        tl.save(source, tmp_path / "again") and load_file(tmp_path / "again/model.safetensors").keys() == tensors.keys()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_the_table_and_of_the_bias_are_known(kind: str, tmp_path: Path) -> None:
    tensors, decoder = write(tmp_path, kind), KINDS[kind]
    table = next(value for key, value in tensors.items() if value.shape == (24, 8))
    bias = next(key for key, value in tensors.items() if value.shape == (24,))
    rewrite(tmp_path, **{f"{decoder}.weight": table, f"{decoder}.bias": tensors[bias]})
    source = tl.load(tmp_path)
    assert (
        source.tied and dict(source.unused)[f"{decoder}.weight"] == "equal to the embedding table, to which it is tied"
    )
    rewrite(tmp_path, **{bias: None, f"{decoder}.bias": tensors[bias], f"{decoder}.weight": table + 1})
    apart = tl.load(tmp_path)
    assert not apart.tied and "head/kernel" in apart.leaves and apart.leaves["head/bias"].key == f"{decoder}.bias"


def test_a_head_that_lacks_a_part_is_left_unread_as_before(tmp_path: Path) -> None:
    write(tmp_path, "bert")
    rewrite(tmp_path, **{"cls.predictions.transform.dense.weight": None})
    source = tl.load(tmp_path)
    assert source.head is None and "cls.predictions.bias" in dict(source.unused)


def test_a_classifier_in_the_file_comes_first(tmp_path: Path) -> None:
    write(
        tmp_path,
        "bert",
        **{"classifier.weight": np.ones((2, 8), np.float32), "classifier.bias": np.ones(2, np.float32)},
    )
    source = tl.load(tmp_path)
    assert source.labels == ("0", "1") and "cls.predictions.bias" in dict(source.unused)


def test_a_new_token_has_a_row_in_the_table_and_in_the_bias(tmp_path: Path) -> None:
    write(tmp_path, "roberta")
    source = tl.load(tmp_path).with_tokenizer(add=["<drug>"])
    rows = 5 + len(WORDS) + 1
    assert source.leaves["head/bias"].shape == (rows,) and source.leaves["embed/word/embedding"].shape == (rows, 8)
    assert source({"input_ids": [[2, 5, 3]]})["logits"].shape == (1, 3, rows)


def test_adapters_of_peft_do_not_hold_such_a_head(tmp_path: Path) -> None:
    write(tmp_path / "model", "bert")
    source = tl.load(tmp_path / "model")
    pair = adapted.Pair(np.ones((8, 2), np.float32), np.ones((2, 8), np.float32), 1.0)
    own = adapted.Adapted(source, {"layers/0/attention/query/kernel": pair})
    with pytest.raises(TransferlabError, match=r"adapted.save_adapter\(directory, head=False\)"):
        own.save_adapter(tmp_path / "adapter")
    own.save_adapter(tmp_path / "adapter", head=False)
    again = tl.load_adapter(tmp_path / "adapter", source)
    assert again.pairs.keys() == own.pairs.keys() and again.source.head == source.head
