"""What a plan says that its result can be written as is what the writers do: over families, poolings and tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.families import FAMILY_CONFIGS, write_family

import transferlab as tl
from transferlab import trees
from transferlab.errors import TransferlabError, Unwritable
from transferlab.methods.adapted import Adapted, adapted
from transferlab.models import EmbeddingConfig, LanguageModelConfig, MaskedLanguageModelConfig, TokenClassifierConfig
from transferlab.pretrained.export_formats import exports, exports_sentence
from transferlab.tasks.heads import classifier
from transferlab.train.setup import plan_for


def result_of(source: tl.Source, plan: Any) -> Adapted:
    """What a run with this plan gives, with zeros for whatever it trains."""
    shapes = trees.flatten(plan.network.params)
    arrays = {path: np.zeros(shapes[path].shape, np.float32) for path in plan.trainable}
    return adapted(source, trees.unflatten(arrays), {}, {}, plan.head, plan.network.module)


def check(source: tl.Source, head: Any, method: Any, folder: Path) -> dict[str, bool]:
    """Compare what the plan says with the writers; return it."""
    plan = plan_for(source, head, method)
    made = result_of(source, plan)
    said = exports(source, plan.head, tuple(made.pairs))
    assert said[-1].format == "orbax" and said[-1].possible
    for number, export in enumerate(said[:-1]):
        out = folder / f"{len(list(folder.iterdir()))}-{number}"
        write = (
            made.save_adapter
            if export.format == "peft"
            else lambda to, kind=export.format: tl.save(made.merged(), to, format=kind)
        )
        if export.possible:
            write(out)
        else:
            with pytest.raises(TransferlabError) as refused:
                write(out)
            assert not out.exists() and len(export.reason) < 160
            if isinstance(refused.value, Unwritable):
                assert (refused.value.reason, refused.value.change) == (export.reason, export.change)
    return {export.format: export.possible for export in said}


CASES = {
    # What is possible for a classifier and for numbers: by pooling, (transformers or timm, sentence-transformers).
    "bert": {"mean": (0, 1), "first": (0, 1), "pooler": (1, 0), "stages": (0, 0)},
    "roberta": {"first": (1, 1), "stages": (0, 0)},
    "modernbert": {"first": (1, 0)},
    "gpt2": {"mean": (0, 1), "last": (1, 1)},
    "t5": {"mean": (0, 1)},
    "clip text": {"mean": (0, 1), "pooler": (0, 0), "embedding": (0, 0)},
    "vit": {"first": (1,), "mean": (0,)},
    "whisper": {"mean": (1,), "weighted stages": (0,)},
}  # fmt: skip


@pytest.mark.parametrize("family", CASES)
def test_a_plan_says_what_the_writers_do(family: str, tmp_path: Path) -> None:
    source = tl.load(write_family(tmp_path / "family", family))
    source = source.encoder() if family == "t5" else source
    (tmp_path / "out").mkdir()
    for pooling, (own, *vectors) in CASES[family].items():
        method = tl.methods.Full(pooling=pooling)
        said = check(source, classifier(source, ("no", "yes"), method), method, tmp_path / "out")
        kinds = {"sentence-transformers": bool(vectors[0])} if vectors else {}
        assert said == {"hf": bool(own), **kinds, "orbax": True}, pooling
    if family == "roberta":
        # A linear head where the reference classifier has a hidden layer.
        probe = tl.methods.Probe(pooling="first")
        said = check(source, classifier(source, ("no", "yes"), probe), probe, tmp_path / "out")
        assert said == {"hf": False, "sentence-transformers": True, "orbax": True}
    if source.modality == "text":
        # The attention of GPT-2 and ModernBERT is one matrix in their files, and GPT-2's classifiers have no bias.
        lora = tl.methods.LoRA(rank=1)
        said = check(source, classifier(source, ("score",), lora, "regression"), lora, tmp_path / "out")
        assert said["peft"] == (family in ("bert", "roberta")), said


def test_other_heads_and_changed_sources_are_said_too(source, tmp_path: Path) -> None:
    gpt = tl.load(write_family(tmp_path / "gpt2", "gpt2"))
    vit = tl.load(write_family(tmp_path / "vit", "vit"))
    (tmp_path / "out").mkdir()
    full, out = tl.methods.Full(), tmp_path / "out"
    lora = tl.methods.LoRA(rank=1, pooling="pooler")
    assert check(source, EmbeddingConfig(), full, out) == {"hf": True, "sentence-transformers": True, "orbax": True}
    assert check(source, EmbeddingConfig("pooler"), full, out) == {
        "hf": False,
        "sentence-transformers": False,
        "orbax": True,
    }
    tokens = TokenClassifierConfig(("O", "B"))
    assert check(source, tokens, full, out) == {"hf": True, "orbax": True}
    masked = MaskedLanguageModelConfig(norm=1e-12)
    assert check(source, masked, tl.methods.LoRA(rank=1), out) == {"hf": True, "peft": False, "orbax": True}
    assert check(gpt, LanguageModelConfig(), full, out) == {"hf": True, "orbax": True}
    assert check(source, ("a", "b"), lora, out) == {
        "hf": True,
        "sentence-transformers": False,
        "peft": True,
        "orbax": True,
    }
    more = source.with_tokenizer(add=["<drug>"])
    assert check(more, ("a", "b"), lora, out) == {
        "hf": True,
        "sentence-transformers": False,
        "peft": False,
        "orbax": True,
    }
    assert check(vit.resized(32), ("a", "b"), tl.methods.Full(pooling="first"), out) == {"hf": True, "orbax": True}


def test_a_decoder_whose_padding_ends_each_text_is_said_to_be_no_classifier_of_transformers(tmp_path: Path) -> None:
    gpt = tl.load(write_family(tmp_path / "gpt2", "gpt2"))
    from tokenizers import processors

    gpt.tokenizer.post_processor = processors.TemplateProcessing(single="$A [PAD]", special_tokens=[("[PAD]", 0)])
    (tmp_path / "out").mkdir()
    said = check(gpt, ("a", "b"), tl.methods.Probe(pooling="last"), tmp_path / "out")
    assert said == {"hf": False, "sentence-transformers": True, "orbax": True}


def test_the_plan_of_a_run_has_it_in_a_line(source, films) -> None:
    run = tl.adapt(source, films, method=tl.methods.LoRA(rank=1), settings=tl.train.Settings(steps=1))
    line = (
        "can be exported for sentence-transformers and Orbax; not for transformers or PEFT: the reference classifier pools by "
        "pooler, this head by mean (pooling='pooler' would fit)"
    )
    assert run.plan.notes[-1] == exports_sentence(run.exports) == line
    assert run.plan.to_dict()["notes"][-1] == line
    probe = tl.adapt(source, films, method=tl.methods.Probe(pooling="pooler"), settings=tl.train.Settings(steps=1))
    assert probe.plan.notes[-1] == (
        "can be exported for transformers and Orbax; not for sentence-transformers: it does not pool by pooler (pooling='mean' or "
        "pooling='first' would fit)"
    )
    assert source.plans.keys() and run.exports is run.exports


def test_every_family_is_asked(source) -> None:
    assert CASES.keys() <= FAMILY_CONFIGS.keys()
    assert replace(exports(source, EmbeddingConfig())[0], reason="x").possible is False
