"""Tokenizers: from vocabulary files, what cannot be made, and on which side and with what a batch is padded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.typed import found
from support.vocabularies import pieces, write_bpe, write_sentencepiece, write_wordpiece
from tokenizers import Tokenizer, models

from transferlab.data.sentencepiece import read_sentencepiece
from transferlab.data.text import TextTransform, read_tokenizer
from transferlab.errors import TransferlabError
from transferlab.files import sha256_file

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def read(folder: Path, kind: str, **settings) -> TextTransform:
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    made = read_tokenizer(folder, 32, kind=kind)
    assert made is not None
    return made


def tokens(transform: TextTransform, text: str) -> list[str]:
    return [found(transform.tokenizer.id_to_token(i)) for i in transform(text).ids]


def test_a_bpe_vocabulary_is_framed_and_split_as_its_kind_is(tmp_path: Path) -> None:
    write_bpe(tmp_path, (*ROBERTA, "<|endoftext|>"))
    roberta, gpt2 = read(tmp_path, "roberta"), read(tmp_path, "gpt2")
    framed = tokens(roberta, "the cat")
    assert (framed[0], framed[-1]) == ("<s>", "</s>") and "".join(framed[1:-1]) == "theĠcat" and len(framed) < 9
    assert tokens(gpt2, "the cat<|endoftext|>") == [*framed[1:-1], "<|endoftext|>"]
    assert tokens(roberta, "é 💚")[1] != "<unk>" and roberta.tokenizer.decode(roberta("é 💚").ids) == "é 💚"
    assert roberta.pad_id == 1 and gpt2.sha256 != roberta.sha256
    assert tokens(read(tmp_path, "roberta", add_prefix_space=True), "the")[1] == "Ġthe"
    long = roberta("the cat sat on the mat " * 20)
    assert len(long.ids) == 32 and long.cut > 0


def test_the_hash_of_a_vocabulary_includes_its_merges(tmp_path: Path) -> None:
    write_bpe(tmp_path, ROBERTA)
    before = read(tmp_path, "roberta").sha256
    lines = (tmp_path / "merges.txt").read_text("utf-8").splitlines()
    (tmp_path / "merges.txt").write_text("\n".join(lines[:-1]), "utf-8")
    assert read(tmp_path, "roberta").sha256 != before


def test_a_wordpiece_vocabulary_is_framed_as_its_kind_is(tmp_path: Path) -> None:
    write_wordpiece(tmp_path, ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"))
    assert tokens(read(tmp_path, "mpnet"), "The <mask> ☃") == ["<s>", "the", "<mask>", "[UNK]", "</s>"]
    with pytest.raises(TransferlabError, match=r"lacks the cls token '\[CLS\]'"):
        read(tmp_path, "bert")
    write_wordpiece(tmp_path, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    assert tokens(read(tmp_path, "distilbert"), "The MAT") == ["[CLS]", "the", "mat", "[SEP]"]
    assert tokens(read(tmp_path, "bert", do_lower_case=False), "tHe")[1] != "the"
    assert tokens(read(tmp_path, "roberta", tokenizer_class="BertTokenizerFast"), "the") == ["[CLS]", "the", "[SEP]"]


def test_a_sentencepiece_vocabulary_has_sentencepieces_ids(tmp_path: Path) -> None:
    entries = pieces()
    write_sentencepiece(tmp_path / "sentencepiece.bpe.model", entries)
    found = read_sentencepiece(tmp_path / "sentencepiece.bpe.model")
    assert [piece.text for piece in found.pieces] == [text for text, _ in entries]
    np.testing.assert_allclose([piece.score for piece in found.pieces], [score for _, score in entries], rtol=1e-6)
    assert [piece.kind for piece in found.pieces[:4]] == [2, 3, 3, 1] and found.unigram
    xlmr = read(tmp_path, "xlm-roberta")
    names = [xlmr.tokenizer.id_to_token(i) for i in range(5)]
    assert names == ["<s>", "<pad>", "</s>", "<unk>", entries[3][0]] and xlmr.pad_id == 1
    assert xlmr.tokenizer.token_to_id("<mask>") == len(entries) + 1
    camembert = read(tmp_path, "camembert")
    assert [camembert.tokenizer.id_to_token(i) for i in range(7)][1:7:2] == ["<pad>", "<unk>", "<s>"]
    for transform in (xlmr, camembert):
        assert tokens(transform, "☃")[-1] == "</s>" and "<unk>" in tokens(transform, "☃")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("qwen2", {}, "none can be made from merges.txt, vocab.json for 'qwen2'"),
        ("xlm-roberta", {}, "a tokenizer of 'xlm-roberta' is made from sentencepiece.bpe.model"),
        ("roberta", {"tokenizer_class": "BertweetTokenizer"}, "(?s)for 'Bertweet'.*>>> AutoTokenizer.from_pretrained"),
    ],
)
def test_a_vocabulary_of_an_unknown_kind_is_not_guessed_at(
    kind: str, settings: dict, message: str, tmp_path: Path
) -> None:
    write_bpe(tmp_path, ROBERTA)
    with pytest.raises(TransferlabError, match=message.replace("merges.txt, vocab.json", "vocab.json, merges.txt")):
        read(tmp_path, kind, **settings)


def cased(folder: Path, **settings) -> TextTransform:
    """A ``tokenizer.json`` that keeps capitals, in a directory of a BERT, with these settings."""
    write_wordpiece(folder, BERT)
    made = read(folder, "bert", do_lower_case=False)
    made.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    return read(folder, "bert", model_max_length=32, **settings)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"do_lower_case": False}, False),
        ({"do_lower_case": True}, True),
        ({}, True),
        ({"tokenizer_class": "BertTokenizerFast", "strip_accents": False}, True),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}, False),
        ({"tokenizer_class": "XLMRobertaTokenizer", "do_lower_case": True}, False),
    ],
)
def test_the_settings_of_its_own_class_override_tokenizer_json(settings: dict, want: bool, tmp_path: Path) -> None:
    made = cased(tmp_path, **settings)
    assert (tokens(made, "THE")[1] == "the") == want
    assert (made.sha256 != sha256_file(tmp_path / "tokenizer.json")) == want


def test_a_tokenizer_without_a_model_keeps_its_file_as_it_is(tmp_path: Path) -> None:
    cased(tmp_path)
    (tmp_path / "config.json").unlink()
    assert tokens(read(tmp_path, "bert"), "THE")[1] != "the"


def test_a_setting_of_the_wrong_type_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(
        TransferlabError, match=r"tokenizer_config\.json: strip_accents is 'yes'; it must be true or false"
    ):
        cased(tmp_path, strip_accents="yes")


def test_the_lower_case_of_sentence_transformers_is_applied_and_hashed(tmp_path: Path) -> None:
    before = cased(tmp_path, do_lower_case=False)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    after = read(tmp_path, "bert", do_lower_case=False)
    assert tokens(after, "THE Cat") == tokens(before, "the cat") != tokens(before, "THE Cat")
    assert after.sha256 != before.sha256
    (tmp_path / "bpe").mkdir()
    write_bpe(tmp_path / "bpe", ROBERTA)
    (tmp_path / "bpe" / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert tokens(read(tmp_path / "bpe", "roberta"), "THE")[1] == "the"


def test_a_file_that_is_not_a_vocabulary_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "sentencepiece.bpe.model"
    for content in (b"", b"\xff\xff\xff", b"version https://git-lfs.github.com/spec/v1", b"\x0a\x7fshort"):
        path.write_bytes(content)
        with pytest.raises(TransferlabError, match="not a readable SentencePiece model"):
            read(tmp_path, "xlm-roberta")
    write_sentencepiece(path, pieces(), model_type=2)
    with pytest.raises(TransferlabError, match="expected a unigram model"):
        read(tmp_path, "xlm-roberta")
    write_bpe(tmp_path, ROBERTA)
    (tmp_path / "vocab.json").write_text("[1, 2]")
    with pytest.raises(TransferlabError, match=r"vocab\.json: not a readable vocabulary"):
        read(tmp_path, "roberta")


def test_an_added_token_keeps_its_id(tmp_path: Path) -> None:
    write_bpe(tmp_path, ROBERTA)
    size = len(json.loads((tmp_path / "vocab.json").read_text("utf-8")))
    added = {str(size): {"content": "<user>", "special": True, "lstrip": True}}
    made = read(tmp_path, "roberta", added_tokens_decoder=added)
    assert tokens(made, "the <user>") == ["<s>", "the", "<user>", "</s>"] and made("<user>").ids[1] == size
    with pytest.raises(TransferlabError, match=rf"'<user>' should have id {size + 3}"):
        read(tmp_path, "roberta", added_tokens_decoder={str(size + 3): {"content": "<user>"}})


@pytest.mark.parametrize(
    ("settings", "padding", "want"),
    [
        ({"pad_token": "[P]"}, None, 2),
        ({"pad_token": {"content": "[P]"}}, {"pad_id": 1, "pad_token": "b"}, 2),
        ({}, {"pad_id": 1, "pad_token": "b"}, 1),
        ({"pad_token": "absent"}, {"pad_id": 1, "pad_token": "b"}, 4),
        ({}, None, 3),
    ],
)
def test_the_padding_token_is_the_one_that_the_files_name(settings: dict, padding, want: int, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[P]": 2, "<pad>": 3}, unk_token="a"))
    if padding:
        tokenizer.enable_padding(**padding)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert read(tmp_path, "bert", model_max_length=8, **settings).pad_id == want


def test_a_batch_is_padded_on_the_models_side_and_has_its_token_types(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<pad>": 3}, unk_token="a"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    left = read(tmp_path, "bert", padding_side="left")
    batch = left.pad([left("b")], 4, 2)
    assert batch["input_ids"].tolist() == [[3, 3, 3, 1], [3, 3, 3, 3]]
    assert batch["attention_mask"].tolist() == [[0, 0, 0, 1], [0] * 4]
    assert "token_type_ids" in batch and left.describe()["side"] == "left"
    right = read_tokenizer(tmp_path.rename(tmp_path.parent / "moved"), 600, types=False)
    assert right is not None and right.pad([right("b")], 4, 1).keys() == {"input_ids", "attention_mask"}
    assert right.bucket(500) == 512 and right.bucket(513) == 600
    (tmp_path.parent / "moved" / "tokenizer_config.json").write_text('{"padding_side": "both"}')
    with pytest.raises(TransferlabError, match="padding_side 'both'"):
        read_tokenizer(tmp_path.parent / "moved", 8)


@pytest.mark.parametrize("name", ["do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space"])
def test_a_setting_that_is_neither_true_nor_false_is_not_taken_for_true(name: str, tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TransferlabError, match=rf"tokenizer_config\.json: {name} is 'false'; it must be true or false"):
        read(tmp_path, "bert", **{name: "false"})
    assert read(tmp_path, "bert", **{name: False}).max_length == 32


def test_a_setting_of_the_vocabulary_is_part_of_what_identifies_it(tmp_path: Path) -> None:
    write_wordpiece(tmp_path, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "THE", "CAT"))
    upper, lower = read(tmp_path, "bert", do_lower_case=False), read(tmp_path, "bert", do_lower_case=True)
    assert upper("THE CAT").ids != lower("THE CAT").ids
    assert upper.sha256 != lower.sha256 == read(tmp_path, "bert", do_lower_case=True).sha256


def test_the_right_end_is_cut_off_and_counted(tmp_path: Path) -> None:
    write_wordpiece(tmp_path, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat"))
    text = "cat " + "the " * 40
    for side, first in (("right", "cat"), ("left", "the")):
        made = read(tmp_path, "bert", truncation_side=side)
        assert tokens(made, text)[1] == first and made(text).cut == 41 - 30
    with pytest.raises(TransferlabError, match="truncation_side 'middle'"):
        read(tmp_path, "bert", truncation_side="middle")
