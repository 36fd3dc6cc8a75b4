"""Pairs of texts against transformers: ids, token types and truncation of each tokenizer, and a loss of fine-tuning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_bert
from support.typed import found
from support.vocabularies import AWKWARD, pieces, write_bpe, write_sentencepiece, write_wordpiece
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

import transferlab as tl
from transferlab.data.columns import Classes, Numbers
from transferlab.data.dataset import Dataset
from transferlab.data.text import TextTransform, read_tokenizer
from transferlab.train import Settings

transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")
torch = pytest.importorskip("torch")

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MPNET = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
TEXTS = [text for text in AWKWARD if text.strip()]
PAIRS = [(first, second) for first in TEXTS for second in TEXTS[::3]]


def compare(ours: TextTransform | None, theirs) -> None:
    """Ids, types where the tokenizer gives them to its model, and the number of tokens that were cut."""
    assert ours is not None
    first, second = ([pair[side] for pair in PAIRS] for side in (0, 1))
    want = theirs(first, second, truncation=True, max_length=ours.max_length)
    whole = theirs(first, second)["input_ids"]
    assert ours.types == ("token_type_ids" in want)
    for i, (pair, one) in enumerate(zip(PAIRS, ours.encode(PAIRS), strict=True)):
        assert list(one.ids) == want["input_ids"][i], pair
        assert one.cut == len(whole[i]) - len(one.ids), pair
        if ours.types:
            assert list(one.types) == want["token_type_ids"][i], pair


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "mpnet"])
def test_pairs_by_a_wordpiece_vocabulary_are_those_of_transformers(kind: str, side: str, tmp_path: Path) -> None:
    write_wordpiece(tmp_path, MPNET if kind == "mpnet" else BERT)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"truncation_side": side}))
    made = {"bert": "Bert", "distilbert": "DistilBert", "mpnet": "MPNet"}[kind]
    theirs = getattr(transformers, f"{made}Tokenizer").from_pretrained(tmp_path)
    compare(read_tokenizer(tmp_path, 24, kind=kind, types=kind == "bert"), theirs)
    theirs.save_pretrained(tmp_path / "saved")
    compare(read_tokenizer(tmp_path / "saved", 24, kind=kind, types=kind == "bert"), theirs)


def test_pairs_by_a_bpe_vocabulary_have_robertas_two_separators(tmp_path: Path) -> None:
    write_bpe(tmp_path, ROBERTA)
    theirs = transformers.RobertaTokenizer.from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path, 24, kind="roberta")
    compare(ours, theirs)
    assert ours is not None and ours.encode([("a", "b")])[0].ids.count(ours.tokenizer.token_to_id("</s>")) == 3
    theirs.save_pretrained(tmp_path / "saved")
    compare(read_tokenizer(tmp_path / "saved", 24, kind="roberta"), theirs)


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert", "t5"])
def test_pairs_by_a_sentencepiece_vocabulary_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    entries = pieces()
    if kind == "t5":
        entries = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *entries[3:]]
        write_sentencepiece(tmp_path / "spiece.model", entries)
        sentinels = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
        theirs = transformers.T5Tokenizer(vocab=[*entries, *sentinels], extra_ids=100)
    else:
        write_sentencepiece(tmp_path / "sentencepiece.bpe.model", entries)
        if kind == "xlm-roberta":
            first, rest = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], entries[3:]
            made = transformers.XLMRobertaTokenizer
        else:
            first, rest = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)], entries[1:]  # fmt: skip
            made = transformers.CamembertTokenizer
        theirs = made(vocab=[*first, *rest, ("<mask>", 0.0)])
    compare(read_tokenizer(tmp_path, 24, kind=kind), theirs)
    theirs.save_pretrained(tmp_path / "saved")
    compare(read_tokenizer(tmp_path / "saved", 24, kind=kind), theirs)


def modernbert(folder: Path, **settings) -> None:
    """ModernBERT's tokenizer: bytes, BERT's special tokens, one separator, and types that its model does not get."""
    write_bpe(folder, BERT)
    made = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in BERT])
    ids = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ids)
    made.save(str(folder / "tokenizer.json"))
    for file in ("vocab.json", "merges.txt"):
        (folder / file).unlink()
    named = {f"{token[1:-1].lower()}_token": token for token in BERT}
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, **fields, "model_max_length": 24, **settings}))


@pytest.mark.parametrize("side", ["right", "left"])
def test_pairs_of_modernbert_are_those_of_transformers(side: str, tmp_path: Path) -> None:
    modernbert(tmp_path, truncation_side=side)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path, 24, kind="modernbert", types=False)
    compare(ours, theirs)
    assert ours is not None and ours.encode([("a", "b")])[0].ids.count(3) == 2
    theirs.save_pretrained(tmp_path / "saved")
    compare(read_tokenizer(tmp_path / "saved", 24, kind="modernbert", types=False), theirs)


def test_a_bert_that_reads_by_another_models_tokenizer_gets_no_types_as_in_transformers(tmp_path: Path) -> None:
    first = [(token, 0.0) for token in ROBERTA[:4]]
    theirs = transformers.XLMRobertaTokenizer(vocab=[*first, *pieces()[3:], ("<mask>", 0.0)])
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    compare(read_tokenizer(tmp_path, 24, kind="bert"), theirs)


WORDS = ("good", "bad", "film", "the", "a", "day", "was", "very")


def pairs_of(count: int) -> Dataset:
    """Pairs of which the second repeats the first, or not; of different lengths."""
    rng = np.random.default_rng(0)
    sides = [" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(2 * count)]
    labels = rng.integers(0, 2, count).astype(np.int32)
    records = [
        {"id": f"row {i}", "text": sides[i], "text_pair": sides[i] if labels[i] else sides[count + i]}
        for i in range(count)
    ]
    order = np.arange(count)
    return Dataset("pairs", "pair", Classes(("other", "same"), labels), records, tuple(r["id"] for r in records),
                   order[: count - 4], order[:0], order[count - 4 :], "pairs of words")  # fmt: skip


def test_the_first_loss_and_gradient_on_pairs_are_those_of_berts_classifier(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    source, data = tl.load(tmp_path / "bert"), pairs_of(12)
    method = tl.methods.Full(pooling="pooler", head_dropout=0.0)
    settings = Settings(learning_rate=1e-3, steps=1, batch_size=8, log_every=1)
    result = tl.adapt(source, data, method=method, settings=settings, directory=tmp_path / "run").fit()
    assert result.source is not None
    # transformers on the same batch, from the same start.
    run = tl.adapt(source, data, method=method, settings=settings)
    start = run.plan.place(0)[0]
    tl.save(source.with_params(start, head=run.plan.head), tmp_path / "start")
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "start").train()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "start")
    batch = [data.records[int(i)] for i in run.order[0].indices]
    inputs = tokenizer([r["text"] for r in batch], [r["text_pair"] for r in batch], padding=True, return_tensors="pt")
    assert inputs["token_type_ids"].max() == 1
    labels = torch.tensor(data.labels[run.order[0].indices], dtype=torch.long)
    loss = model(**inputs, labels=labels).loss
    assert result.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    norm = float(torch.sqrt(sum((p.grad**2).sum() for p in model.parameters() if p.grad is not None)))
    assert result.history[0]["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    # What was trained goes back, with its tokenizer.
    tl.save(result.source, tmp_path / "trained")
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "trained").eval()
    tested = [data.records[int(i)] for i in data.test]
    inputs = tokenizer([r["text"] for r in tested], [r["text_pair"] for r in tested], padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**inputs).logits.softmax(-1).numpy()
    np.testing.assert_allclose(result.predictions["probabilities"], theirs, atol=1e-5)
    pairs = [(r["text"], r["text_pair"]) for r in tested]
    np.testing.assert_allclose(tl.open_run(tmp_path / "run")(pairs), theirs, atol=1e-5)


def test_the_logits_of_pairs_are_those_of_modernberts_classifier(tmp_path: Path) -> None:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3, "local_attention": 6,
             "vocab_size": 330, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}  # fmt: skip
    torch.manual_seed(0)
    transformers.ModernBertModel(transformers.ModernBertConfig(**sizes)).save_pretrained(tmp_path / "base")
    modernbert(tmp_path / "base")
    data, settings = pairs_of(12), Settings(learning_rate=1e-3, steps=2, batch_size=4, log_every=1)
    result = tl.adapt(tl.load(tmp_path / "base"), data, settings=settings).fit()
    out = tl.save(found(result.source), tmp_path / "trained")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert type(model) is transformers.ModernBertForSequenceClassification
    tested = [data.records[int(i)] for i in data.test]
    sides = [[record[side] for record in tested] for side in ("text", "text_pair")]
    inputs = transformers.AutoTokenizer.from_pretrained(out)(*sides, padding=True, truncation=True, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"} and not inputs["attention_mask"].all()
    with torch.no_grad():
        theirs = model(**inputs).logits.softmax(-1).numpy()
    np.testing.assert_allclose(result.predictions["probabilities"], theirs, atol=1e-5)


def test_a_regression_of_pairs_is_a_cross_encoder_of_sentence_transformers(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="pip install --no-deps sentence-transformers"
    )
    data = pairs_of(12)
    similarity = Numbers(("similarity",), 5.0 * data.labels[:, None] + np.arange(12)[:, None] / 12)
    method, settings = (
        tl.methods.Full(pooling="pooler"),
        Settings(learning_rate=1e-3, steps=2, batch_size=4, log_every=1),
    )
    source = tl.load(write_bert(tmp_path / "bert"))
    result = tl.adapt(source, replace(data, target=similarity), method=method, settings=settings).fit()
    tl.save(found(result.source), tmp_path / "cross-encoder")
    model = sentence_transformers.CrossEncoder(str(tmp_path / "cross-encoder"), device="cpu")
    tested = [data.records[int(i)] for i in data.test]
    scores = model.predict([(record["text"], record["text_pair"]) for record in tested])
    np.testing.assert_allclose(scores, result.predictions["value"][:, 0], rtol=1e-4)
