"""Arrays of different lengths kept as one."""

from __future__ import annotations

import numpy as np
import pytest

from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError
from transferlab.tasks.prediction import all_finite, take


def test_each_array_comes_back_by_its_index() -> None:
    arrays = [np.array([[1.0, 2.0]]), np.zeros((0, 2)), np.array([[3.0, 4.0], [5.0, 6.0]])]
    ragged = Ragged.of(arrays)
    assert len(ragged) == 3 and ragged.offsets.tolist() == [0, 1, 1, 3]
    for got, want in zip(ragged, arrays, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(ragged[-1], arrays[2])
    assert [part.shape for part in ragged[1:]] == [(0, 2), (2, 2)]
    chosen = take(ragged, np.array([2, 0]))
    assert isinstance(chosen, Ragged) and chosen.values[:, 0].tolist() == [3.0, 5.0, 1.0]
    with pytest.raises(IndexError):
        ragged[3]
    assert len(Ragged.of([])) == 0


@pytest.mark.parametrize("offsets", [[], [1, 3], [0, 2], [0, 3, 2, 3]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    with pytest.raises(TransferlabError, match="offsets must rise from 0 to 3"):
        Ragged(np.zeros(3), np.array(offsets, np.int64))


def test_finite_predictions_may_be_texts() -> None:
    assert all_finite({"text": np.array(["a"]), "p": Ragged.of([np.array([0.5])])})
    assert not all_finite({"p": Ragged.of([np.array([np.nan])])})
