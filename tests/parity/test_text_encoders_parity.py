"""RoBERTa, XLM-R, CamemBERT, DistilBERT, MPNet and ModernBERT against transformers' own models, on the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.comparison import compare

import transferlab as tl
from transferlab import trees
from transferlab.models.heads import MaskedLanguageModelConfig, TokenClassifierConfig
from transferlab.models.mpnet import distance_buckets
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.families.modernbert import modernbert_from_hf
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

BERT_SIZES = {
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 50,
    "vocab_size": 101,
}
CASES = {
    "roberta, twelve layers": ("Roberta", {**BERT_SIZES, "num_hidden_layers": 12, "max_position_embeddings": 40,
                                           "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "roberta, two types, other padding": ("Roberta", {**BERT_SIZES, "max_position_embeddings": 50, "type_vocab_size": 2,
                                                      "pad_token_id": 4, "hidden_act": "gelu_new"}),
    "xlm-roberta": ("XLMRoberta", {**BERT_SIZES, "num_hidden_layers": 1, "max_position_embeddings": 33, "type_vocab_size": 1}),
    "camembert": ("Camembert", {**BERT_SIZES, "num_hidden_layers": 1, "max_position_embeddings": 33}),
    "distilbert": ("DistilBert", {"dim": 36, "n_layers": 3, "n_heads": 4, "hidden_dim": 50, "vocab_size": 101,
                                  "max_position_embeddings": 31}),
    "distilbert, sinusoidal": ("DistilBert", {"dim": 24, "n_layers": 1, "n_heads": 2, "hidden_dim": 50, "vocab_size": 101,
                                              "max_position_embeddings": 31, "sinusoidal_pos_embds": True,
                                              "activation": "relu"}),
    "mpnet": ("MPNet", {**BERT_SIZES, "max_position_embeddings": 40, "layer_norm_eps": 1e-5}),
    "mpnet, more buckets than it uses": ("MPNet", {**BERT_SIZES, "num_hidden_layers": 1, "max_position_embeddings": 40,
                                                   "relative_attention_num_buckets": 40}),
    "modernbert": ("ModernBert", {**BERT_SIZES, "num_hidden_layers": 4, "local_attention": 6}),
    "modernbert, biases, even windows": ("ModernBert", {
        **BERT_SIZES, "num_hidden_layers": 3, "local_attention": 9, "norm_bias": True, "attention_bias": True,
        "mlp_bias": True, "classifier_bias": True, "classifier_pooling": "mean", "classifier_activation": "silu",
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 500.0},
                            "sliding_attention": {"rope_type": "default", "rope_theta": 77.0}}}),
}  # fmt: skip
PADDING = {"Roberta": 1, "XLMRoberta": 1, "Camembert": 1, "DistilBert": 0, "MPNet": 1, "ModernBert": 0}


def configured(case: str, **more):
    kind, fields = CASES[case]
    own = {"pad_token_id": PADDING[kind], "bos_token_id": 0, "eos_token_id": 2, **fields, **more}
    own |= {"cls_token_id": 2, "sep_token_id": 3} if kind == "ModernBert" else {}
    return kind, getattr(transformers, f"{kind}Config")(**own)


def inputs(config, seed: int = 0) -> dict[str, np.ndarray]:
    """Texts padded on the right and on the left, one that holds the padding token in its middle, one of a token."""
    rng = np.random.default_rng(seed)
    batch, length, pad = 6, 27, config.pad_token_id
    ids, mask = rng.integers(5, config.vocab_size, (batch, length)), np.ones((batch, length), np.int64)
    for row, hidden in ((1, slice(20, None)), (2, slice(0, 7)), (3, slice(1, None))):
        ids[row, hidden], mask[row, hidden] = pad, 0
    ids[4, 5:7] = pad  # positions follow from the ids, not from the mask
    mask[5, 11:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def classified(config) -> dict[str, np.ndarray]:
    """As ``inputs``; for ModernBERT without the text that begins with padding.

    Its head reads the first token. Where that is padding, its window holds nothing but padding, and what comes of that
    differs between transformers' own implementations of attention.
    """
    rows = [0, 1, 3, 4, 5] if config.model_type == "modernbert" else slice(None)
    return {name: value[rows] for name, value in inputs(config).items()}


def randomised(model):
    """Random weights that are not the initialiser's: biases and norms away from 0 and 1 too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.requires_grad or "position_embeddings" in name:
                continue
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model.eval()


