"""The plan as people see it, and the rows of a head that are kept when labels change."""

from __future__ import annotations

import numpy as np
import pytest

import transferlab as tl
from transferlab.train.setup import plan_for
from transferlab.transfer.resize import label_rows, take_rows
from transferlab.transfer.show import human_bytes


def test_the_collapsed_table_shows_what_trains(source) -> None:
    text = str(plan_for(source, ("up", "down"), tl.methods.LoRA(rank=2)))
    rows = {line.split()[0]: line for line in text.splitlines() if "leaves" in line}
    assert rows.keys() == {"embed", "layers/0", "head"}
    assert "copied" in rows["embed"]
    assert "frozen" in rows["embed"]
    both = [line for line in text.splitlines() if line.strip().startswith("layers/0 … layers/1")]
    assert len(both) == 2
    assert ["copied" in line and "frozen" in line for line in both] == [True, False]
    assert "added by lora" in both[1]
    assert "trains" in both[1]
    assert "replaced by the new head" not in text
    assert "pooler.dense.bias and 1 more (the new head pools by mean)" in text


def test_the_whole_table_has_every_leaf(source) -> None:
    from transferlab.transfer.show import as_text

    plan = plan_for(source, ("up", "down"), tl.methods.Full())
    text = as_text(plan.table(whole=True))
    for leaf in plan.leaves:
        assert leaf.path in text
    assert sum(" trains " in line for line in text.splitlines()) >= len(plan.leaves)


def test_columns_are_whole_off_a_terminal_and_fit_on_one(source, monkeypatch) -> None:
    import sys

    from transferlab.transfer.show import as_text

    plan = plan_for(source, ("up", "down"), tl.methods.LoRA(rank=2))
    assert all(name in str(plan) for name in ("leaf", "shape", "action", "from", "trains", "lr ×", "decay", "size"))
    whole = as_text(plan.table(whole=True))
    rows = [line for line in whole.splitlines() if "embeddings.LayerNorm.weight" in line]
    assert len(rows) == 1 and rows[0].split()[:3] == ["embed/norm/scale", "16", "copied"]
    assert "…" not in whole.splitlines()[2] and max(map(len, whole.splitlines())) > 120
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "90")
    assert max(map(len, as_text(plan.table(whole=True)).splitlines())) <= 90


@pytest.fixture(scope="module")
def plan(bert_folder):
    return plan_for(tl.load(bert_folder), ("up", "down"), tl.methods.LoRA(rank=2))


@pytest.fixture(scope="module")
def graft():
    arrays = {f"a_long_name_of_a_layer_{i}": {"kernel": np.zeros((20, 20)), "bias": np.zeros(20)} for i in range(3)}
    return tl.graft({"encoder": {"of": arrays}}, arrays, rename={"encoder/of": ""})


@pytest.mark.parametrize("what", ["plan", "graft"])
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_nothing_is_cut_at_any_width(columns: int, what: str, request, monkeypatch) -> None:
    from transferlab.transfer.show import as_text

    shown = request.getfixturevalue(what)
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = as_text(shown.table(whole=True)).splitlines()
    assert max(map(len, lines)) <= columns and not any("…" in line for line in lines)
    headers = ("leaf", "shape", "action", "from", "size") + (("trains", "lr ×", "decay") if what == "plan" else ())
    if columns == 40:  # too little for the columns: a list of fields for each row
        assert {name for name in headers for line in lines if line.startswith(f"{name} ")} == set(headers)
        first = [line.removeprefix("leaf").strip() for line in lines if line.startswith("leaf ")]
        joined = "".join(line.strip() for line in lines)
        assert len(first) == len(shown.leaves) and all(
            f"leaf{' ' * (len(max(headers, key=len)) - 2)}{leaf.path}" in joined for leaf in shown.leaves
        )
    else:
        assert all(name in lines[2] for name in headers)
        # A label is the first column's: its parts, each after one space, one below the other.
        parts = [line[1:].split(" ")[0] for line in lines[4:] if line.startswith(" ") and line[1:2] != " "]
        assert "".join(parts) == "".join(leaf.path for leaf in shown.leaves)
    origins = "".join("".join(lines).split())
    assert what == "graft" or all(note.replace(" ", "") in origins for note in shown.notes)
    narrow = str(shown)
    assert max(map(len, narrow.splitlines())) <= columns and "leaf" in narrow


def test_without_a_width_to_keep_to_no_line_is_folded(plan, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = str(plan)
    for wrong in ("", "wide", "-3", "0"):
        monkeypatch.setenv("COLUMNS", wrong)
        assert str(plan) == whole
    assert "encoder.layer.0.attention.self.key.bias … (32 keys)" in whole


def test_a_notebook_shows_all_of_it_escaped(plan, graft) -> None:
    from dataclasses import replace

    odd = replace(
        plan, method="<b>", notes=("a < b & c [/i]",), leaves=(replace(plan.leaves[0], reason="<i>"), *plan.leaves[1:])
    )
    html = odd._repr_html_()
    assert "Plan: &lt;b&gt;" in html and "a &lt; b &amp; c [/i]" in html and "<i>" not in html and "<b>Plan" in html
    assert html.count("<tr") == 1 + odd.table().row_count
    assert all(
        f">{name}</th>" in html for name in ("leaf", "shape", "action", "from", "trains", "lr ×", "decay", "size")
    )
    assert "a_long_name_of_a_layer_0" in graft._repr_html_() and graft._repr_html_().count("<table>") == 1


def test_sizes_are_written_in_their_units() -> None:
    assert [human_bytes(n) for n in (0, 999, 1000, 91_600_000, 2.5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "91.6 MB",
        "2500.0 GB",
    ]


def test_labels_are_matched_by_name() -> None:
    pairs, sentence = label_rows(("cat", "dog", "cow"), ("cow", "horse", "cat"))
    assert pairs == [(0, 2), (2, 0)]
    assert "2 labels that both have (cow, cat)" in sentence
    kernel = np.arange(12, dtype=np.float32).reshape(4, 3)
    initial = np.full((4, 3), 7, np.float32)
    new = take_rows(lambda: kernel, pairs, initial)
    np.testing.assert_array_equal(new, np.stack([kernel[:, 2], initial[:, 1], kernel[:, 0]], axis=1))
    np.testing.assert_array_equal(take_rows(lambda: kernel[0], pairs, initial[0]), [2, 7, 0])


@pytest.mark.parametrize("names", [(), ("x",)])
def test_without_a_common_label_no_row_is_kept(names: tuple[str, ...]) -> None:
    assert label_rows(names, ("a", "b"))[0] == []


def test_a_name_in_a_plan_is_not_taken_for_markup(source) -> None:
    from dataclasses import replace

    from transferlab.transfer.show import as_text

    plan = plan_for(source, ("up", "down"), tl.methods.Full())
    odd = replace(plan, leaves=(replace(plan.leaves[0], source=("a[/b]",), reason="[red]"), *plan.leaves[1:]),
                  notes=("from [/i]",), unused=(("k[/u]\x1b[2J", "why [b]"),))  # fmt: skip
    text = as_text(odd.table(whole=True))
    assert "a[/b]" in text and "from [/i]" in text and r"k[/u]\x1b[2J (why [b])" in text
