"""Baselines on images of different sizes and on texts without words."""

from __future__ import annotations

import numpy as np

from transferlab.evaluate import baselines


def test_images_of_different_sizes_are_compared_by_pixels() -> None:
    dark = [np.full((3 + i, 5, 3), 20 + i, np.uint8) for i in range(3)]
    light = [np.full((7, 4 + i, 3), 220 + i, np.uint8) for i in range(3)]
    found = baselines.pixels([*dark[:2], *light[:2]], np.array([0, 0, 1, 1]), [dark[2], light[2]], 2)
    assert found.argmax(-1).tolist() == [0, 1]


def test_texts_without_a_word_get_the_frequencies_of_the_labels() -> None:
    found = baselines.tfidf(["\U0001f600", "", "a"], np.array([1, 1, 0]), ["good film"], 3)
    np.testing.assert_allclose(found, [[1 / 3, 2 / 3, 0]], rtol=1e-6)
