"""T5 1.0 and 1.1, mT5 and the encoder alone against transformers' own models, on weights that they wrote."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.comparison import compare
from support.typed import found, language_model_of
from test_bert_parity import randomised

import transferlab as tl
from transferlab import trees
from transferlab.models.t5 import T5Config, relative_buckets, shift_right
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


SIZES = {
    "1.0, twelve layers": {"d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 12, "num_decoder_layers": 11, "num_heads": 3,
                           "vocab_size": 71, "relative_attention_num_buckets": 12, "relative_attention_max_distance": 20},
    "1.1, wide heads": {"d_model": 20, "d_kv": 16, "d_ff": 30, "num_layers": 2, "num_heads": 4, "vocab_size": 50,
                        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "gated silu, one head, one decoder layer": {"d_model": 16, "d_kv": 16, "d_ff": 12, "num_layers": 3, "num_heads": 1,
                                                "num_decoder_layers": 1, "vocab_size": 33, "feed_forward_proj": "gated-silu"},
}  # fmt: skip


def inputs(vocabulary: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch, length, target = 4, 29, 17
    mask, target_mask = np.ones((batch, length), np.int64), np.ones((batch, target), np.int64)
    mask[1, 20:], mask[2, :7], mask[3, 1:] = 0, 0, 0
    target_mask[1, 9:], target_mask[2, :4] = 0, 0
    return {
        "input_ids": rng.integers(0, vocabulary, (batch, length)),
        "attention_mask": mask,
        "decoder_input_ids": rng.integers(0, vocabulary, (batch, target)),
        "decoder_attention_mask": target_mask,
    }


def reference(model, given):
    with torch.no_grad():
        return model(**{name: torch.tensor(value) for name, value in given.items()}, use_cache=False)


def near(got, want, seen: np.ndarray, size: str, **given) -> None:
    family = "T5" if size.startswith("1.0") else "mT5" if size == "mT5" else "T5 v1.1"
    compare(np.asarray(got)[seen], np.asarray(want)[seen], family=family, form="transformers", **given)


@pytest.mark.parametrize("size", SIZES)
def test_encoder_decoder_and_logits_equal_transformers(size: str, tmp_path: Path) -> None:
    config = transformers.T5Config(**SIZES[size])
    model = randomised(transformers.T5ForConditionalGeneration(config))
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs(config.vocab_size)
    want, got = reference(model, given), source(given)
    near(got["encoded"], want.encoder_last_hidden_state, given["attention_mask"].astype(bool), size, what="hidden")
    near(got["logits"], want.logits, given["decoder_attention_mask"].astype(bool), size)
    alone = source.encoder()({name: given[name] for name in ("input_ids", "attention_mask")})
    np.testing.assert_allclose(alone["hidden"], got["encoded"], atol=1e-6)


def test_a_head_of_its_own_is_read_and_unscaled(tmp_path: Path) -> None:
    """Version 1.1's files: ``tie_word_embeddings`` false and an ``lm_head`` that is not the table."""
    config = transformers.T5Config(**SIZES["1.1, wide heads"])
    model = randomised(transformers.T5ForConditionalGeneration(config))
    model.save_pretrained(tmp_path)
    head = np.random.default_rng(1).normal(size=(50, 20)).astype(np.float32)
    save_file(load_file(tmp_path / "model.safetensors") | {"lm_head.weight": head}, tmp_path / "model.safetensors")
    source, given = tl.load(tmp_path), inputs(50)
    assert source.head == source.config.language_model(tied=False) and language_model_of(source).scale == 1.0
    hidden = reference(model, given)
    model.lm_head.weight = torch.nn.Parameter(torch.tensor(head))
    seen = given["decoder_attention_mask"].astype(bool)
    near(source(given)["logits"], reference(model, given).logits, seen, "1.1, wide heads")
    assert np.abs(hidden.logits.numpy() - reference(model, given).logits.numpy()).max() > 0.1


@pytest.mark.parametrize("size", ["1.0, twelve layers", "gated silu, one head, one decoder layer"])
def test_an_untied_head_stays_scaled_as_in_transformers(size: str, tmp_path: Path) -> None:
    """Where a file has an ``lm_head`` that differs from the table, transformers does not tie it; its scale stays."""
    config = transformers.T5Config(**SIZES[size])
    randomised(transformers.T5ForConditionalGeneration(config)).save_pretrained(tmp_path)
    file, given = tmp_path / "model.safetensors", inputs(config.vocab_size)
    head = np.random.default_rng(1).normal(size=(config.vocab_size, config.d_model)).astype(np.float32)
    save_file(load_file(file) | {"lm_head.weight": head}, file, {"format": "pt"})
    seen = given["decoder_attention_mask"].astype(bool)
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    source = tl.load(tmp_path)
    near(source(given)["logits"], reference(model, given).logits, seen, size)
    assert source.head == source.config.language_model(tied=False) and not source.unused
    leaves = {path: leaf.read() + np.float32(0.01) for path, leaf in source.leaves.items()}
    save_file(to_file(found(source.names), leaves), file, {"format": "pt"})
    again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    near(reference(again, given).logits, tl.load(tmp_path)(given)["logits"], seen, size, way="written")


