"""Classifiers of tokens against transformers': logits, the loss of a batch, files both ways, adapters, and words as its fast
tokenizers cut them."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import compare
from support.vocabularies import AWKWARD, CORPUS, pieces, write_bpe, write_sentencepiece, write_wordpiece
from support.words import tagged

import transferlab as tl
from transferlab.measure.spans import spans_of
from transferlab.models import TokenClassifierConfig
from transferlab.tasks import TokenLabels
from transferlab.tasks.base import StepBatch

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": 90,
         "max_position_embeddings": 50}  # fmt: skip
CASES = {
    "Bert": {**SIZES},
    "Roberta": {**SIZES, "pad_token_id": 1},
    "XLMRoberta": {**SIZES, "pad_token_id": 1, "classifier_dropout": 0.25},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40, "vocab_size": 90, "max_position_embeddings": 50},
    "MPNet": {**SIZES, "pad_token_id": 1},
    "ModernBert": {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
                   "norm_bias": True, "classifier_bias": True},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 50, "vocab_size": 90, "bos_token_id": 1, "eos_token_id": 2},
    "Llama": {**SIZES, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2},
    "Qwen2": {**SIZES, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2},
    "T5": {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4, "vocab_size": 90, "pad_token_id": 0},
}  # fmt: skip
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}


def reference(kind: str, folder: Path, **more):
    config = getattr(transformers, f"{kind}Config")(
        **CASES[kind], id2label=LABELS, label2id={name: i for i, name in LABELS.items()}, **more
    )
    model = getattr(transformers, f"{kind}ForTokenClassification")(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "position_embeddings" not in name:
                p.add_(0.1 * torch.randn(p.shape))
    model.save_pretrained(folder)
    return model


def batch(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three rows, of which two are padded; tags at some tokens."""
    rng = np.random.default_rng(seed)
    ids, mask, tags = rng.integers(5, 90, (3, 17)), np.ones((3, 17), np.int64), rng.integers(0, 4, (3, 17))
    mask[1, 9:], mask[2, 14:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}, np.where((rng.random((3, 17)) < 0.4) | (mask == 0), -100, tags)


@pytest.mark.parametrize("kind", CASES)
def test_logits_and_the_loss_of_a_batch_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    model = reference(kind, tmp_path / "theirs")
    source, (inputs, tags) = tl.load(tmp_path / "theirs"), batch()
    assert isinstance(source.head, TokenClassifierConfig) and source.labels == tuple(LABELS.values())
    assert not [key for key, why in source.unused if "head" in why]
    assert source.head.dropout == pytest.approx(
        next(m.p for n, m in model.named_children() if isinstance(m, torch.nn.Dropout))
    )
    with torch.no_grad():
        want = model(**{k: torch.tensor(v) for k, v in inputs.items()}, labels=torch.tensor(tags))
    logits, seen = source(inputs)["logits"], inputs["attention_mask"].astype(bool)
    compare(np.asarray(logits)[seen], want.logits.numpy()[seen], family=kind, form="transformers", what="logits")
    step: StepBatch = {
        "inputs": {},
        "targets": {"tag": jnp.asarray(np.where(tags < 0, -1, tags))},
        "weight": jnp.ones(3),
    }
    task = TokenLabels()
    loss = task.loss({"logits": logits}, step)["loss"] / task.weights(step)["loss"]
    assert float(loss) == pytest.approx(float(want.loss), abs=1e-5)
    # And back: transformers loads what is written here, key by key.
    tl.save(source, tmp_path / "ours")
    again, said = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    tl.save(source, tmp_path / "tree", format="orbax")
    np.testing.assert_allclose(tl.load(tmp_path / "tree")(inputs)["logits"], logits, atol=1e-6)


@pytest.mark.parametrize("kind", CASES)
def test_a_new_head_on_a_bare_model_is_written_as_transformers_has_it(kind: str, tmp_path: Path) -> None:
    model = reference(kind, tmp_path / "heads")
    base = model.base_model if kind != "T5" else model.transformer
    base.save_pretrained(tmp_path / "bare")
    source, (inputs, _) = tl.load(tmp_path / "bare"), batch()
    head = TokenClassifierConfig(("a", "b", "c"), dropout=0.1, hidden=tl.load(tmp_path / "heads").head.hidden)  # pyright: ignore
    rng, paths = np.random.default_rng(0), tl.trees.flatten(tl.trees.define(source.config.build(head)).params)
    values = {
        p: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for p, leaf in paths.items() if p.startswith("head/")
    }
    ours = source.with_params(tl.trees.unflatten(values), head=head)
    tl.save(ours, tmp_path / "ours")
    again, said = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    assert again.config.id2label == {0: "a", 1: "b", 2: "c"} and again.config.architectures == [type(model).__name__]
    with torch.no_grad():
        want = again.eval()(**{k: torch.tensor(v) for k, v in inputs.items()}).logits.numpy()
    seen = inputs["attention_mask"].astype(bool)
    np.testing.assert_allclose(np.asarray(ours(inputs)["logits"])[seen], want[seen], atol=2e-5)


