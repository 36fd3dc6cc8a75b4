"""Pairs of texts: how a tokenizer puts them together, what is refused, and runs of each task on them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.checkpoints import write_clip, write_decoder
from support.typed import as_text

import transferlab as tl
from transferlab.cli.main import cli
from transferlab.data.columns import Classes, Numbers, TagSets, Target
from transferlab.data.dataset import Dataset
from transferlab.errors import TransferlabError
from transferlab.train import Settings

QUICK = Settings(learning_rate=0.1, steps=40, batch_size=8, log_every=20)
WORDS = ("good", "bad", "film", "the", "a", "day", "was", "very")
RNG = np.random.default_rng(0)
SIDES = [" ".join(RNG.choice(WORDS, RNG.integers(1, 7))) for _ in range(120)]
SAME = RNG.integers(0, 2, 60).astype(np.int32)


def pairs(target: Target) -> Dataset:
    """60 pairs whose second text is the first, or another."""
    records = [
        {"id": f"row {i}", "text": SIDES[i], "text_pair": SIDES[i] if SAME[i] else SIDES[60 + i]} for i in range(60)
    ]
    ids, order = tuple(record["id"] for record in records), np.arange(60)
    return Dataset("pairs", "pair", target, records, ids, order[:40], order[:0], order[40:], f"pairs {target.kind}")


CLASSES = Classes(("other", "same"), SAME)


def test_a_pair_has_the_separators_and_types_of_its_source(source) -> None:
    transform = as_text(source.transform)
    one = transform.encode([("good film", "the day")])[0]
    words = [transform.tokenizer.id_to_token(id) for id in one.ids]
    assert words == ["[CLS]", "good", "film", "[SEP]", "the", "day", "[SEP]"]
    assert one.types == (0, 0, 0, 0, 1, 1, 1) and one.cut == 0
    assert transform.pad([one], 8, 1)["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 0]]


def test_the_longer_text_of_a_pair_is_cut_first_and_cut_tokens_are_counted(source) -> None:
    one = as_text(source.transform).encode([("the film", "good " * 60)])[0]
    assert len(one.ids) == 48 and one.types.count(0) == 4 and one.cut == 60 + 2 + 3 - 48


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("good", " "), "row 7: the second text of the pair is empty"),
        (("", "good"), "row 7: the first text of the pair is empty"),
        (("good", None), "row 7: the text is missing"),
        (("good", "bad", "film"), "row 7 has 3 texts; a pair has two"),
    ],
)
def test_a_pair_that_is_none_is_refused_by_name(source, pair, said: str) -> None:
    with pytest.raises(TransferlabError, match=re.escape(said)):
        as_text(source.transform).encode([("a", "day"), pair], ["row 3", "row 7"])


def test_sources_that_cannot_tell_the_two_texts_apart_say_so_before_anything_runs(tmp_path: Path, bert_folder) -> None:
    write_decoder(tmp_path / "gpt2", "gpt2")
    (tmp_path / "gpt2" / "tokenizer.json").write_text(
        json.dumps({**json.loads((bert_folder / "tokenizer.json").read_text()), "post_processor": None})
    )
    with pytest.raises(
        TransferlabError, match=r"puts nothing between the two texts of a pair.*f'\{first\}\\n\{second\}'"
    ):
        tl.adapt(tl.load(tmp_path / "gpt2"), pairs(CLASSES))
    write_clip(tmp_path / "clip", "clip")
    with pytest.raises(TransferlabError, match="reads no pairs of texts: it was trained on single captions"):
        tl.adapt(tl.load(tmp_path / "clip").tower("text"), pairs(CLASSES))


def test_a_type_that_the_model_lacks_is_refused_and_not_clamped(tmp_path: Path) -> None:
    from support.checkpoints import write_bert

    source = tl.load(write_bert(tmp_path / "one-type", type_vocab_size=1))
    with pytest.raises(TransferlabError, match=r"has tokens of the type 1, but .* has 1 \(0 to 0\)"):
        as_text(source.transform).encode([("a", "day")])


@pytest.mark.parametrize(
    "target",
    [
        CLASSES,
        Numbers(("similarity",), (SAME + RNG.normal(0, 0.1, 60))[:, None]),
        TagSets(("same", "long"), np.stack([SAME > 0, [len(side) > 15 for side in SIDES[:60]]], axis=1)),
    ],
    ids=lambda target: target.kind,
)
@pytest.mark.parametrize("method", [tl.methods.Probe(), tl.methods.LoRA(rank=2)], ids=lambda method: method.name)
def test_classes_numbers_and_tags_of_pairs_are_learned_and_predicted(source, target, method, tmp_path: Path) -> None:
    data = pairs(target)
    result = tl.adapt(source, data, method=method, settings=QUICK, directory=tmp_path / "run").fit()
    predictions = next(iter(result.predictions.values()))
    # A probe's features come from rows that pairs share, each with its own types; a predictor has one pair a row.
    tested = [data.records[int(i)] for i in data.test]
    again = tl.open_run(tmp_path / "run")([(record["text"], record["text_pair"]) for record in tested])
    np.testing.assert_allclose(again, predictions, atol=1e-5)
    swapped = tl.open_run(tmp_path / "run")([(record["text_pair"], record["text"]) for record in tested])
    assert np.abs(swapped - predictions).max() > 100 * np.abs(again - predictions).max()
    for other in ("good film", ["good film", "the day"]):
        with pytest.raises(TransferlabError, match=r"trained on pairs of texts, and examples\[0\] is .*tuples of two"):
            result.predict([other])


def test_a_prompt_is_put_before_the_first_text_of_a_pair(source) -> None:
    from dataclasses import replace

    prompted = replace(as_text(source.transform), prompt="the ")
    assert prompted.encode([("film", "day")]) == as_text(source.transform).encode([("the film", "day")])


def test_a_table_of_pairs_is_learned_and_predicted_on_the_command_line(source, tmp_path: Path) -> None:
    rows = [f"{SIDES[i]},{SIDES[i] if SAME[i] else SIDES[60 + i]},{'same' if SAME[i] else 'other'}" for i in range(60)]
    (tmp_path / "p.csv").write_text("\n".join(["premise,hypothesis,label", *rows]))
    data = tl.dataset(tmp_path / "p.csv", text=("premise", "hypothesis"), target="label")
    tl.adapt(source, data, method=tl.methods.Probe(), settings=QUICK, directory=tmp_path / "run").fit()
    (tmp_path / "q.csv").write_text("premise,hypothesis\ngood film,good film\nbad day,the film\n")
    run = ["predict", str(tmp_path / "run")]
    table = CliRunner().invoke(cli, [*run, str(tmp_path / "q.csv")], catch_exceptions=False)
    given = CliRunner().invoke(cli, [*run, "good film", "good film", "bad day", "the film"], catch_exceptions=False)
    assert table.output == given.output and "\tbad day | the film\n" in given.output
    odd = CliRunner().invoke(cli, [*run, "good film"])
    assert "'good film' has no second one: give two texts for each pair" in odd.output
    one = CliRunner().invoke(cli, [*run, str(tmp_path / "q.csv"), "--text", "premise"])
    assert "reads pairs of texts, and --text is given 1 times. As in: --text premise --text hypothesis" in one.output