def test_mt5_equals_transformers(tmp_path: Path) -> None:
    config = transformers.MT5Config(d_model=20, d_kv=8, d_ff=30, num_layers=2, num_heads=4, vocab_size=50)
    model = randomised(transformers.MT5ForConditionalGeneration(config))
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs(50)
    got, want = source(given), reference(model, given)
    near(got["encoded"], want.encoder_last_hidden_state, given["attention_mask"].astype(bool), "mT5", what="hidden")
    near(got["logits"], want.logits, given["decoder_attention_mask"].astype(bool), "mT5")


def test_an_encoder_alone_equals_transformers_in_both_directions(tmp_path: Path) -> None:
    config = transformers.T5Config(**SIZES["1.0, twelve layers"])
    model = randomised(transformers.T5EncoderModel(config))
    model.save_pretrained(tmp_path / "theirs")
    source = tl.load(tmp_path / "theirs")
    given = {name: value for name, value in inputs(71).items() if not name.startswith("decoder")}
    seen = given["attention_mask"].astype(bool)
    want = reference_encoder(model, given)
    near(source(given)["hidden"], want, seen, "1.0, twelve layers", what="hidden")
    leaves = {path: leaf.read() + np.float32(0.01) for path, leaf in source.leaves.items()}
    (tmp_path / "ours").mkdir()
    config.save_pretrained(tmp_path / "ours")
    save_file(to_file(found(source.names), leaves), tmp_path / "ours" / "model.safetensors", {"format": "pt"})
    again = transformers.T5EncoderModel.from_pretrained(tmp_path / "ours").eval()
    got = tl.load(tmp_path / "ours")(given)["hidden"]
    near(reference_encoder(again, given), got, seen, "1.0, twelve layers", what="hidden", way="written")


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_the_encoder_of_a_transformers_model_for_another_task_is_read(task: str, tmp_path: Path) -> None:
    size = "1.0, twelve layers"
    config = transformers.T5Config(**SIZES[size], decoder_start_token_id=0)
    model = randomised(getattr(transformers, f"T5For{task}")(config))
    model.save_pretrained(tmp_path)
    source = tl.load(tmp_path)
    source = source.encoder() if source.config.num_decoder_layers else source
    given = {name: value for name, value in inputs(71).items() if not name.startswith("decoder")}
    body = getattr(model, "transformer", model).encoder
    with torch.no_grad():
        want = body(**{name: torch.tensor(value) for name, value in given.items()})
    seen = given["attention_mask"].astype(bool)
    near(source(given)["hidden"], want.last_hidden_state, seen, size, what="hidden")


def reference_encoder(model, given):
    with torch.no_grad():
        return model(**{name: torch.tensor(value) for name, value in given.items()}).last_hidden_state


@pytest.mark.parametrize("size", ["1.0, twelve layers", "1.1, wide heads"])
def test_what_is_written_here_is_read_by_transformers(size: str, tmp_path: Path) -> None:
    config = transformers.T5Config(**SIZES[size])
    randomised(transformers.T5ForConditionalGeneration(config)).save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs(config.vocab_size)
    leaves = {path: leaf.read() + np.float32(0.01) for path, leaf in source.leaves.items()}
    save_file(to_file(found(source.names), leaves), tmp_path / "model.safetensors", {"format": "pt"})
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    got = tl.load(tmp_path)(given)["logits"]
    near(reference(model, given).logits, got, given["decoder_attention_mask"].astype(bool), size, way="written")


def test_gradients_of_the_loss_equal_transformers(tmp_path: Path) -> None:
    config = transformers.T5Config(**{**SIZES["1.0, twelve layers"], "num_layers": 3, "num_decoder_layers": 2},
                                   decoder_start_token_id=0)  # fmt: skip
    model = randomised(transformers.T5ForConditionalGeneration(config))
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs(71)
    labels = np.random.default_rng(2).integers(2, 71, (4, 17))
    labels[1, 12:] = -100
    out = model(input_ids=torch.tensor(given["input_ids"]), attention_mask=torch.tensor(given["attention_mask"]),
                labels=torch.tensor(labels))  # fmt: skip
    out.loss.backward()
    theirs = model._shift_right(torch.tensor(labels)).numpy()
    shifted = shift_right(jnp.asarray(labels), source.config)
    np.testing.assert_array_equal(shifted, theirs)
    params = trees.unflatten({p: jnp.asarray(leaf.read()) for p, leaf in source.leaves.items()})
    batch = {"input_ids": given["input_ids"], "attention_mask": given["attention_mask"], "decoder_input_ids": shifted}

    @jax.jit
    def loss(params):
        logits = source.definition.merge(params)({k: jnp.asarray(v) for k, v in batch.items()})["logits"]
        scores = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[..., None], -1)[..., 0]
        return -(scores * (labels >= 0)).sum() / (labels >= 0).sum()

    value, grads = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(value, out.loss.item(), rtol=1e-5)
    flat, names = trees.flatten(grads), dict(model.named_parameters())
    for path, leaf in source.leaves.items():
        want = leaf.layout.to_tree(names[leaf.key].grad.numpy())
        compare(flat[path], want, family="T5", form="transformers", what="gradients", where=path)


@pytest.mark.parametrize(("buckets", "largest"), [(32, 128), (12, 20), (64, 512), (4, 3)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_equal_those_of_transformers_at_every_distance(buckets: int, largest: int, bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(relative_attention_num_buckets=buckets, relative_attention_max_distance=largest)
    length = 700
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    want = T5Attention._relative_position_bucket(distance, bidirectional, buckets, largest).numpy()
    np.testing.assert_array_equal(relative_buckets(config, length, bidirectional), want)
