"""Masked language modelling: what is hidden and what never, the same draw however a batch is padded or cut, runs from texts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.checkpoints import WORDS, write_vit
from support.corpora import corpus, decoder_source, masked_source, sentences
from support.runs import flat
from support.typed import nnx_network

import transferlab as tl
from transferlab.data.batches import Batch
from transferlab.data.inputs import TextInputs
from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError
from transferlab.models import MaskedLanguageModelConfig
from transferlab.tasks import MaskedLanguageModel, task_for
from transferlab.tasks.base import total_loss
from transferlab.tasks.masking import masked
from transferlab.train import Settings
from transferlab.train.setup import plan_for

QUICK = Settings(learning_rate=1e-2, steps=100, batch_size=16, log_every=25)


def keys(rows: int) -> jax.Array:
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(jnp.arange(rows))


def hide(units: np.ndarray, rate: float = 0.15, ids: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """(ids, what is seen, labels, selected); tokens are numbered from 100."""
    rows, length = units.shape
    ids = np.tile(np.arange(100, 100 + length), (rows, 1)) if ids is None else ids
    vocabulary, mask = jnp.full(rows, 50), jnp.full(rows, 4)
    out = masked(jnp.asarray(ids), jnp.asarray(units), keys(rows), rate=rate, mask_id=mask, vocabulary=vocabulary)
    return ids, *map(np.asarray, out)


def test_a_fraction_of_the_text_is_hidden_in_three_ways() -> None:
    units = np.tile(np.arange(-1, 39), (400, 1))
    units[:, 39], units[1] = -1, -1
    ids, seen, labels, selected = hide(units)
    assert (selected[1] == -1).all() and (labels[1] == -1).all() and (seen[1] == ids[1]).all()
    rows = np.delete(np.arange(400), 1)
    # 38 tokens, of which 15 % are 5.7.
    assert ((selected >= 0).sum(1)[rows] == 6).all()
    for row in rows:
        places = selected[row][selected[row] >= 0]
        assert len(set(places)) == 6 and (units[row, places] >= 0).all()
        assert (labels[row][:6] == ids[row, places]).all()
        assert (np.delete(seen[row], places) == np.delete(ids[row], places)).all()
    at = np.take_along_axis(seen, np.maximum(selected, 0), 1)[rows][:, :6]
    kept = np.take_along_axis(ids, np.maximum(selected, 0), 1)[rows][:, :6]
    fractions = [(at == 4).mean(), ((at < 50) & (at != 4)).mean(), (at == kept).mean()]
    np.testing.assert_allclose(fractions, [0.8, 0.1, 0.1], atol=0.03)
    counts = np.bincount(selected[rows][selected[rows] >= 0], minlength=40)[1:39]
    assert counts.min() > 30 and counts.max() < 100  # 63 each, evenly


def test_the_draw_depends_on_the_text_and_not_on_its_padding() -> None:
    short = np.array([[-1, 0, 1, 2, 3, 4, 5, 6, -1], [-1, 0, 1, -1, -1, -1, -1, -1, -1]])
    ids, seen, labels, _ = hide(short, 0.3)
    for shift in (0, 5):
        units, wide = np.full((2, 24), -1), np.zeros((2, 24), int)
        units[:, shift : shift + 9], wide[:, shift : shift + 9] = short, ids
        _, far, other, _ = hide(units, 0.3, wide)
        assert (far[:, shift : shift + 9] == seen).all() and (other[:, : labels.shape[1]] == labels).all()
        assert (other[:, labels.shape[1] :] == -1).all()


def test_whole_words_are_hidden_or_not() -> None:
    units = np.tile(np.repeat(np.arange(10), [1, 2, 3, 1, 2, 3, 1, 2, 3, 2]), (50, 1))
    _, _, _, selected = hide(units, 0.3)
    for row in selected:
        places = row[row >= 0]
        assert 0 < len(places) <= 6
        for unit in set(units[0, places]):
            assert (units[0, places] == unit).sum() == (units[0] == unit).sum()


def test_a_word_longer_than_what_is_hidden_is_passed_over() -> None:
    # 20 tokens, of which 3 are to be hidden; the words have 12, 4, 1, 2 and 1.
    sizes = np.array([12, 4, 1, 2, 1])
    units = np.full((200, 24), -1)
    units[:, 2:22] = np.repeat(np.arange(5), sizes)
    _, _, labels, selected = hide(units)
    hidden = [units[0, row[row >= 0]].tolist() for row in selected]
    assert all(hidden) and {unit for row in hidden for unit in row} == {2, 3, 4}
    assert all(row.count(unit) == sizes[unit] for row in hidden for unit in row)
    assert {len(row) for row in hidden} <= {1, 2, 3} and (labels[:, 0] >= 0).all()


def test_of_a_text_of_long_words_alone_some_tokens_are_hidden_however_it_is_padded() -> None:
    units = np.repeat(np.array([[0] * 9 + [1] * 11]), 50, axis=0)
    _, seen, labels, selected = hide(units)
    assert ((selected >= 0).sum(1) == 3).all() and {len(set(units[0, row[:3]])) for row in selected} == {1}
    assert {int(units[0, row[0]]) for row in selected} == {0, 1}
    wide = np.pad(units, ((0, 0), (0, 40)), constant_values=-1)
    _, far, other, _ = hide(wide)
    np.testing.assert_array_equal(far[:, :20], seen)
    np.testing.assert_array_equal(other[:, :3], labels[:, :3])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tl.Source:
    return masked_source(tmp_path_factory.mktemp("models") / "bert")


def batch_of(source: tl.Source, texts: list[str], task: MaskedLanguageModel, rows: int) -> dict[str, Any]:
    feed = task.inputs(corpus(texts).records, source.transform, content="text")
    assert isinstance(feed, TextInputs)
    indices = np.arange(len(texts))
    bucket = int(feed.buckets(indices).max())
    arrays = feed.inputs(indices, bucket, rows), task.collate({}, feed, Batch(indices, bucket), rows)
    inputs, targets = jax.tree.map(jnp.asarray, arrays)
    return {"inputs": inputs, "targets": targets, "weight": jnp.asarray(np.arange(rows) < len(texts), jnp.float32)}


def test_special_tokens_and_padding_are_never_hidden(bert: tl.Source) -> None:
    task = MaskedLanguageModel(rate=0.9)
    batch: Any = batch_of(bert, ["good [MASK] film unheard", "", "day"], task, 4)
    # [CLS] good [MASK] film [UNK] [SEP]
    assert np.asarray(batch["targets"]["units"])[0, :6].tolist() == [-1, 0, -1, 1, -1, -1]
    prepared = task.prepare(batch, jax.random.key(3))
    assert np.asarray((prepared["inputs"]["labels"] >= 0).sum(1)).tolist() == [2, 0, 1, 0]
    assert float(task.weights(prepared)["loss"]) == 3.0


def test_a_batch_with_nothing_hidden_has_no_loss_and_no_gradient(bert: tl.Source) -> None:
    task = MaskedLanguageModel()
    batch: Any = batch_of(bert, ["", "unheard"], task, 2)
    plan = plan_for(bert, task.head(bert, (), tl.methods.Full()), tl.methods.Full())
    params, state = plan.place(0)

    def loss(params: Any) -> Any:
        prepared = task.prepare(batch, jax.random.key(0))
        out = nnx_network(plan).definition.merge(params, state)(prepared["inputs"])
        return total_loss(task, task.loss(out, prepared), task.weights(prepared))

    value, slope = jax.value_and_grad(loss)(params)
    assert float(value) == 0.0 and all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(slope))


def test_texts_alone_are_learned_and_parts_of_a_batch_add_up(bert: tl.Source, tmp_path: Path) -> None:
    # Of one word each, so that the text around a hidden token says what it is.
    texts = [" ".join([WORDS[i % 14]] * (4 + i % 9)) for i in range(120)]
    data = corpus(texts, test=30)
    task = task_for(data, bert)
    assert isinstance(task, MaskedLanguageModel)
    result = tl.adapt(bert, data, settings=QUICK, directory=tmp_path / "run").fit()
    likelihood, position = result.predictions["log_likelihood"], result.predictions["position"]
    assert isinstance(likelihood, Ragged) and all(len(own) == max(1, int(0.15 * len(text.split()) + 0.5))
                                                  for own, text in zip(likelihood, texts[-30:], strict=True))  # fmt: skip
    assert all((np.diff(own) > 0).all() and own[0] >= 1 for own in position)
    assert result.test["perplexity"] == pytest.approx(np.exp(-likelihood.values.mean()))
    assert result.test["cross_entropy"] < 2.2 < np.log(14)
    again = tl.open_run(tmp_path / "run")(texts[-30:][::-1], rows=7)
    np.testing.assert_allclose(np.concatenate(list(again)[::-1]), likelihood.values, atol=1e-5)
    assert {leaf.path: leaf.action for leaf in tl.adapt(bert, data).plan.leaves}["head/dense/kernel"] == "initialised"


def test_a_batch_in_parts_has_the_loss_of_the_whole(tmp_path: Path) -> None:
    quiet = masked_source(tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    data, settings = corpus(sentences(24), test=8), Settings(learning_rate=1e-3, steps=2, batch_size=8, log_every=1)
    one = tl.adapt(quiet, data, settings=settings).fit()
    parts = tl.adapt(quiet, data, settings=replace(settings, accumulate=4, remat=True)).fit()
    for row, other in zip(one.history, parts.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)


def test_a_trained_head_is_kept_by_the_next_run(bert: tl.Source, tmp_path: Path) -> None:
    data = corpus(sentences(24), test=8)
    result = tl.adapt(bert, data, settings=replace(QUICK, steps=2), task=MaskedLanguageModel()).fit()
    assert result.source is not None
    tl.save(result.source, tmp_path / "model")
    source = tl.load(tmp_path / "model")
    assert isinstance(source.head, MaskedLanguageModelConfig)
    run = tl.adapt(source, data)
    assert {leaf.action for leaf in run.plan.leaves if leaf.path.startswith("head/")} == {"copied"}
    for path, leaf in flat({"head": result.source.params["head"]}).items():
        np.testing.assert_array_equal(leaf, np.asarray(source.leaves[path].read()))
    # A classifier takes the encoder as before, and the hash of a base does not depend on a head that earlier versions left unread.
    plan = plan_for(source, ("a", "b"), tl.methods.Full())
    assert ("cls.predictions.bias", "replaced by the new head") in plan.unused
    assert source.sha256 == replace(source, head=None, leaves={
        path: leaf for path, leaf in source.leaves.items() if not path.startswith("head/")}).sha256  # fmt: skip


def test_sources_and_texts_that_cannot_be_masked_are_refused(bert: tl.Source, tmp_path: Path) -> None:
    data = corpus(sentences(6), test=2)
    with pytest.raises(TransferlabError, match=r"is a decoder.*task=tl.tasks.CausalLanguageModel\(\)"):
        tl.adapt(decoder_source(tmp_path / "gpt2"), data, task=MaskedLanguageModel())
    write_vit(tmp_path / "vit", "vit")
    with pytest.raises(TransferlabError, match=r"it has no vocabulary. Pass a source of texts"):
        tl.adapt(tl.load(tmp_path / "vit"), data, task=MaskedLanguageModel())
    with pytest.raises(TransferlabError, match=r"None of the 4 training texts"):
        tl.adapt(bert, corpus(["", "unheard", "[MASK]", "", "day"], test=1), task=MaskedLanguageModel())
    with pytest.raises(TransferlabError, match="rate is 1"):
        MaskedLanguageModel(rate=1.0)
