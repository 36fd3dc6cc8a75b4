"""Zero-shot: label names become a classifier; a source, template or label that cannot is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from support.checkpoints import CLIPS, write_clip
from support.typed import as_image, as_text

import transferlab as tl
from transferlab.errors import TransferlabError

TEMPLATES = ("a photo of a {}", "the {}", "a very very very great day and it was a {}")


@pytest.mark.parametrize("kind", CLIPS)
def test_a_class_vector_is_the_mean_over_templates(kind: str, tmp_path: Path) -> None:
    write_clip(tmp_path, kind)
    source = tl.load(tmp_path)
    images = [np.random.default_rng(i).integers(0, 256, (20, 16 + i, 3), np.uint8) for i in range(5)]
    classifier = tl.zero_shot_classifier(source, ("film", "day"), TEMPLATES, rows=2)
    text, vision = as_text(source.tower("text").transform), as_image(source.tower("vision").transform)
    out = [
        source({"pixel_values": np.stack([vision(i) for i in images]), **text.pad([text(t.format(label))], 20, 1)})
        for label in ("film", "day")
        for t in TEMPLATES
    ]
    texts = np.stack([np.asarray(one["text_embedding"])[0] for one in out]).reshape(2, 3, -1).mean(1)
    classes = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.classes, classes, atol=1e-5)
    scale, bias = float(np.exp(source.leaves["logit_scale"].read())), source.leaves.get("logit_bias")
    want = scale * np.asarray(out[0]["image_embedding"]) @ classes.T + (0.0 if bias is None else float(bias.read()))
    np.testing.assert_allclose(classifier.logits(images, rows=2), want, atol=1e-4)
    probabilities = np.exp(want) / np.exp(want).sum(1, keepdims=True)
    np.testing.assert_allclose(classifier(images), probabilities, atol=1e-4)
    assert classifier([]).shape == (0, 2)


def test_inputs_that_cannot_make_a_classifier_are_named(tmp_path: Path, source) -> None:
    write_clip(tmp_path, "clip")
    both = tl.load(tmp_path)
    cases: tuple[tuple[tuple[Any, ...], str], ...] = (
        ((source, ("a", "b")), "lacks a tower for images or one for texts"),
        ((both, ("a", "b"), ("a photo",)), "The template 'a photo' has no '{}'"),
        ((both, ("a", "b", "a")), "The label 'a' is given twice"),
        ((both, ()), "at least one label"),
    )
    for arguments, message in cases:
        with pytest.raises(TransferlabError, match=message):
            cast("Any", tl.zero_shot_classifier)(*arguments)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TransferlabError, match="without a tokenizer"):
        tl.zero_shot_classifier(tl.load(tmp_path), ("a", "b"))
