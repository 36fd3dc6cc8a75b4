"""Special tokens, the mask token, and which tokens continue a word."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers

from transferlab.data.special_tokens import continues_word, mask_id, special_ids


def test_tokens_that_continue_a_word_are_known_by_their_prefix() -> None:
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2, "#": 3}, unk_token="[UNK]"))
    assert continues_word(pieces).tolist() == [False, False, True, False]
    spaced = Tokenizer(models.BPE({"<unk>": 0, "Ġplay": 1, "ing": 2}, [], unk_token="<unk>"))
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert continues_word(spaced).tolist() == [True, False, True]
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "play": 1}, unk_token="[UNK]"))
    assert not continues_word(words).any()


def test_what_is_no_text_is_known_with_and_without_a_mark() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "play": 2, "[MASK]": 3}, unk_token="[UNK]"))
    assert special_ids(tokenizer, 0) == {0, 1, 3} and mask_id(tokenizer) == 3
    tokenizer.add_special_tokens(["<extra>"])
    assert special_ids(tokenizer, 0) == {0, 1, 3, 4}
    assert mask_id(Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))) is None
