"""What a run trained comes back from its directory."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from PIL import Image
from support.checkpoints import write_bert, write_clip, write_vit
from support.runs import QUICK, fit, flat
from support.typed import found

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.train import Settings
from transferlab.train.predictor import _listed


def flat_arrays(tree: Any) -> dict[str, Any]:
    return dict(trees.walk(tree))


@pytest.mark.parametrize(
    "method", [tl.methods.Probe(), tl.methods.LoRA(rank=2), tl.methods.Full(), tl.methods.Scratch()]
)
def test_open_run_restores_what_fit_trained(source, films, tmp_path, method) -> None:
    data = films.subset(40, 0)
    _, result = fit(source, data, method, tmp_path / "run")
    predictor = tl.open_run(tmp_path / "run")
    got = predictor([data.records[i]["text"] for i in data.test])
    np.testing.assert_allclose(got, result.probabilities, atol=2e-6)
    assert predictor.labels == ("down", "up")


def test_a_predictor_names_examples_that_are_not_texts_and_knows_its_column(source, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from transferlab.cli.main import cli

    rows = [f"{'good' if i % 2 else 'bad'} film {i},{i % 2}" for i in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["sentence,class", *rows]))
    data = tl.dataset(tmp_path / "t.csv", test_examples=4, text="sentence", target="class")
    tl.adapt(source, data, method=tl.methods.Probe(), settings=Settings(max_steps=1), directory=tmp_path / "run").fit()
    predictor = tl.open_run(tmp_path / "run")
    for wrong, said in (
        ([None], r"examples\[0\]: the text is missing"),
        (["a", 3], r"examples\[1\]: the text is 3"),
        (["caf\udce9"], r"examples\[0\]: the text holds half of a character"),
    ):
        with pytest.raises(TransferlabError, match=said):
            predictor(wrong)
    with pytest.raises(TransferlabError, match=r"pass a list: predictor\(\['a film'\]\)"):
        predictor("a film")
    with pytest.raises(TransferlabError, match=r"trained on single texts, and examples\[0\] is a pair: \('a', 'b'\)"):
        predictor([("a", "b")])
    with pytest.raises(TransferlabError, match=r"trained on texts, and examples\[0\] is a list of words: \['a', 'b'\]"):
        predictor([["a", "b"]])
    (tmp_path / "new.tsv").write_text('id\tsentence\n1\t"good film\n2\tbad film"\n')
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), str(tmp_path / "new.tsv")])
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ['"good film', 'bad film"']
    (tmp_path / "new.csv").write_text("text\ngood film\n")
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), str(tmp_path / "new.csv")])
    assert done.exit_code == 1 and "has no column 'sentence'" in done.output
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--text=text"])
    assert done.exit_code == 0 and "good film" in done.stdout


@pytest.mark.parametrize(
    "method", [tl.methods.Probe(), tl.methods.LoRA(rank=2), tl.methods.Full(), tl.methods.Probe(weights="random")]
)
def test_a_result_predicts_what_its_run_predicts_when_it_is_opened(source, films, tmp_path, method) -> None:
    data, texts = films.subset(40, 0), ["good film", "dull film " * 9, ""]
    _, in_memory = fit(source, data, method)
    _, written = fit(source, data, method, tmp_path / "run")
    read = tl.adapt(source, data, method=method, settings=QUICK, directory=tmp_path / "run").fit()
    expected = tl.open_run(tmp_path / "run")
    for result in (in_memory, written, read):
        np.testing.assert_array_equal(result.predict(texts), expected(texts))
        assert result.labels == expected.labels == ("down", "up")
        assert str(result.present(texts)) == "\n".join(expected.present(texts).lines)
        np.testing.assert_array_equal(flat(result.params)["head/kernel"], flat(expected.params)["head/kernel"])
    assert in_memory.predict([]).shape == (0, 2)
    assert in_memory.present(texts).rows[0]["label"] in ("down", "up")


def test_numbers_are_predicted_in_the_units_of_the_data_by_a_result_in_memory(source, tmp_path: Path) -> None:
    rows = [f"{'good' if i % 2 else 'bad'} film {i},{900 + 37.5 * i}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["text,price", *rows]))
    data = tl.dataset(tmp_path / "t.csv", target="price", test_examples=8)
    _, result = fit(source, data, tl.methods.LoRA(rank=2), tmp_path / "run")
    texts = [data.records[i]["text"] for i in data.test]
    np.testing.assert_array_equal(result.predict(texts), tl.open_run(tmp_path / "run")(texts))
    np.testing.assert_allclose(result.predict(texts), result.predictions["value"], rtol=1e-5)
    assert str(result.present(texts[:1])).startswith("price ") and result.labels == ("price",)
    # What is exported has its head in the same units.
    kernel = flat(found(result.source).arrays[0])["head/kernel"]
    np.testing.assert_array_equal(flat(result.params)["head/kernel"], kernel)


def test_predictors_of_one_source_hold_its_frozen_leaves_once(source, films) -> None:
    results = [fit(source, films.subset(24, 0), tl.methods.LoRA(rank=2), seed=seed)[1] for seed in (0, 1)]
    first, second = (flat_arrays(result.predictor.params) for result in results)
    shared = [path for path in first if "lora" not in path and not path.startswith("head")]
    assert shared and all(first[path] is second[path] for path in shared)
    assert all(flat_arrays(results[0].params)[path] is first[path] for path in shared)
    assert len(source.resident) >= len(shared)
    del results, first, second
    gc.collect()
    assert not len(source.resident)


def test_what_cannot_be_predicted_is_one_error(source, films, tmp_path: Path) -> None:
    data = films.subset(24, 0)
    result = fit(source, data, tl.methods.Probe(), tmp_path / "run", keep_weights=False)[1]
    for wrong, said in (
        ("a film", r"a single text; pass a list: predictor\(\['a film'\]\)"),
        (b"a film", "a single text"),
        ({"text": ["a film"]}, r"of type dict; pass a list of texts.*predictor\(list\(table\['text'\]\)\)"),
        ({"a film"}, "of type set"),
        (np.array("a film"), "of type ndarray"),
        ([3], r"examples\[0\]: the text is 3"),
    ):
        with pytest.raises(TransferlabError, match=said):
            result.predict(cast("list[str]", wrong))
    for nothing in (None, 3):
        with pytest.raises(TransferlabError, match=f"of type {type(nothing).__name__}; pass a list of images"):
            _listed(nothing, "image")
    assert result.predict(text for text in ["a film"]).shape == (1, 2)
    # The weights went with this process's result.
    again = tl.adapt(
        source, data, method=tl.methods.Probe(), settings=QUICK, directory=tmp_path / "run", keep_weights=False
    ).fit()
    with pytest.raises(TransferlabError, match=r"not its weights. Fit it again, in another .*keep_weights=True"):
        again.predict(["a film"])
    assert again.params is None and again.source is None
    settings = replace(QUICK, learning_rate=1e30, optimizer=tl.train.Optimizer("sgd", {"momentum": 0.9}))
    with pytest.raises(tl.train.Diverged) as raised:
        fit(source, data, tl.methods.Full(), settings=settings)
    with pytest.raises(TransferlabError, match=r"diverged at step .*no weights to predict with.*learning_rate=1e\+29"):
        raised.value.results[0].predict(["a film"])


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_run_on_weights_that_came_alone_is_opened_again(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{i}.png")
    (write_vit if kind == "vit" else write_clip)(tmp_path / "base", kind)
    config = tl.load(tmp_path / "base").config
    weights = (tmp_path / "base" / "model.safetensors").rename(tmp_path / "weights.safetensors")
    # Of another size than that of the file, which the config says.
    source = tl.load(weights, config=config, tower="vision" if kind == "clip" else None).resized(8)
    data = tl.dataset(tmp_path / "data", test_examples=4)
    settings = Settings(max_steps=1)
    result = tl.adapt(source, data, method=tl.methods.Probe(), settings=settings, directory=tmp_path / "run").fit()
    predictor = tl.open_run(tmp_path / "run")
    images = [data.records[i]["image"] for i in data.test]
    np.testing.assert_allclose(predictor(images), result.probabilities, atol=2e-6)
    np.testing.assert_array_equal(result.predict(images), predictor(images))
    np.testing.assert_array_equal(result.predict(np.stack(images)), predictor(images))
    with pytest.raises(TransferlabError, match=r"a single image; pass a list: predictor\(\[image\]\)"):
        result.predict(images[0])


def test_open_run_refuses_a_base_that_is_not_the_one_it_was_trained_on(films, tmp_path) -> None:
    folder = write_bert(tmp_path / "base")
    fit(tl.load(folder), films.subset(40, 0), tl.methods.Probe(), tmp_path / "run")
    write_bert(folder, seed=9)
    with pytest.raises(TransferlabError, match="has other weights"):
        tl.open_run(tmp_path / "run")


@pytest.mark.parametrize("method", [tl.methods.Probe(weights="random"), tl.methods.LoRA(rank=2, weights="random")])
def test_a_run_from_random_weights_is_exported_with_them(source, films, tmp_path: Path, method) -> None:
    data = films.subset(24, 0)
    run, result = fit(source, data, method, tmp_path / "run", replace(QUICK, learning_rate=0.1))
    for exported in (found(result.adapted).merged(), found(tl.open_run(tmp_path / "run").adapted).merged()):
        inputs = run.feed.inputs(data.test[:8], int(run.feed.buckets(data.test[:8]).max()), 8)
        answered = jax.nn.softmax(exported(inputs)["logits"])
        np.testing.assert_allclose(answered, result.probabilities[:8], atol=1e-5)
