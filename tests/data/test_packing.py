"""Packing: every text once, none seen by another, in few shapes and with hardly any padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import fuzz

from transferlab.data.packing import NARROWEST, pack
from transferlab.data.text import Encoded


def texts_of(lengths: list[int]) -> list[Encoded]:
    return [
        Encoded(tuple(1000 * number + i for i in range(length)), (number % 2,) * length, 0)
        for number, length in enumerate(lengths, 1)
    ]


@fuzz(60)
@given(st.lists(st.integers(1, 300), max_size=60), st.sampled_from([64, 256, 2048]), st.integers(0, 2))
def test_every_text_is_packed_whole_and_alone(lengths: list[int], tokens: int, first: int) -> None:
    texts = texts_of(lengths)
    width = max([NARROWEST, *lengths])
    batches = list(pack(texts, width, tokens, pad=7, types=True, first_position=first))
    assert sorted(text for batch in batches for text in batch.texts) == list(range(len(texts)))
    for batch in batches:
        flat = {
            name: batch.inputs[name].reshape(-1) for name in ("input_ids", "position_ids", "segments", "token_type_ids")
        }
        wide = batch.inputs["input_ids"].shape[1]
        free = np.ones(flat["segments"].size, bool)
        for place, text in enumerate(batch.texts):
            start, length = batch.inputs["starts"][place], batch.inputs["lengths"][place]
            own = slice(start, start + length)
            assert free[own].all() and start // wide == (start + length - 1) // wide
            free[own] = False
            assert flat["input_ids"][own].tolist() == list(texts[text].ids)
            assert flat["token_type_ids"][own].tolist() == list(texts[text].types)
            assert flat["position_ids"][own].tolist() == list(range(first, first + length))
            mark = flat["segments"][own]
            row = batch.inputs["segments"][start // wide]
            assert mark[0] > 0 and (mark == mark[0]).all() and (row == mark[0]).sum() == length
        assert (flat["segments"][free] == 0).all() and (flat["input_ids"][free] == 7).all()
        assert not batch.inputs["lengths"][len(batch.texts) :].any()


@pytest.mark.parametrize("longest", [30, 60, 300])
def test_packed_rows_are_mostly_text_and_of_few_shapes(longest: int) -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(1 / 20, 3000) + 2, longest).tolist()
    batches = list(pack(texts_of(lengths), max(longest, NARROWEST), 2048, pad=0, types=False, first_position=0))
    assert len({tuple(x.shape for x in batch.inputs.values()) for batch in batches}) <= 3
    assert sum(lengths) > 0.9 * sum(batch.inputs["input_ids"].size for batch in batches)
    assert "token_type_ids" not in batches[0].inputs


@pytest.mark.parametrize("lengths", [[300, *[40] * 1000], [0], [0, 0, 70], [200, *[3] * 3000]])
def test_lengths_that_leave_a_width_without_a_row_are_packed(lengths: list[int]) -> None:
    batches = list(pack(texts_of(lengths), max(NARROWEST, *lengths), 1024, pad=0, types=True, first_position=0))
    assert sorted(text for batch in batches for text in batch.texts) == list(range(len(lengths)))
