"""Features of any stage for anyone: what the model itself computes, once for every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support.checkpoints import write_vit

import transferlab as tl
from transferlab.data.ragged import Ragged
from transferlab.errors import TransferlabError
from transferlab.transfer.cache import FrontierCache

COUNT = """
import sys, transferlab as tl
from transferlab.transfer.cache import shared_cache
source, data = tl.load(sys.argv[1]), tl.dataset(sys.argv[2], examples=20)
features = tl.extract_features(source, data, "layers/*")
print(shared_cache().computed, float(features["layers/1"].sum()))
"""


def test_features_of_all_stages_are_those_of_the_model_one_text_at_a_time(source, films) -> None:
    data, cache = films.subset(12, 0), FrontierCache()
    features = tl.extract_features(source, data, ["embed", "layers/*"], pool="mean", cache=cache)
    assert list(features) == ["embed", "layers/0", "layers/1"]
    assert cache.computed == len(data.train) + len(data.test)  # one pass for all three
    network, (params, state) = source.network, source.arrays
    stop = {"embed": 1, "layers/0": 2, "layers/1": 3}
    run = jax.jit(lambda inputs, stop: network.run(params, state, inputs, stop=stop)[0], static_argnames="stop")
    for index in (data.train[0], data.test[-1]):
        ids = np.asarray([source.transform(data.records[int(index)]["text"]).ids])
        for name in features:
            want = np.asarray(run({"input_ids": ids}, stop[name])["hidden"][0]).mean(0)
            row = np.flatnonzero(features.examples == index)[0]
            np.testing.assert_allclose(features[name][row], want, atol=2e-5)
    assert (features.examples[features.train] == data.train).all()
    assert (features.examples[features.test] == data.test).all()
    again = tl.extract_features(source, data, "layers/0", pool="mean", cache=cache)
    np.testing.assert_array_equal(again["layers/0"], features["layers/0"])
    assert cache.computed == len(data.train) + len(data.test)


def test_without_pooling_texts_keep_their_tokens_and_images_their_patches(source, films, tmp_path: Path) -> None:
    data, cache = films.subset(12, 0), FrontierCache()
    tokens = tl.extract_features(source, data, "layers/1", pool=None, cache=cache)["layers/1"]
    pooled = tl.extract_features(source, data, "layers/1", pool="mean", cache=cache)["layers/1"]
    assert isinstance(tokens, Ragged) and len(tokens) == len(pooled)
    np.testing.assert_allclose(np.stack([each.mean(0) for each in tokens]), pooled, atol=2e-5)
    write_vit(tmp_path / "vit", "vit")
    digits = tl.dataset("digits", examples=10, test_examples=10)
    patches = tl.extract_features(tl.load(tmp_path / "vit"), digits, pool=None, cache=cache)
    (name,) = patches
    assert patches[name].ndim == 3 and len(patches[name]) == 20 and name == "pooler"


def test_the_second_process_reads_what_the_first_computed(bert_folder: Path, table: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT, str(bert_folder), str(table)]
    own = {**os.environ, "TRANSFERLAB_CACHE": str(tmp_path)}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own) for _ in range(2)]
    (one, first), (two, second) = (process.communicate()[0].split() for process in both)
    assert sorted([int(one), int(two)])[0] == 0 and int(one) + int(two) > 0
    assert first == second


def test_nearest_neighbours_ridge_and_alignment_need_no_run(source, films) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.neighbors import KNeighborsClassifier

    data = films.subset(40, 0)
    features = tl.extract_features(source, data, "layers/*", cache=FrontierCache())
    x, y = features["layers/1"], data.labels
    knn = KNeighborsClassifier(3, metric="cosine").fit(x[features.train], y[data.train])
    assert 0 <= knn.score(x[features.test], y[data.test]) <= 1
    assert Ridge().fit(x[features.train], y[data.train]).predict(x[features.test]).shape == (len(data.test),)

    def centred(x: np.ndarray) -> np.ndarray:
        return x - x.mean(0)

    def cka(a: np.ndarray, b: np.ndarray) -> float:
        """Kornblith et al. 2019, equation of linear CKA."""
        a, b = centred(a), centred(b)
        return float(np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)))

    assert cka(x, x) == pytest.approx(1, abs=1e-5)
    assert 0 < cka(features["layers/0"], x) < 1


def test_a_stage_that_the_source_lacks_is_named_with_the_nearest(source, films) -> None:
    with pytest.raises(TransferlabError, match=r"'layer/1' is no stage of its backbone.*'layers/1'"):
        tl.extract_features(source, films, "layer/1")
    with pytest.raises(TransferlabError, match="cannot pool by 'man'"):
        tl.extract_features(source, films, pool="man")
