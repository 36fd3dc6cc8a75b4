"""Figures: their content, in distinguishable colors, as SVG inside a page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from support.studies import curves, study

from transferlab.studies.figures import COLORS, colors, learning_curves, standalone, step_by_stage, training_curves
from transferlab.studies.table import summarize
from transferlab.tasks import Classification


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_every_arm_is_in_the_learning_curves() -> None:
    summary = summarize(study())
    names = list(dict.fromkeys(row["name"] for row in summary))
    svg = learning_curves(summary, colors(names))
    assert set(names) <= set(texts(svg))
    assert {"16", "64", "256", "labels", "test accuracy"} <= set(texts(svg))


def test_a_figure_refers_to_nothing_outside_its_page_and_takes_its_text_color() -> None:
    summary = summarize(study())
    for svg in (
        learning_curves(summary, colors([r["name"] for r in summary])),
        training_curves(curves(), colors(["lora", "full", "scratch"]), Classification()),
    ):
        assert "currentColor" in svg
        assert "#010203" not in svg
        assert not re.search(r"https?://", svg)
        assert svg.startswith("<svg")


def test_no_two_arms_share_a_color() -> None:
    names = [f"arm {i}" for i in range(len(COLORS))]
    assert len(set(colors(names).values())) == len(names)


def test_a_single_budget_and_seed_can_be_drawn() -> None:
    summary = summarize(study(budgets=(64,), seeds=(0,)))
    svg = learning_curves(summary, colors([row["name"] for row in summary]))
    assert "64" in texts(svg)


def test_training_curves_have_the_validation_and_no_figure_without_metrics() -> None:
    palette = colors(["scratch", "lora", "full"])
    assert training_curves({}, palette, Classification()) == ""
    assert training_curves({"lora": [(16, 0, [])]}, palette, Classification()) == ""
    shown = texts(training_curves(curves(), palette, Classification()))
    assert {"scratch, 256 labels", "lora, 256 labels", "full, 256 labels", "step"} <= set(shown)


def test_a_figure_can_be_a_separate_file() -> None:
    svg = standalone(learning_curves(summarize(study()), colors([row["name"] for row in summarize(study())])))
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_every_stage_and_direction_is_in_a_steps_figure() -> None:
    stages = (
        ("embed", "forward", 0.1),
        ("layers/0", "forward", 0.3),
        ("layers/0", "backward", 0.4),
        ("optimizer", "update", 0.2),
    )
    svg = step_by_stage(stages, 0.25)
    assert {"embed", "layers/0", "optimizer", "forward", "backward", "update", "ms of a step of 250 ms"} <= set(
        texts(svg)
    )
    assert "backward" not in texts(step_by_stage(stages[:2], 0.25))
    # The legend is above the first bar, whichever is the longest.
    places = {e.text: float(e.get("y", "nan")) for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")}
    assert max(places[name] for name in ("forward", "backward", "update")) < places["embed"] - 10