def test_an_adapter_of_tokens_goes_to_peft_and_back(tmp_path: Path, source) -> None:
    peft = pytest.importorskip("peft")
    result = tl.adapt(
        source, tagged(60), method=tl.methods.LoRA(rank=2), settings=tl.train.Settings(steps=3, batch_size=8)
    ).fit()
    assert result.adapted is not None
    result.adapted.save_adapter(tmp_path / "adapter")
    labels = {"num_labels": 4}
    base = transformers.AutoModelForTokenClassification.from_pretrained(source.name, **labels)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    inputs = {"input_ids": np.arange(4, 16).reshape(2, 6), "attention_mask": np.ones((2, 6), np.int64)}
    with torch.no_grad():
        want = model(**{k: torch.tensor(v) for k, v in inputs.items()}).logits.numpy()
    np.testing.assert_allclose(result.adapted(inputs)["logits"], want, atol=2e-5)
    model.save_pretrained(tmp_path / "theirs")
    np.testing.assert_allclose(tl.load_adapter(tmp_path / "theirs", source)(inputs)["logits"], want, atol=2e-5)


WORDS = [text.split() for text in (*CORPUS, *AWKWARD) if text.split()] + [
    ["don't", "naïve", "日本漢字", "x" * 30, "1234,5678"]
]


def tokenizer(kind: str, folder: Path):
    """Write the vocabulary of a kind; return transformers' tokenizer of it."""
    if kind in ("xlm-roberta", "t5"):
        # transformers reads such a file only through another package: here it gets the result.
        first = ["<s>", "<pad>", "</s>", "<unk>"] if kind == "xlm-roberta" else ["<pad>", "</s>", "<unk>"]
        entries = pieces()
        vocabulary = [*((token, 0.0) for token in first), *entries[3:]]
        if kind == "xlm-roberta":
            write_sentencepiece(folder / "sentencepiece.bpe.model", entries)
            return transformers.XLMRobertaTokenizer(vocab=[*vocabulary, ("<mask>", 0.0)])
        write_sentencepiece(folder / "spiece.model", vocabulary)
        sentinels = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
        return transformers.T5Tokenizer(vocab=[*vocabulary, *sentinels])
    if kind == "bert":
        write_wordpiece(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
        return transformers.BertTokenizer.from_pretrained(folder)
    write_bpe(folder, ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if kind == "roberta" else ("<|endoftext|>",))
    made = transformers.RobertaTokenizer if kind == "roberta" else transformers.GPT2Tokenizer
    return made.from_pretrained(folder, add_prefix_space=True)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "xlm-roberta", "t5"])
def test_words_are_cut_as_transformers_cuts_them(kind: str, tmp_path: Path) -> None:
    from transferlab.data.text import read_tokenizer

    theirs, transform = tokenizer(kind, tmp_path), read_tokenizer(tmp_path, 512, kind=kind)
    assert transform is not None
    for words, ours in zip(WORDS, transform.encode(WORDS), strict=True):
        want = theirs(words, is_split_into_words=True)
        assert list(ours.ids) == want["input_ids"]
        assert list(ours.words) == [-1 if i is None else i for i in want.word_ids()]


@pytest.mark.parametrize("scheme", ["bio", "iobes", "bilou"])
def test_spans_are_those_of_seqeval(scheme) -> None:
    seqeval = pytest.importorskip("seqeval.scheme")
    get_entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities

    prefixes, strict = {
        "bio": ("BI", seqeval.IOB2),
        "iobes": ("BIES", seqeval.IOBES),
        "bilou": ("BILU", seqeval.BILOU),
    }[scheme]
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in "XY")]
    for length in (1, 2, 3, 4):
        for chosen in itertools.product(tags, repeat=length):
            if scheme != "bilou":
                assert sorted(get_entities(list(chosen))) == sorted(spans_of(chosen, scheme))
            found = seqeval.Entities([list(chosen)], strict).entities[0]
            assert sorted((e.tag, e.start, e.end - 1) for e in found) == sorted(spans_of(chosen, scheme, strict=True))
