"""Features of a run: computed once, kept under what they depend on, and the same as when computed anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_bert
from support.runs import QUICK, fit

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.train import Optimizer, Settings, setup
from transferlab.transfer.cache import FrontierCache


def test_a_probe_runs_the_backbone_once_per_example(source, films) -> None:
    data = films.subset(40, 0)
    run = tl.adapt(source, data, method=tl.methods.Probe(), settings=QUICK)
    run.cache = FrontierCache()
    run.fit()
    assert run.cache.computed == len(data.train) + len(data.test)
    more = tl.adapt(source, films.subset(60, 0), method=tl.methods.Probe(), settings=QUICK)
    more.cache = run.cache
    more.fit()
    assert run.cache.computed == 60 + len(data.test)  # the 40 are among the 60


def test_cached_and_recomputed_features_give_the_same_run(source, films, monkeypatch) -> None:
    """Also for a frontier in the middle, whose carry has a length axis."""
    from dataclasses import dataclass

    from transferlab.transfer.groups import Group

    @dataclass(frozen=True)
    class LastLayers(tl.methods.Full):
        def groups(self, stages):
            return (Group("layers/1"), Group("head"))

    # So small a model would be recomputed.
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    data = films.subset(40, 0)
    # Not Adam: it scales a gradient that is rounding noise (the key's bias) up to the size of any other.
    settings = replace(QUICK, learning_rate=0.3, optimizer=Optimizer("sgd"))
    for method in (tl.methods.Probe(), LastLayers()):
        cached, first = fit(source, data, method, settings=settings)
        recomputed, second = fit(source, data, method, settings=replace(settings, cache_bytes=0))
        assert cached.decision.cached and not recomputed.decision.cached
        assert cached.program.frontier > 0 and recomputed.program.frontier == 0
        np.testing.assert_allclose(first.probabilities, second.probabilities, atol=2e-5)


def test_runs_of_another_precision_share_no_features(source, films, monkeypatch) -> None:
    monkeypatch.setattr("transferlab.transfer.frontier.FLOPS_PER_BYTE", 0.0)
    cache, data, kinds = FrontierCache(), films.subset(16, 0), []
    for precision in ("bfloat16", "float32"):
        run = tl.adapt(source, data, method=tl.methods.Probe(), settings=Settings(steps=2, precision=precision))
        run.cache = cache
        key = run.compute_features(*run.plan.place(0))
        kinds.append(str(cache.rows(key, data.train, 0, 16, ())["pooled"].dtype))
    assert kinds == ["bfloat16", "float32"]
    assert cache.computed == 2 * (16 + len(data.test))


def test_the_cache_key_changes_with_weights_data_preprocessing_and_precision(source, films, tmp_path) -> None:
    from transferlab.transfer.frontier import cache_key

    def key(source, data, precision="float32"):
        run = tl.adapt(source, data, method=tl.methods.Probe(), settings=QUICK)
        params, stats = run.plan.place(0)
        definition, frontier = run.plan.network, run.plan.frontier
        return cache_key(params, stats, definition, frontier, source.transform, data.sha256, precision)

    first = key(source, films)
    assert first != key(source, films, "bfloat16")
    assert first == key(source, films.subset(20, 1))
    assert first != key(tl.load(write_bert(tmp_path / "other", seed=1)), films)
    assert first != key(replace(source, transform=replace(source.transform, max_length=20)), films)
    assert first != key(source, replace(films, sha256="other"))


def test_another_config_of_the_same_weights_is_another_model(films, tmp_path: Path, monkeypatch) -> None:
    import transferlab.transfer.frontier as frontier

    monkeypatch.setattr(frontier, "FLOPS_PER_BYTE", 0.0)
    one, other = tmp_path / "one", tmp_path / "other"
    write_bert(one)
    write_bert(other, hidden_act="relu")
    cache, results = FrontierCache(tmp_path / "cache"), []
    for place in (one, other, one):
        run = tl.adapt(tl.load(place), films.subset(24, 0), method=tl.methods.Probe(), settings=QUICK)
        run.cache = cache
        results.append((run.fit().probabilities, cache.computed))
    assert results[1][1] == 2 * results[0][1] == results[2][1]
    assert not np.array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][0], results[2][0])
    # A run met again, and one that is opened, on a config that was changed in its place.
    fit(tl.load(one), films.subset(24, 0), tl.methods.Full(), tmp_path / "run")
    write_bert(one, hidden_act="relu")
    with pytest.raises(TransferlabError, match=r"config.hidden_act \(gelu → relu\)"):
        fit(tl.load(one), films.subset(24, 0), tl.methods.Full(), tmp_path / "run")
    with pytest.raises(TransferlabError, match="not what this run had: hidden_act"):
        tl.open_run(tmp_path / "run")


def test_what_was_computed_before_a_stop_is_kept(source, films, tmp_path: Path, monkeypatch) -> None:
    run = tl.adapt(source, films.subset(40, 0), method=tl.methods.Probe(), settings=QUICK)
    run.cache = FrontierCache(tmp_path)
    params, stats = run.plan.place(0)
    whole = setup.feature_batches

    def stopped(*args):
        yield next(iter(whole(*args)))
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "feature_batches", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.compute_features(params, stats)
    before = len(run._rows)
    again = FrontierCache(tmp_path)
    assert 0 < len(again.missing(run._key(params, stats), run._rows)) < before
