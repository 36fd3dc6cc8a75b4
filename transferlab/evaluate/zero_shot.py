"""Zero-shot classification with a two-tower model (Radford et al. 2021, section 3.1): labels are texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from transferlab.data.batches import evaluation_order
from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform
from transferlab.errors import TransferlabError, check_arguments

if TYPE_CHECKING:
    from transferlab.pretrained.source import Source

TEMPLATES = (
    "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.", "a {} in a video game.",
    "art of the {}.", "a photo of the small {}.",
)  # fmt: skip
"""The seven templates that do as well on ImageNet as all eighty, by OpenAI's notebook on prompt engineering."""


@dataclass(frozen=True)
class ZeroShot:
    """A classifier made of label names: ``classifier(images)`` returns one row of probabilities per image.

    :func:`transferlab.zero_shot_classifier` makes one.

    Attributes:
        labels: label names, in the order of the columns.
        classes: one vector of unit length for each label.
        vision: the tower for images.
        scale: factor on cosines, which the checkpoint has learned.
        bias: added to the scaled cosines (SigLIP's); 0 for CLIP.
    """

    labels: tuple[str, ...] = field(repr=False)
    classes: Float[np.ndarray, "labels width"] = field(repr=False)
    vision: Source = field(repr=False)
    scale: float
    bias: float

    def __call__(
        self, images: Sequence[UInt8[np.ndarray, "_height _width _channels"]], rows: int = 32
    ) -> Float[np.ndarray, "images labels"]:
        """Return probabilities: the softmax of the logits over the labels (SigLIP's bias is the same for all).

        Args:
            images: uint8 arrays (height, width, channels) of any size.
            rows: how many images are computed together.
        """
        logits = self.logits(images, rows)
        weights = np.exp(logits - logits.max(-1, keepdims=True)) if len(logits) else logits
        return weights / weights.sum(-1, keepdims=True)

    def logits(
        self, images: Sequence[UInt8[np.ndarray, "_height _width _channels"]], rows: int = 32
    ) -> Float[np.ndarray, "images labels"]:
        """Scaled cosines of each image with each label, plus SigLIP's bias.

        Raises:
            TransferlabError: ``rows`` is less than 1, or an image is not one.
        """
        transform = self.vision.transform
        assert isinstance(transform, ImageTransform)
        if rows < 1:
            raise TransferlabError(f"rows is {rows}; it must be at least 1.")
        vectors = np.zeros((len(images), self.classes.shape[1]), np.float32)
        rows = min(rows, max(len(images), 1))
        for start in range(0, len(images), rows):
            pixels = np.zeros((rows, transform.size, transform.size, 3), np.float32)
            part = images[start : start + rows]
            for row, image in enumerate(part):
                pixels[row] = transform(image)
            vectors[start : start + rows] = _embedding(self.vision, {"pixel_values": pixels})[: len(part)]
        return np.float32(self.scale) * (_unit(vectors) @ self.classes.T) + np.float32(self.bias)


@check_arguments
def zero_shot_classifier(
    source: Source, labels: Sequence[str], templates: Sequence[str] = ("a photo of a {}.",), rows: int = 32
) -> ZeroShot:
    """Return a classifier over these labels that needs no labeled examples.

    A label's vector is the mean of the unit vectors of its texts, one for each template, scaled to unit length.

    Example:
        >>> classifier = tl.zero_shot_classifier(source, ("cat", "dog"), templates=tl.evaluate.TEMPLATES)
        >>> classifier([image])  # probabilities, one row per image

    Args:
        source: a two-tower model (CLIP, SigLIP), from :func:`transferlab.load`.
        labels: what images may show, as words: ``("cat", "dog")``.
        templates: texts with a ``{}`` where the label goes; :data:`TEMPLATES` are OpenAI's for ImageNet.
        rows: how many texts are computed together.

    Raises:
        TransferlabError: the source has one tower or came without a tokenizer or preprocessing, a template has no
            ``{}``, or a label is given twice.
    """
    if not {"vision", "text"} <= source.towers.keys():
        raise TransferlabError(
            f"{source.name} lacks a tower for images or one for texts; zero-shot classification needs both, as CLIP has."
        )
    vision, text = source.tower("vision"), source.tower("text")
    if not isinstance(text.transform, TextTransform) or not isinstance(vision.transform, ImageTransform):
        raise TransferlabError(
            f"{source.name} came without a tokenizer or image preprocessing, so it cannot read data."
        )
    if not labels or not templates:
        raise TransferlabError("Zero-shot needs at least one label and one template.")
    for template in templates:
        if "{}" not in template:
            raise TransferlabError(
                f"The template '{template}' has no '{{}}' where the label goes, as 'a photo of a {{}}.' has."
            )
    if len(seen := set(labels)) < len(labels):
        twice = next(label for label in labels if label not in seen or seen.remove(label))
        raise TransferlabError(f"The label '{twice}' is given twice.")
    texts = [template.replace("{}", label) for label in labels for template in templates]
    encoded = text.transform.encode(texts)
    buckets = np.array([text.transform.bucket(len(one.ids)) for one in encoded], np.int32)
    rows, vectors = min(rows, len(texts)), {}
    for batch in evaluation_order(np.arange(len(texts)), buckets, rows):
        inputs = text.transform.pad([encoded[i] for i in batch.indices], batch.bucket, rows)
        vectors.update(zip(batch.indices.tolist(), _embedding(text, inputs), strict=False))
    stack = np.stack([vectors[n] for n in range(len(texts))]).reshape(len(labels), len(templates), -1)
    classes = _unit(_unit(stack).mean(1))
    scale = float(np.exp(np.asarray(source.leaves["logit_scale"].read(), np.float32)))
    bias = float(source.leaves["logit_bias"].read()) if "logit_bias" in source.leaves else 0.0
    return ZeroShot(tuple(labels), classes, vision, scale, bias)


def _embedding(tower: Source, inputs: dict[str, np.ndarray]) -> Float[np.ndarray, "rows width"]:
    out = tower(inputs)
    return np.asarray(out["embedding"] if "embedding" in out else out["pooled"], np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
