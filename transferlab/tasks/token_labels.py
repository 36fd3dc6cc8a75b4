"""Token labels: a tag for each word, such as its part of speech or its place in a named entity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from transferlab.bounds import Rate
from transferlab.data.batches import Batch
from transferlab.data.inputs import Inputs, Transform
from transferlab.data.ragged import Ragged
from transferlab.data.text import TextTransform
from transferlab.data.words import WordInputs, word_inputs
from transferlab.errors import TransferlabError
from transferlab.evaluate.baselines import Baseline
from transferlab.evaluate.frequent_tags import FREQUENT_TAG, MAJORITY_TAG
from transferlab.measure.spans import misfit, scheme_of, span_scores
from transferlab.measure.words import named_tags, word_scores
from transferlab.models.backbone import Carry
from transferlab.models.heads import TokenClassifierConfig
from transferlab.pretrained.families import FAMILIES
from transferlab.tasks.base import Predictions, StepBatch, Task

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.methods.base import Method
    from transferlab.pretrained.source import Source


@dataclass(frozen=True)
class TokenLabels(Task):
    """A tag for each word; a word is read at its first sub-word (Devlin et al. 2019, section 5.3).

    Long examples are read in several rows of whole words, so that each word has a prediction. Words whose tag is -1 are neither trained
    on nor scored.

    Example:
        >>> tl.adapt(source, data, task=tl.tasks.TokenLabels(scheme="bio"))

    Attributes:
        subwords: whether the ``first`` sub-word of a word is trained on, or ``all``.
        label_smoothing: probability moved from the true tag to all tags evenly (Szegedy et al. 2016, section 7).
        scheme: of the tags, by which spans are scored: ``bio``, ``iobes``, ``bilou``, or ``none``; ``auto`` takes the one that all tags
            have (``B-PER``). With spans the metric is ``span_f1``, else ``accuracy``.
        strict: whether only spans that the scheme allows count; seqeval's default, which is conlleval's, forgives. ``bilou`` is always
            strict, as there.
    """

    subwords: Literal["first", "all"] = "first"
    label_smoothing: Rate = 0.0
    scheme: Literal["auto", "none", "bio", "iobes", "bilou"] = field(default="auto", compare=False)
    strict: bool = field(default=False, compare=False)

    name: ClassVar[str] = "token_labels"
    target: ClassVar[str] = "word_tags"
    contents: ClassVar[tuple[str, ...]] = ("words",)
    ragged: ClassVar[bool] = True
    true: ClassVar[str] = "tag"
    primary: ClassVar[str] = "span_f1"
    scores: ClassVar[Mapping[str, int]] = {
        "span_f1": 1, "span_precision": 1, "span_recall": 1, "accuracy": 1, "f1_macro": 1, "cross_entropy": -1,
    }  # fmt: skip
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = dict.fromkeys(
        ("span_f1", "span_precision", "span_recall", "accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"),
        (0.0, 1.0),
    )
    companion: ClassVar[str | None] = "f1_macro"
    baselines: ClassVar[Mapping[str, Baseline]] = {"majority": MAJORITY_TAG, "frequent_tag": FREQUENT_TAG}
    validation_loss: ClassVar[str | None] = "cross_entropy"
    loss_unit: ClassVar[str] = "cross-entropy, nats"
    budget_unit: ClassVar[str] = "examples"

    # What is traced ------------------------------------------------------------------------------------------------

    def weights(self, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The number of tagged sub-words."""
        return {"loss": _weight(batch).sum()}

    def loss(self, out: Carry, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The sum over tagged sub-words of the cross-entropy, in nats."""
        logp = jax.nn.log_softmax(out["logits"].astype(jnp.float32))
        true = jnp.take_along_axis(logp, jnp.maximum(batch["targets"]["tag"], 0)[..., None], axis=-1)[..., 0]
        mixed = (1.0 - self.label_smoothing) * true + self.label_smoothing * logp.mean(-1)
        return {"loss": -(mixed * _weight(batch)).sum()}

    def metrics(self, out: Carry, batch: StepBatch) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """``accuracy``: the fraction of the tagged sub-words whose largest logit is the tag's."""
        hit, weight = out["logits"].argmax(-1) == batch["targets"]["tag"], _weight(batch)
        return {"accuracy": ((hit * weight).sum(), weight.sum())}

    def predict(self, out: Carry) -> dict[str, Float[Array, "batch ..."]]:
        """``probabilities`` (batch, length, tags), of every token."""
        return {"probabilities": jax.nn.softmax(out["logits"].astype(jnp.float32))}

    # On the host ---------------------------------------------------------------------------------------------------

    def resolved(self, data: Dataset) -> TokenLabels:
        """The task with the scheme of the tags, and the metric that follows from it.

        Raises:
            TransferlabError: a tag that the scheme does not have, or a metric of spans where there are none.
        """
        names = self.outputs(data)
        scheme = (scheme_of(names) or "none") if self.scheme == "auto" else self.scheme
        if scheme == "none":
            if (self.metric or "").startswith("span_"):
                raise TransferlabError(
                    f"metric is '{self.metric}', but the tags of '{data.name}' ({', '.join(names[:5])}) mark no spans, as B-PER and I-PER "
                    "do. Leave it out, or pass metric='f1_macro'."
                )
            return replace(self, scheme=scheme, metric=self.metric or "accuracy")
        if (tag := misfit(names, scheme)) is not None:
            raise TransferlabError(
                f"'{data.name}' has the tag '{tag}', which the scheme '{scheme}' does not have. Pass scheme='auto', or 'none'."
            )
        return replace(self, scheme=scheme)

    def check(self, data: Dataset, source: Source) -> None:
        """Raise a TransferlabError where words and tags do not fit each other, or the source reads no tokens one by one."""
        if data.content != "words":
            raise TransferlabError(
                f"TokenLabels needs lists of words with a tag for each, and '{data.name}' holds {data.content}: {data.summary}. Tags for "
                "whole examples are tl.tasks.Classification() or tl.tasks.MultiLabel()."
            )
        column = self.column(data)
        column.check(f"'{data.name}'")
        if source.modality != "text":
            raise TransferlabError(
                f"{source.name} reads {source.modality}, which has no words to tag. Load a text encoder."
            )
        if getattr(source.config, "num_decoder_layers", 0):
            raise TransferlabError(
                f"{source.name} has a decoder, which writes texts; words are tagged by its encoder alone: source = source.encoder()."
            )
        if isinstance(source.transform, TextTransform) and source.transform.overlap is not None:
            raise TransferlabError(
                f"{source.name} reads texts in windows that overlap; words are read in rows of whole words, none twice. Use the source "
                "without with_windows."
            )
        for i, tags in enumerate(column.values):
            if len(tags) != (words := len(data.records[i]["words"])):
                raise TransferlabError(
                    f"{data.name}, {data.ids[i]}: {words} words, but {len(tags)} tags; there must be one for each."
                )

    def example(self, text: str) -> list[str]:
        """The words of a text: what white space separates."""
        return text.split()

    def inputs(self, examples: Sequence[Mapping[str, Any]], transform: Transform, **names: Any) -> Inputs:
        """See :class:`transferlab.data.words.WordInputs`."""
        if names["content"] != "words" or not isinstance(transform, TextTransform):
            raise TransferlabError(
                f"This task tags words, and examples hold {names['content']}. Pass lists of words: predictor([text.split()])."
            )
        return word_inputs(examples, transform, ids=names.get("ids", ()), sha256=names.get("sha256", ""))

    def head(self, source: Source, outputs: tuple[str, ...], method: Method) -> TokenClassifierConfig:
        """A linear classifier of each token, after the layer that transformers' has in this family, if it has one."""
        hidden = None if method.linear_head else FAMILIES[source.family].token_hidden(source.config)
        return TokenClassifierConfig(outputs, dropout=method.head_dropout, hidden=hidden)

    def truth(self, data: Dataset) -> Predictions:
        """``tag``: the index of each word's tag, -1 where it is not scored; ragged."""
        return {"tag": Ragged.of(list(self.column(data).values))}

    def targets(self, data: Dataset, fitted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """``tag``: an array of each example's tags."""
        return {"tag": self.column(data).values}

    def collate(
        self, columns: Mapping[str, np.ndarray], feed: Inputs, batch: Batch, rows: int
    ) -> dict[str, np.ndarray]:
        """``tag`` (rows, length): at a word's first sub-word, or at all of them; -1 elsewhere."""
        assert isinstance(feed, WordInputs)
        out = np.full((rows, batch.bucket), -1, np.int32)
        for row, tags, one in zip(
            map(int, batch.indices), columns["tag"][feed.examples_of(batch.indices)], out, strict=False
        ):
            words, at = (feed.subwords if self.subwords == "all" else feed.first_subwords)(row, batch.bucket)
            one[at] = tags[words]
        return {"tag": out}

    def gather(
        self, predictions: Mapping[str, np.ndarray], feed: Inputs, batch: Batch
    ) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        """The probabilities (words, tags) of each row, at the first sub-words."""
        assert isinstance(feed, WordInputs)
        examples = feed.examples_of(batch.indices).tolist()
        for row, example, probabilities in zip(
            batch.indices.tolist(), examples, predictions["probabilities"], strict=False
        ):
            words, at = feed.first_subwords(row, batch.bucket)
            yield example, int(words[0]), {"probabilities": probabilities[at]}

    def present(
        self, prediction: np.ndarray, outputs: tuple[str, ...], example: Any = None
    ) -> tuple[dict[str, Any], str]:
        """The tag of each word with its probability; in a line, each word with its tag."""
        tags = [outputs[i] for i in prediction.argmax(-1).tolist()]
        words = list(example["words"] if isinstance(example, Mapping) else example or [""] * len(tags))
        fields = {"words": words, "tags": tags, "probabilities": prediction.max(-1).tolist()}
        return fields, " ".join(f"{word}_{tag}" if word else tag for word, tag in zip(words, tags, strict=True))

    def score(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """Of spans, where the tags mark some (:func:`~transferlab.measure.spans.span_scores`), and of words
        (:func:`~transferlab.measure.words.word_scores`).
        """
        names, true = self.outputs(data), self.column(data).values[indices]
        probabilities = predictions["probabilities"]
        return self.metrics_of_fields(probabilities, true, names) | word_scores(probabilities, true)

    def metrics_of_fields(self, predicted: Any, true: Any, names: Sequence[str]) -> dict[str, float]:
        """Those of spans, by its scheme and as strictly as it says."""
        if self.scheme in ("auto", "none"):
            return {}
        return span_scores(*named_tags(predicted, true, names), self.scheme, self.strict)


def _weight(batch: StepBatch) -> Float[Array, "batch length"]:
    return (batch["targets"]["tag"] >= 0) * batch["weight"][:, None]
