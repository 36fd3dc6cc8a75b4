"""Arrays of numbers as examples: read as they are, each of one shape, or named."""

from __future__ import annotations

import numpy as np
import pytest

import transferlab as tl
from transferlab.data.inputs import inputs_for
from transferlab.errors import TransferlabError

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = ["a" if row[0] > 0 else "b" for row in X]


def test_a_column_of_float_arrays_is_the_content_and_comes_back_as_it_is() -> None:
    data = tl.dataset({"x": X, "label": Y})
    assert (data.content, data.modality, data.label_names) == ("array", "array", ("a", "b"))
    feed = inputs_for(data.records, tl.data.ArrayTransform((4,)), content=data.content, ids=data.ids)
    got = feed.inputs(data.train[:3], 0, 5)["array"]
    places = [int(data.ids[i].removeprefix("row ")) - 1 for i in data.train[:3]]
    np.testing.assert_array_equal(got[:3], X[places])
    assert got.shape == (5, 4) and not got[3:].any()
    counts = tl.dataset({"counts": (10 * X).astype(int), "label": Y}, array="counts")
    assert counts.content == "array"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2.0], [1.0, np.nan]] * 10, "row 2.* NaN"),
        ([[1.0, 2.0], [1.0]] * 10, r"row 2.*shape \(1,\), and that of row 1 of \(2,\)"),
        (["a", "b"] * 10, "row 1 is 'a', not an array of numbers"),
        ([None, [1.0]] * 10, "row 1.*missing"),
    ],
)
def test_a_row_that_is_no_array_of_numbers_like_the_others_is_named(column, message: str) -> None:
    with pytest.raises(TransferlabError, match=message):
        tl.dataset({"x": column, "label": ["a", "b"] * 10}, array="x")
