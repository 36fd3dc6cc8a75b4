"""The report: its numbers, that it is one well-formed page on its own, and studies that lack something."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.studies import ENVIRONMENT, curves, plan, study

from transferlab.studies.figures import learning_curves, palette_of
from transferlab.studies.report import write_report
from transferlab.studies.table import summarize
from transferlab.tasks import Classification

VOID = {"meta", "link", "br", "hr", "img", "input", "col"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps text, tags and addresses."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def _note(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href", "data", "action") and v]

    def handle_starttag(self, tag, attrs):
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._note(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


def write(path: Path, records=None, **changes) -> tuple[str, Page]:
    records = study() if records is None else records
    summary = summarize(records)
    arguments = {
        "records": records, "summary": summary, "curve": learning_curves(summary, palette_of(summary)), "plan": {"lora": plan()}, "curves": curves(),
        "environment": ENVIRONMENT, "hashes": {"source": {"tree_sha256": "ab12"}}, "config": {"data": "tweets"},
        "title": "tweets", "task": Classification(), "companion": "balanced_accuracy", **changes,
    }  # fmt: skip
    write_report(path / "report.html", **arguments)
    html = (path / "report.html").read_text("utf-8")
    return html, Page(html)


def test_report_begins_with_the_scores_at_the_largest_budget(tmp_path):
    _, page = write(tmp_path)
    answer = page.text
    assert "With 256 labels, full reaches a test accuracy of" in answer
    assert ".914" in answer and ".700" in answer and "+.214" in answer.replace("+0.", "+.")
    assert "from scratch, no budget up to 256 labels reached that" in answer


def test_report_names_arms_that_transfer_did_not_help(tmp_path):
    _, page = write(tmp_path)
    assert "full at 16 labels is not distinguishable from scratch" in page.text
    assert "lora at 16 labels is not" not in page.text
    assert re.search(r"No better than always predicting the most frequent label.*?full at 16", page.text)


def test_report_shows_both_accuracies_the_multipliers_and_the_cost(tmp_path):
    _, page = write(tmp_path)
    for shown in (".800 ±.025", ".780 ±.025", ">4.0×", "8.0×", "148,226", "2.5 TFLOP", "ab12", "tweets", "0.10.2"):
        assert shown in page.text, shown
    assert "layers/0/attention/query/kernel" in page.text
    assert "384×384" in page.text and "new head for 2 labels" in page.text and "cls.bias" in page.text


def test_report_says_what_a_score_is(tmp_path):
    _, page = write(tmp_path, explained={"balanced_accuracy": "Mean over the 4 classes: .25 by chance."})
    assert ".780 ±.025" in page.text and "Mean over the 4 classes: .25 by chance." in page.text


def test_report_explains_the_lines_that_its_figure_has(tmp_path):
    assert (
        "Dashed: baselines" in write(tmp_path)[1].text
        and "Dotted: always predicting the most frequent label." in write(tmp_path)[1].text
    )
    words = write(tmp_path, study(names=("lora", "majority")), curves=curves(("lora",)))[1].text
    assert "Dashed" not in words and "Dotted" in words


def test_report_needs_no_other_file_and_no_network(tmp_path):
    html, page = write(tmp_path)
    assert [a for a in page.addresses if not a.startswith(("#", "data:"))] == []
    assert re.findall(r"url\((?!#|['\"]?data:)", html) == []
    assert "@import" not in html
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("svg") + page.tags.count("img") >= 2
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_report_follows_the_readers_color_scheme_and_prints(tmp_path):
    html, _ = write(tmp_path)
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_names_with_markup_are_shown_literally(tmp_path):
    evil = "<script>alert(1)</script>"
    html, page = write(
        tmp_path, title=evil, config={"note": evil}, hashes={"x": evil}, plan={evil: plan(path=f"a/{evil}")}
    )
    assert "script" not in page.tags
    assert "<script" not in html
    assert evil in page.text


def test_an_arms_name_with_markup_does_not_break_the_figures(tmp_path):
    records = [{**r, "name": "lora <b>&"} if r["name"] == "lora" else r for r in study()]
    _, page = write(tmp_path, records, curves=curves(("lora <b>&",)))
    assert page.tags.count("b") == 1  # the plan's own heading
    assert "lora <b>&" in page.text


@pytest.mark.parametrize(
    "changes",
    [{"seeds": (0,)}, {"budgets": (64,)}, {"seeds": (0,), "budgets": (64,)}, {"names": ("lora", "majority")},
     {"names": ("lora",)}, {"names": ("majority", "tfidf")}],
    ids=["one seed", "one budget", "one run an arm", "no scratch", "one arm", "baselines only"],
)  # fmt: skip
def test_a_study_that_lacks_something_still_gets_its_report(tmp_path, changes):
    _, page = write(tmp_path, study(**changes), curves={})
    assert re.search(r"\bnan\b", page.text, re.IGNORECASE) is None
    assert page.tags.count("svg") == 1
    if "scratch" not in changes.get("names", ("scratch",)):
        assert "for the same network" not in page.text.split("Accuracy by labels")[0]


def test_a_study_without_scratch_says_that_the_gain_is_unknown(tmp_path):
    _, page = write(tmp_path, study(names=("lora", "majority")), curves=curves(("lora",)))
    assert "without a scratch arm" in page.text
    assert "Data multiplier" not in page.text


def test_tuned_runs_show_the_chosen_settings(tmp_path):
    records = study()
    trial = {"settings": {"learning_rate": 3e-3}, "accuracy": 0.812, "cross_entropy": 0.4}
    records[-1]["tuning"] = {"trials": 1, "chosen": {"learning_rate": 0.003}, "validation": [trial]}
    _, page = write(tmp_path, records)
    assert "learning_rate = 0.003" in page.text and "0.812" in page.text


def test_report_does_not_hide_that_one_seed_has_no_interval(tmp_path):
    _, page = write(tmp_path, study(seeds=(0,)))
    assert "a single seed, so the difference has no interval: full, lora" in page.text


def test_report_says_that_the_best_arm_was_selected_by_its_test_score(tmp_path):
    _, page = write(tmp_path)
    assert "selected by its test accuracy, which is therefore biased upward" in page.text
