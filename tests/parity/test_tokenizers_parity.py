"""Tokenizers made from vocabulary files against transformers' own, on awkward text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.vocabularies import AWKWARD, pieces, write_bpe, write_sentencepiece, write_wordpiece

from transferlab.data.text import read_tokenizer

transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MPNET = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def compare(folder: Path, kind: str, theirs, texts: list[str] = AWKWARD) -> None:
    ours = read_tokenizer(folder, 48, kind=kind)
    assert ours is not None
    want = theirs(texts, truncation=True, max_length=48)["input_ids"]
    for text, one, ids in zip(texts, ours.encode(texts), want, strict=True):
        assert list(one.ids) == ids, text
    assert theirs.pad_token_id is None or ours.pad_id == theirs.pad_token_id


@pytest.mark.parametrize(
    "settings", [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
@pytest.mark.parametrize("kind", ["bert", "distilbert", "mpnet"])
def test_a_wordpiece_vocabulary_gives_the_ids_of_transformers(kind: str, settings: dict, tmp_path: Path) -> None:
    write_wordpiece(tmp_path, MPNET if kind == "mpnet" else BERT)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    made = {"bert": "Bert", "distilbert": "DistilBert", "mpnet": "MPNet"}[kind]
    theirs = getattr(transformers, f"{made}Tokenizer").from_pretrained(tmp_path)
    special = (MPNET if kind == "mpnet" else BERT)[-1]
    compare(tmp_path, kind, theirs, [*AWKWARD, f"the {special} sat{special}"])


@pytest.mark.parametrize("settings", [{}, {"add_prefix_space": True}])
def test_a_bpe_vocabulary_gives_the_ids_of_transformers(settings: dict, tmp_path: Path) -> None:
    write_bpe(tmp_path / "roberta", ROBERTA)
    write_bpe(tmp_path / "gpt2", ("<|endoftext|>",))
    for kind, made in (("roberta", "Roberta"), ("gpt2", "GPT2")):
        (tmp_path / kind / "tokenizer_config.json").write_text(json.dumps(settings))
        theirs = getattr(transformers, f"{made}Tokenizer").from_pretrained(tmp_path / kind)
        texts = [*AWKWARD, "the <mask> sat<mask>"] if kind == "roberta" else [*AWKWARD, "one<|endoftext|> two"]
        compare(tmp_path / kind, kind, theirs, texts)


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert"])
def test_a_sentencepiece_vocabulary_gives_the_ids_of_transformers(kind: str, tmp_path: Path) -> None:
    entries = pieces()
    write_sentencepiece(tmp_path / "sentencepiece.bpe.model", entries)
    # transformers reads such a file only through another package: here it gets the result.
    if kind == "xlm-roberta":
        first, rest = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], entries[3:]
        made = transformers.XLMRobertaTokenizer
    else:
        first = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
        rest, made = entries[1:], transformers.CamembertTokenizer
    compare(tmp_path, kind, made(vocab=[*first, *rest, ("<mask>", 0.0)]), [*AWKWARD, "the<mask> sat"])


@pytest.mark.parametrize("extra", [None, 7])
def test_t5s_sentencepiece_vocabulary_gives_the_ids_of_transformers(extra: int | None, tmp_path: Path) -> None:
    entries = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces()[3:]]
    write_sentencepiece(tmp_path / "spiece.model", entries)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({} if extra is None else {"extra_ids": extra}))
    count = 100 if extra is None else extra
    sentinels = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(count))]
    theirs = transformers.T5Tokenizer(vocab=[*entries, *sentinels], extra_ids=count)
    compare(tmp_path, "t5", theirs, [*AWKWARD, "the<extra_id_0> sat <extra_id_6>on", "<pad> and </s>"])
    compare(tmp_path, "mt5", theirs, AWKWARD[:4])


GENERAL = {"tokenizer_class": "PreTrainedTokenizerFast"}
UNCASED, PREFIXED = {"do_lower_case": False}, {"add_prefix_space": True}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", UNCASED),
        ("bert", {"strip_accents": False}),
        ("bert", {"tokenize_chinese_chars": False}),
        ("bert", {**UNCASED, "tokenizer_class": None}),
        ("bert", {**UNCASED, **GENERAL}),
        ("bert, cased", {"do_lower_case": None}),
        ("distilbert", UNCASED),
        ("mpnet", UNCASED),
        ("roberta", PREFIXED),
        ("roberta", {**PREFIXED, **GENERAL}),
        ("gpt2", PREFIXED),
        ("llama", {**PREFIXED, "tokenizer_class": None}),
        ("llama", {**PREFIXED, "tokenizer_class": "GPT2Tokenizer"}),
        ("qwen2", PREFIXED),
        ("xlm-roberta", {"add_prefix_space": False}),
        ("camembert", {"add_prefix_space": False}),
    ],
)  # fmt: skip
def test_settings_that_contradict_tokenizer_json_gives_the_ids_of_transformers(
    kind: str, settings: dict, tmp_path: Path
) -> None:
    kind, _, cased = kind.partition(", ")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    if kind in ("bert", "distilbert", "mpnet"):
        write_wordpiece(tmp_path, MPNET if kind == "mpnet" else BERT)
        cls = transformers.MPNetTokenizer if kind == "mpnet" else transformers.BertTokenizer
        made = cls.from_pretrained(tmp_path, do_lower_case=not cased)
    elif kind in ("xlm-roberta", "camembert"):
        first = [(token, 0.0) for token in ROBERTA[:4]]
        cls = transformers.XLMRobertaTokenizer if kind == "xlm-roberta" else transformers.CamembertTokenizer
        made = cls(vocab=[*first, *pieces()[3:], ("<mask>", 0.0)])
    else:
        write_bpe(tmp_path, ROBERTA if kind == "roberta" else ("<|endoftext|>",))
        cls = {"roberta": "RobertaTokenizer", "qwen2": "Qwen2Tokenizer"}.get(kind, "GPT2Tokenizer")
        made = getattr(transformers, cls).from_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    raw = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))
    compare(tmp_path, kind, transformers.AutoTokenizer.from_pretrained(tmp_path))
