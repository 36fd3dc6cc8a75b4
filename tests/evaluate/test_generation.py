"""Generation: nobody who reads one text at a time would notice that a cache, a batch or padding changes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from support.checkpoints import write_decoder

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.evaluate.generation import filter_logits

NEW = 6


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    # With a random table that is also the head, the most likely next token is the last one again.
    write_decoder(folder, request.param, tie_word_embeddings=False)
    return tl.load(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    write_decoder(folder, "llama")
    return tl.load(folder)


PROMPTS = [[7, 8, 9, 10, 11], [12, 13], [30, 4, 22, 9, 9, 31, 17]]


def padded(side: str, width: int = 7) -> dict[str, np.ndarray]:
    ids, mask = np.full((3, width), 39), np.zeros((3, width), int)
    for row, prompt in enumerate(PROMPTS):
        place = slice(0, len(prompt)) if side == "right" else slice(width - len(prompt), width)
        ids[row, place], mask[row, place] = prompt, 1
    return {"input_ids": ids, "attention_mask": mask}


def test_a_text_depends_on_neither_cache_nor_batch_nor_side_of_padding(model) -> None:
    """Against the model run anew on the whole text for every token, one prompt at a time and without padding."""
    want = []
    for prompt in PROMPTS:
        text = list(prompt)
        for _ in range(NEW):
            # One shape for all lengths: what comes later is not seen.
            logits = np.asarray(model({"input_ids": [text + [0] * (16 - len(text))]})["logits"])[0, len(text) - 1]
            text.append(int(logits.argmax()))
        want.append(tuple(text[len(prompt) :]))
    for side in ("left", "right"):
        assert tl.generate(model, padded(side), max_new_tokens=NEW, stop=()).tokens == tuple(want), side
    assert len(set(want)) == 3


def test_a_text_stops_at_its_end(llama) -> None:
    free = tl.generate(llama, padded("left"), max_new_tokens=NEW, stop=()).tokens
    end = free[0][2]
    got = tl.generate(llama, padded("left"), max_new_tokens=NEW, stop=(end,))
    for row, text in enumerate(free):
        cut = text[: text.index(end) + 1] if end in text else text
        assert got.tokens[row] == cut
        assert got.stopped[row] == (end in text)
    assert got.stopped[0] and not all(got.stopped)
    never = next(token for token in range(40) if all(token not in text for text in free))
    own = replace(llama, config=replace(llama.config, eos_token_id=(end, never)))
    assert tl.generate(own, padded("left"), max_new_tokens=NEW).tokens == got.tokens


def test_samples_follow_their_seed_and_differ_from_row_to_row(llama) -> None:
    def sample(seed: int, **options):
        return tl.generate(
            llama, padded("left"), max_new_tokens=NEW, stop=(), temperature=1.5, seed=seed, **options
        ).tokens

    greedy = tl.generate(llama, padded("left"), max_new_tokens=NEW, stop=()).tokens
    assert sample(0) == sample(0) != sample(1) != greedy
    assert sample(0, top_k=1) == sample(5, top_p=1e-6) == greedy
    same = {"input_ids": np.tile(np.arange(7, 14), (3, 1))}
    assert len(set(tl.generate(llama, same, max_new_tokens=NEW, temperature=2.0, stop=()).tokens)) == 3


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.6), (7, 0.5), (50, 0.999), (1, 1.0)])
def test_exactly_the_most_likely_tokens_are_kept(top_k: int, top_p: float) -> None:
    logits = np.random.default_rng(3).normal(0, 2, (4, 13)).astype(np.float32)
    got = np.asarray(filter_logits(jnp.asarray(logits), jnp.int32(top_k), jnp.float32(top_p)))
    for row, kept in zip(logits, got, strict=True):
        order = np.argsort(-row)[: top_k or None]
        probability = softmax(row[order].astype(np.float64))
        inside = order[: int(np.searchsorted(np.cumsum(probability), top_p)) + 1]
        np.testing.assert_array_equal(np.flatnonzero(np.isfinite(kept)), np.sort(inside))
        np.testing.assert_array_equal(kept[inside], row[inside])


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ({"input_ids": [[4, 5]], "token_type_ids": [[0, 0]]}, {}, "'token_type_ids' is not an input of generate"),
        (
            {"input_ids": [[4, 5]], "attention_mask": [[1]]},
            {},
            r"'attention_mask' has shape \(1, 1\), but 'input_ids' has \(1, 2\)",
        ),
        ({"input_ids": [[4, 5], [6, 7]], "attention_mask": [[1, 1], [0, 0]]}, {}, "Prompt 1 has no tokens"),
        ({"input_ids": np.zeros((0, 3))}, {}, "There is no prompt"),
        (
            {"input_ids": [[4, 5]]},
            {"max_new_tokens": 63},
            "are 65 tokens, but .* has 64 positions; pass max_new_tokens=62",
        ),
        ({"input_ids": [[4] * 64]}, {"max_new_tokens": 1}, "are 65 tokens, but .* give a shorter prompt"),
        ({"input_ids": [[4, 5]]}, {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"input_ids": [[4, 5]]}, {"top_k": 3}, "set a temperature"),
        ({"input_ids": [[4, 5]]}, {"temperature": -1.0}, "temperature is -1"),
        ({"input_ids": [[4, 5]]}, {"temperature": 1.0, "top_p": 0.0}, "top_p is 0"),
        (["a text"], {}, "came without a tokenizer"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused(llama, prompts, options: dict, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        tl.generate(llama, prompts, **options)


def test_an_encoder_asked_for_text_is_refused(source) -> None:
    with pytest.raises(TransferlabError, match="has no language-model head over a decoder"):
        tl.generate(source, ["a"])


def test_generated_texts_keep_their_end_and_hold_no_padding(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    write_decoder(tmp_path, "llama")
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    source = tl.load(tmp_path)
    got = tl.generate(source, ["w7 w8 w9", "w12"], max_new_tokens=NEW, stop=())
    alone = tl.generate(source, ["w12", "w12"], max_new_tokens=NEW, stop=())
    assert got.texts[1] == alone.texts[0] == " ".join(f"w{t}" for t in got.tokens[1])
    with pytest.raises(TransferlabError, match="is longer than 64 tokens"):
        tl.generate(source, "w1 " * 70)
