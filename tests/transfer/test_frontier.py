"""The feature pass: carries of packed texts are those of texts padded one to a row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support.checkpoints import write_bert
from support.typed import text_inputs

import transferlab as tl
from transferlab import trees
from transferlab.data.batches import Batch
from transferlab.data.packing import pack
from transferlab.data.text import Encoded
from transferlab.models import (
    BertConfig,
    ClassifierConfig,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)
from transferlab.models.nnx_network import NnxNetwork
from transferlab.transfer import frontier
from transferlab.transfer.cache import FrontierCache
from transferlab.transfer.frontier import packed_function, prefix_function
from transferlab.transfer.groups import Group

SMALL: dict[str, Any] = {"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
         "max_position_embeddings": 80}  # fmt: skip
CONFIGS = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL),
    "mpnet": MPNetConfig(**SMALL),
    "distilbert": DistilBertConfig(vocab_size=90, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=80),
    "modernbert": ModernBertConfig(**{**SMALL, "local_attention": 8, "layer_types": ("full_attention", "sliding_attention")}),
}  # fmt: skip
CASES = [
    (name, pooling, stop)
    for name, config in CONFIGS.items()
    for pooling, stop in (("mean", "layers/1"), ("mean", "head"), ("first", "head"), ("pooler", "head"))
    if pooling != "pooler" or getattr(config, "pooler", False)
]


def random_params(definition: trees.Definition) -> trees.Tree:
    rng = np.random.default_rng(0)
    shapes = trees.flatten(definition.params)
    return trees.unflatten({path: rng.normal(0, 0.5, leaf.shape).astype(np.float32) for path, leaf in shapes.items()})


@pytest.mark.parametrize(("name", "pooling", "until"), CASES)
def test_a_text_in_a_row_sees_no_other_and_its_own_positions(name: str, pooling, until: str) -> None:
    definition = trees.define(CONFIGS[name].build(ClassifierConfig(("a", "b"), pooling=pooling)))
    network = NnxNetwork(definition)
    assert network.first_position is not None
    model, params = definition.module, random_params(definition)
    stop = [stage.name for stage in model.all_stages()].index(until)
    rng = np.random.default_rng(1)
    lengths = [5, 31, 2, 17, 64, 9, 1, 40]
    texts = [Encoded(tuple(rng.integers(3, 90, n).tolist()), (0,) * n, 0) for n in lengths]
    ids, mask = np.full((8, 64), getattr(model.config, "pad_token_id", 1), np.int32), np.zeros((8, 64), np.int32)
    for row, text in enumerate(texts):
        ids[row, : lengths[row]], mask[row, : lengths[row]] = text.ids, 1
    want = jax.jit(prefix_function(network, stop))(params, {}, {"input_ids": ids, "attention_mask": mask})
    (batch,) = pack(texts, 64, 512, pad=0, types=False, first_position=model.first_position)
    got = jax.jit(packed_function(network, stop))(params, {}, batch.inputs)
    assert got.keys() - {"positions"} == want.keys() and len({*batch.inputs["segments"].max(1)}) > 1
    for place, text in enumerate(batch.texts):
        own = slice(0, lengths[text])
        if "pooled" in want:
            np.testing.assert_allclose(got["pooled"][place], want["pooled"][text], atol=2e-5)
            continue
        assert got["mask"][place].tolist() == want["mask"][text].tolist()
        np.testing.assert_allclose(got["hidden"][place, own], want["hidden"][text, own], atol=2e-5)
        if "positions" in got:
            assert got["positions"][place, own].tolist() == list(range(lengths[text]))


def test_features_of_every_stage_are_packed() -> None:
    definition = trees.define(CONFIGS["bert"].build(ClassifierConfig(("a", "b"), pooling="stages")))
    assert NnxNetwork(definition).first_position is None


@dataclass(frozen=True)
class LastLayer(tl.methods.Full):
    """Trains from the middle on, so that a carry with tokens is kept."""

    def groups(self, stages) -> tuple[Group, ...]:
        return (Group("layers/1"), Group("head"))


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_texts_tokens_are_kept_and_its_padding_is_not(side: str, films, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    folder = write_bert(tmp_path / "bert")
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "padding_side": side}))
    run = tl.adapt(tl.load(folder), films.subset(16, 0), method=LastLayer())
    run.cache = FrontierCache(None)
    params, stats = run.plan.place(0)
    key = run.compute_features(params, stats)
    prefix = jax.jit(prefix_function(run.plan.network, run.plan.frontier))
    for index in run.data.train.tolist():
        chosen = np.array([index])
        bucket, length = int(run.feed.buckets(chosen)[0]), text_inputs(run).length(index)
        want = prefix(params, stats, run.feed.inputs(chosen, bucket, 1))
        got = run.carry(Batch(chosen, bucket), 1, key)
        own = slice(0, length) if side == "right" else slice(bucket - length, bucket)
        np.testing.assert_allclose(got["hidden"][0, :length], want["hidden"][0, own], atol=1e-5)
        assert got["mask"][0].tolist() == [True] * length + [False] * (bucket - length)


def test_where_operations_are_not_counted_a_frozen_prefix_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = trees.define(BertConfig(**SMALL).build())
    inputs = {name: np.ones((1, 16), np.int32) for name in ("input_ids", "attention_mask", "token_type_ids")}
    frontier._cost.cache_clear()
    monkeypatch.setattr(frontier, "flops_of", lambda lowered: None)
    try:
        decision = frontier.decide_caching(NnxNetwork(definition), 2, inputs, 1 << 30, 100)
        assert decision.cached and decision.flops_per_example == 0.0
    finally:
        frontier._cost.cache_clear()
