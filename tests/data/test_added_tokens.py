"""Tokens that a directory names next to its vocabulary are found whole, with the ids of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from transferlab.data.text import TextTransform, read_tokenizer
from transferlab.errors import TransferlabError


def read(folder: Path, settings: dict | None = None, **files: object) -> TextTransform:
    """A vocabulary of six, and the files next to it."""
    made = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "b": 3, "</s>": 4, "c": 5}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<pad>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16, **(settings or {})}))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    transform = read_tokenizer(folder, 16)
    assert transform is not None
    return transform


START = {"content": "<s1>", "special": True}


@pytest.mark.parametrize(
    ("settings", "files", "want"),
    [
        ({}, {}, [2, 1, 3]),
        ({"additional_special_tokens": ["<s1>"]}, {}, [2, 6, 3]),
        ({"extra_special_tokens": ["<s0>", "<s1>"]}, {}, [2, 7, 3]),
        ({"extra_special_tokens": {"start": "<s1>"}}, {}, [2, 6, 3]),
        ({"image_token": "<s1>"}, {}, [2, 6, 3]),
        ({"pad_token": "<s1>", "bos_token": "<s0>"}, {}, [2, 7, 3]),
        ({"added_tokens_decoder": {"7": START, "6": {"content": "<s0>"}}}, {}, [2, 7, 3]),
        ({}, {"added_tokens": {"<s1>": 7, "<s0>": 6}}, [2, 7, 3]),
        ({}, {"special_tokens_map": {"extra_special_tokens": ["<s1>"]}}, [2, 6, 3]),
        ({"added_tokens_decoder": {}}, {"special_tokens_map": {"pad_token": "<s1>"}}, [2, 1, 3]),
    ],
)  # fmt: skip
def test_a_token_next_to_the_vocabulary_is_known(settings: dict, files: dict, want: list[int], tmp_path: Path) -> None:
    assert list(read(tmp_path, settings, **files)("a <s1> b").ids) == want


def test_a_special_token_of_the_vocabulary_is_found_within_a_word(tmp_path: Path) -> None:
    assert list(read(tmp_path)("a</s>b").ids) == [1]
    assert list(read(tmp_path, {"eos_token": "</s>"})("a</s>b").ids) == [2, 4, 3]


def test_another_tokenizer_has_another_hash(tmp_path: Path) -> None:
    assert read(tmp_path).sha256 != read(tmp_path, {"extra_special_tokens": ["<s1>"]}).sha256
    assert read(tmp_path).sha256 == read(tmp_path, {"pad_token": "<pad>"}).sha256


@pytest.mark.parametrize(
    ("settings", "files", "message"),
    [
        ({}, {"added_tokens": {"<s1>": 9}}, r"added_tokens\.json: the added token '<s1>' should have id 9, but gets 6"),
        ({"added_tokens_decoder": {"5": START}}, {}, r"tokenizer_config\.json: .*'<s1>' should have id 5, but gets 6"),
        ({}, {"added_tokens": ["<s1>"]}, r"added_tokens\.json: expected a JSON object"),
        ({"pad_token": {"lstrip": True}}, {}, "expected a token; got"),
        ({"split_special_tokens": True}, {}, "split_special_tokens is true"),
    ],
)
def test_a_token_that_cannot_be_read_is_refused_by_name(
    settings: dict, files: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TransferlabError, match=message):
        read(tmp_path, settings, **files)
