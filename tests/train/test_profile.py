"""The profile: every stage has its share, the fractions are of one whole, and a trace is there to open."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.train import Settings
from transferlab.train.profile import _human, by_stage, idle_fraction, profile, read_trace

QUICK = Settings(learning_rate=1e-2, steps=4, batch_size=8)


@pytest.mark.parametrize("method", [tl.methods.Full(), tl.methods.LoRA(rank=2)])
def test_every_stage_has_a_fraction_of_the_time(source, films, tmp_path: Path, method) -> None:
    run = tl.adapt(source, films.subset(24, 0), method=method, settings=QUICK)
    summary = profile(run, tmp_path)
    fractions = {(stage, direction): fraction for stage, direction, fraction in summary.stages}
    assert sum(fractions.values()) == pytest.approx(1.0)
    for stage in ("layers/0", "layers/1"):
        assert fractions[stage, "forward"] > 0
        assert fractions[stage, "backward"] > 0
    assert fractions["optimizer", "update"] > 0
    # Nothing of what is frozen is differentiated.
    assert (("embed", "backward") in fractions) == (method.name == "full")
    assert 0 <= summary.idle < 1
    assert summary.step_seconds > 0
    assert summary.flops > 1e5
    text = (tmp_path / "profile.txt").read_text()
    assert "layers/1" in text
    assert len(re.findall(r"\d [kMGT]?FLOP/s", text)) == 2
    assert list(summary.trace.rglob("*.xplane.pb"))
    assert run.fit().record["steps"] == 4  # the profile took nothing from the run


def test_idle_time_counts_threads_once() -> None:
    spans = [("a", 0.0, 10.0), ("b", 5.0, 12.0), ("c", 20.0, 25.0), ("d", 6.0, 7.0)]
    assert idle_fraction(spans) == pytest.approx(8 / 25)


def test_an_operation_is_put_in_its_own_stage() -> None:
    text = """
  %dot.1 = f32[2,2]{1,0} dot(%a, %b), metadata={op_name="jit(advance)/jvp(layers/1)/dot_general" stack_frame_id=3}
  %dot.2 = f32[2,2]{1,0} dot(%a, %b), metadata={op_name="jit(advance)/transpose(jvp(layers/11))/dot_general"}
  %mul.3 = f32[2]{0} multiply(%a, %b), metadata={op_name="jit(advance)/mul"}
  ROOT %log.4 = f32[] fusion(%a), metadata={op_name="jit(advance)/jvp(jit(log_softmax))/sub" stack_frame_id=5}
"""
    spans = [("dot.1", 0.0, 4.0), ("dot.2", 4.0, 7.0), ("mul.3", 7.0, 9.0), ("log.4", 9.0, 10.0)]
    got = by_stage(spans, text, [f"layers/{i}" for i in range(12)])
    assert got == (
        ("layers/1", "forward", 0.4), ("layers/11", "backward", 0.3), ("loss", "forward", 0.1), ("optimizer", "update", 0.2)
    )  # fmt: skip


def test_a_folder_without_a_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TransferlabError, match="holds no trace"):
        read_trace(tmp_path)


def test_a_number_of_operations_has_its_units_prefix() -> None:
    said = [_human(x) for x in (12.0, 12e3, 147e3, 999.7e9, 5e9, 352e9, 7.9e14, 2e15)]
    assert said == ["12 ", "12 k", "147 k", "1 T", "5 G", "352 G", "790 T", "2000 T"]