def reference(model, given):
    with torch.no_grad():
        return model(**{name: torch.tensor(value) for name, value in given.items()})


FAMILY = {"Roberta": "RoBERTa", "XLMRoberta": "XLM-R", "Camembert": "CamemBERT", "DistilBert": "DistilBERT",
          "MPNet": "MPNet", "ModernBert": "ModernBERT"}  # fmt: skip


def near(kind: str, got, want, seen: Any = ..., **given) -> None:
    compare(np.asarray(got)[seen], want.detach().numpy()[seen], family=FAMILY[kind], form="transformers", **given)


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_and_pooler_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    kind, config = configured(case)
    model = randomised(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs(config)
    if getattr(config, "type_vocab_size", 1) > 1:
        given["token_type_ids"] = np.random.default_rng(1).integers(0, 2, given["input_ids"].shape)
    want, got = reference(model, given), source(given)
    near(kind, got["hidden"], want.last_hidden_state, given["attention_mask"].astype(bool), what="hidden")
    if kind not in ("DistilBert", "ModernBert"):
        near(kind, got["pooled"], want.pooler_output, what="pooled")


@pytest.mark.parametrize("case", ["roberta, two types, other padding", "distilbert, sinusoidal", "mpnet", "modernbert"])
def test_positions_that_are_given_and_a_mask_that_is_not_are_read_alike(case: str, tmp_path: Path) -> None:
    kind, config = configured(case)
    model = randomised(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(tmp_path)
    source, ids = tl.load(tmp_path), inputs(config)["input_ids"]
    for given in ({"input_ids": ids}, {"input_ids": ids, "position_ids": ids % 29}):
        near(kind, source(given)["hidden"], reference(model, given).last_hidden_state, what="hidden")


@pytest.mark.parametrize("case", ["roberta, two types, other padding", "xlm-roberta", "camembert", "distilbert", "mpnet", "modernbert",
                                  "modernbert, biases, even windows"])  # fmt: skip
def test_a_classifier_keeps_its_hidden_layer_and_its_label_names(case: str, tmp_path: Path) -> None:
    names = {0: "bad", 1: "fair", 2: "good"}
    kind, config = configured(case, id2label=names, label2id={name: i for i, name in names.items()})
    model = randomised(getattr(transformers, f"{kind}ForSequenceClassification")(config))
    model.save_pretrained(tmp_path / "theirs")
    source, given = tl.load(tmp_path / "theirs"), classified(config)
    near(kind, source(given)["logits"], reference(model, given).logits)
    assert source.labels == ("bad", "fair", "good") and not source.unused
    # And back: the file written here is transformers' own.
    table = FAMILIES[source.family].names(source.config)[0]
    written = to_file(table, {path: leaf.read() for path, leaf in source.leaves.items()})
    heads = ("classifier", "pre_classifier", "head.")
    prefix = {"XLMRoberta": "roberta", "Camembert": "roberta", "ModernBert": "model"}.get(kind, kind.lower())
    (tmp_path / "ours").mkdir()
    keyed = {key if key.startswith(heads) else f"{prefix}.{key}": value for key, value in written.items()}
    save_file(keyed, str(tmp_path / "ours" / "model.safetensors"), metadata={"format": "pt"})
    (tmp_path / "ours" / "config.json").write_text((tmp_path / "theirs" / "config.json").read_text())
    again, said = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("case", ["mpnet", "modernbert", "roberta, two types, other padding", "distilbert"])
def test_gradients_of_the_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    kind, config = configured(case, num_labels=2)
    model = randomised(getattr(transformers, f"{kind}ForSequenceClassification")(config))
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), classified(config)
    model(**{k: torch.tensor(v) for k, v in given.items()}).logits.square().sum().backward()
    params = trees.unflatten({p: jnp.asarray(leaf.read()) for p, leaf in source.leaves.items()})

    @jax.jit
    def loss(params):
        out = source.definition.merge(params)({k: jnp.asarray(v) for k, v in given.items()})
        return jnp.square(out["logits"]).sum()

    grads = trees.flatten(jax.grad(loss)(params))
    theirs = dict(model.named_parameters())
    for path, leaf in source.leaves.items():
        want, got = np.array(leaf.layout.to_tree(theirs[leaf.key].grad.numpy())), np.array(grads[path])
        if path in ("embed/word/embedding", "embed/position/embedding"):
            # torch's padding_idx keeps the row of the padding token from training
            want[config.pad_token_id] = got[config.pad_token_id] = 0
        compare(got, want, family=FAMILY[kind], form="transformers", what="gradients", tolerance=1e-4, where=path)


def test_a_distance_falls_into_the_bucket_of_transformers() -> None:
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    places = torch.arange(600)
    want = MPNetEncoder.relative_position_bucket(places[None, :] - places[:, None])
    np.testing.assert_array_equal(distance_buckets(600), want.numpy())


@pytest.mark.parametrize(
    ("case", "task", "head", "left"),
    [
        ("roberta, two types, other padding", "ForTokenClassification", TokenClassifierConfig, set()),
        ("xlm-roberta", "ForMaskedLM", MaskedLanguageModelConfig, set()),
        ("distilbert", "ForTokenClassification", TokenClassifierConfig, set()),
        ("distilbert", "ForQuestionAnswering", None, {"qa_outputs"}),
        ("distilbert", "ForMaskedLM", MaskedLanguageModelConfig, set()),
        ("mpnet", "ForMultipleChoice", None, {"classifier"}),
        ("mpnet", "ForMaskedLM", MaskedLanguageModelConfig, set()),
        ("modernbert", "ForTokenClassification", TokenClassifierConfig, set()),
        ("modernbert", "ForMaskedLM", MaskedLanguageModelConfig, set()),
    ],
)
def test_the_head_of_another_task_is_not_taken_for_a_classifier(
    case: str, task: str, head: type | None, left: set[str], tmp_path: Path
) -> None:
    kind, config = configured(case)
    model = randomised(getattr(transformers, f"{kind}{task}")(config))
    model.save_pretrained(tmp_path)
    source, given = tl.load(tmp_path), inputs(config)
    assert source.head is None if head is None else type(source.head) is head
    assert {key.partition(".")[0] for key, _ in source.unused} == left
    want = reference(getattr(model, model.base_model_prefix), given).last_hidden_state
    near(kind, source(given)["hidden"], want, given["attention_mask"].astype(bool), what="hidden")


def test_published_sizes_are_those_of_transformers() -> None:
    counts = {
        "RobertaConfig": ("base", transformers.RobertaConfig(max_position_embeddings=514, type_vocab_size=1)),
        "DistilBertConfig": ("base", transformers.DistilBertConfig()),
        "MPNetConfig": ("base", transformers.MPNetConfig(max_position_embeddings=514)),
        "ModernBertConfig": ("base", transformers.ModernBertConfig()),
    }
    for name, (size, config) in counts.items():
        with torch.device("meta"):
            want = sum(p.numel() for p in transformers.AutoModel.from_config(config).parameters())
        own = getattr(tl.models, name)
        assert trees.count(trees.define(getattr(own, size)().build()).params) == want, name


def test_an_old_modernbert_config_is_read_as_in_transformers() -> None:
    old = {"model_type": "modernbert", "num_hidden_layers": 5, "global_attn_every_n_layers": 2, "global_rope_theta": 900.0,
           "local_rope_theta": 30.0, "reference_compile": False}  # fmt: skip
    theirs, ours = transformers.ModernBertConfig(**old), modernbert_from_hf(old)
    assert list(ours.kinds) == theirs.layer_types
    assert ours.global_rope_theta == theirs.rope_parameters["full_attention"]["rope_theta"] == 900.0
    assert ours.local_rope_theta == theirs.rope_parameters["sliding_attention"]["rope_theta"] == 30.0
    assert modernbert_from_hf(json.loads(theirs.to_json_string())) == ours


@pytest.mark.parametrize(("case", "lost"), [("distilbert", "classifier."), ("mpnet", "pooler.dense.weight")])
def test_keys_that_are_unused_are_not_those_that_transformers_calls_unexpected(
    case: str, lost: str, tmp_path: Path
) -> None:
    """A hidden layer without its classifier, and a bias without its kernel."""
    kind, config = configured(case)
    whole = f"{kind}ForSequenceClassification" if lost == "classifier." else f"{kind}Model"
    getattr(transformers, whole)(config).save_pretrained(tmp_path)
    tensors = {k: x for k, x in load_file(tmp_path / "model.safetensors").items() if not k.startswith(lost)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    base = getattr(transformers, f"{kind}Model")
    bare = {} if kind == "DistilBert" else {"add_pooling_layer": False}
    _, report = base.from_pretrained(tmp_path, output_loading_info=True, **bare)
    source = tl.load(tmp_path)
    assert {key for key, _ in source.unused} == set(report["unexpected_keys"]) != set()
