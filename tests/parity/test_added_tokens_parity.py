"""Tokens that a directory names next to its vocabulary, against transformers' own reading of the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.vocabularies import pieces, write_bpe, write_sentencepiece, write_wordpiece

from transferlab.data.text import read_tokenizer

transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")

SPECIAL = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "gpt2": ("<|endoftext|>",),
    "llama": ("<|endoftext|>",),
    "qwen2": ("<|endoftext|>",),
    "xlm-roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
}
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
TEXTS = [
    "the cat <|im_start|> sat<|im_end|>on", "<|im_start|>the <|Third|> mat<|third|>", "the NEWWORD newword cat", "x<new_pad>y",
    "", "a [MASK] of <mask>, [mask]s",
]  # fmt: skip


def write(folder: Path, kind: str, whole: bool) -> int:
    """A directory with a vocabulary, or with ``tokenizer.json``; returns how many tokens it has."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    if kind == "bert":
        write_wordpiece(folder, SPECIAL[kind])
        made = transformers.BertTokenizer.from_pretrained(folder)
    elif kind == "xlm-roberta":
        entries = pieces()
        write_sentencepiece(folder / "sentencepiece.bpe.model", entries)
        first = [(token, 0.0) for token in SPECIAL[kind][:4]]
        made = transformers.XLMRobertaTokenizer(vocab=[*first, *entries[3:], ("<mask>", 0.0)])
    else:
        write_bpe(folder, SPECIAL[kind])
        cls = {"roberta": "RobertaTokenizer", "qwen2": "Qwen2Tokenizer"}.get(kind, "GPT2Tokenizer")
        made = getattr(transformers, cls).from_pretrained(folder)
    if whole:
        for file in ("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"):
            (folder / file).unlink(missing_ok=True)
        made.save_pretrained(folder)
    return len(made)


def named(n: int) -> dict[str, dict[str, dict]]:
    """By case: file → what it says."""
    config, old, over = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
    start = {"content": "<|im_start|>", **FLAGS}
    end = {"content": "<|im_end|>", **FLAGS, "rstrip": True, "lstrip": True}
    plain = {"content": "newword", **FLAGS, "special": False, "normalized": True}
    return {
        "additional_special_tokens": {config: {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}},
        "extra_special_tokens, a list": {config: {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}},
        "extra_special_tokens, by name": {config: {"extra_special_tokens": {"z": "<|im_end|>", "a": "<|im_start|>"}}},
        "both": {config: {"extra_special_tokens": ["<|im_end|>"], "additional_special_tokens": ["<|im_start|>"]}},
        "a name of its own": {config: {"image_token": "<|im_start|>", "add_bos_token": False}},
        "added_tokens_decoder": {config: {"added_tokens_decoder": {str(n + 1): end, str(n): start, str(n + 2): plain}}},
        "added_tokens_decoder and more": {
            config: {
                "added_tokens_decoder": {str(n): start},
                "additional_special_tokens": ["<|third|>", "<|im_end|>"],
                "pad_token": "<new_pad>",
            },
            over: {"additional_special_tokens": ["unread"], "pad_token": "unread"},
        },
        "added_tokens.json": {old: {"newword": n + 1, "<|im_start|>": n}},
        "added_tokens.json, special": {
            old: {"<|im_end|>": n, "<new_pad>": n + 1},
            over: {"pad_token": "<new_pad>", "extra_special_tokens": ["<|im_end|>"]},
        },
        "a new pad_token": {config: {"pad_token": "<new_pad>"}},
        "a described pad_token": {config: {"pad_token": {"__type": "AddedToken", **start, "content": "<new_pad>"}}},
        "special_tokens_map.json": {
            config: {"pad_token": "unread"},
            over: {"pad_token": {**start, "content": "<new_pad>", "lstrip": True}, "additional_special_tokens": ["<|third|>"]},
        },
        "the order of new ones": {
            config: {"mask_token": "<|third|>", "pad_token": "<new_pad>", "extra_special_tokens": ["<|im_end|>"], "x_token": "<|im_start|>"}
        },
    }  # fmt: skip


@pytest.mark.parametrize("whole", [True, False], ids=["tokenizer.json", "vocabulary"])
@pytest.mark.parametrize("kind", list(SPECIAL))
@pytest.mark.parametrize("case", list(named(0)))
def test_tokens_next_to_the_vocabulary_are_never_cut_into_pieces(
    case: str, kind: str, whole: bool, tmp_path: Path
) -> None:
    if not whole and kind in ("llama", "qwen2", "xlm-roberta"):
        pytest.skip("read from tokenizer.json alone, or by another package in transformers")
    n = write(tmp_path, kind, whole)
    for file, said in named(n)[case].items():
        path = tmp_path / file
        before = json.loads(path.read_text()) if path.exists() else {}
        if file == "tokenizer_config.json" and "special_tokens_map.json" in named(n)[case]:
            before.pop("added_tokens_decoder", None)
        path.write_text(json.dumps({**before, **said}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path, 64, kind=kind)
    assert ours is not None
    for text, ids in zip(TEXTS, theirs(TEXTS)["input_ids"], strict=True):
        assert list(ours(text).ids) == ids, text
    assert theirs.pad_token_id is None or ours.pad_id == theirs.pad_token_id
    assert ours.tokenizer.get_vocab() == theirs.get_vocab()
