"""Causal language modelling (Radford et al. 2019, section 2): each token of a text, predicted from those before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Array, Int, Key

from transferlab.bounds import Count
from transferlab.data.batches import Batch
from transferlab.data.documents import Documents
from transferlab.data.inputs import Inputs, Transform
from transferlab.data.text import TextTransform, TokenCache
from transferlab.errors import TransferlabError
from transferlab.evaluate.baselines import Baseline
from transferlab.evaluate.ngram import NGRAM
from transferlab.measure.language import language_scores
from transferlab.models.backbone import Carry
from transferlab.models.causal import Decoder
from transferlab.models.heads import LanguageModelConfig
from transferlab.tasks.base import Predictions, StepBatch
from transferlab.tasks.language import LanguageTask, refuse_source
from transferlab.tasks.untrained import ZERO_SHOT

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.methods.base import Method
    from transferlab.pretrained.source import Source

LONGEST = 1024
"""Tokens of a row where the task does not say: some sources read a hundred thousand."""


@dataclass(frozen=True)
class CausalLanguageModel(LanguageTask):
    """Texts, laid end to end in rows of ``length`` tokens; none sees another. See :mod:`transferlab.data.documents`.

    A batch has ``batch_size`` rows, each of several texts. Scores are over all tokens of all texts, the one that ends a text
    included.

    Example:
        >>> tl.adapt(source, data, method=tl.methods.LoRA(), task=tl.tasks.CausalLanguageModel(length=256))

    Attributes:
        length: tokens of a row; longer texts are split over several. None is the longest text of the source, at most 1024.
    """

    length: Count | None = field(default=None, compare=False)

    name: ClassVar[str] = "causal_language_model"
    contents: ClassVar[tuple[str, ...]] = ("text",)
    reads_targets: ClassVar[bool] = True
    baselines: ClassVar[Mapping[str, Baseline]] = {"ngram": NGRAM, "zero_shot": ZERO_SHOT}
    scores: ClassVar[Mapping[str, int]] = {"perplexity": -1, "cross_entropy": -1, "bits_per_byte": -1, "accuracy": 1}

    def prepare(self, batch: StepBatch, key: Key[Array, ""]) -> StepBatch:
        """The labels go where the head finds them."""
        return {**batch, "inputs": {**batch["inputs"], "labels": batch["targets"]["labels"]}}

    def evaluation(self, inputs: Carry, targets: Mapping[str, Array]) -> Carry:
        """The same."""
        return {**inputs, "labels": targets["labels"]}

    # On the host ---------------------------------------------------------------------------------------------------

    @classmethod
    def fits(cls, data: Dataset, source: Source) -> bool:
        """Texts without a target, and a decoder."""
        return super().fits(data, source) and data.content == "text" and isinstance(source.definition.module, Decoder)

    def check(self, data: Dataset, source: Source) -> None:
        """Raise for a source that does not continue text, rows that are too long, and texts of which nothing is predicted."""
        super().check(data, source)
        if not isinstance(source.definition.module, Decoder):
            refuse_source(source, "continues texts with a decoder", self)
        transform = source.transform
        assert isinstance(transform, TextTransform)
        if self.length is not None and self.length > transform.max_length:
            raise TransferlabError(
                f"length is {self.length}, but {source.name} reads texts of at most {transform.max_length} tokens. Pass "
                f"tl.tasks.CausalLanguageModel(length={transform.max_length})."
            )
        feed = self.inputs(data.records, transform, ids=data.ids, sha256=data.sha256)
        for indices in (data.train, data.validation, data.test):
            feed.prepare(indices)
            for index in indices:
                feed.document(int(index))

    def inputs(self, examples: Sequence[Mapping[str, Any]], transform: Transform, **names: Any) -> Documents:
        """Rows of whole documents."""
        if not isinstance(transform, TextTransform) or names.get("content", "text") != "text":
            raise TransferlabError(f"CausalLanguageModel continues texts, and these are {names.get('content')}.")
        sha256, length = names.get("sha256", ""), self.length or min(transform.max_length, LONGEST)
        cache = transform.caches.setdefault(f"documents {sha256}", TokenCache()) if sha256 else TokenCache()
        return Documents(examples, transform.untruncated(), cache, ids=names.get("ids", ()), width=length)

    def head(self, source: Source, outputs: tuple[str, ...], method: Method) -> LanguageModelConfig:
        """The head of the source's file, or as its family has it."""
        return source.head if isinstance(source.head, LanguageModelConfig) else source.config.language_model()

    def collate(
        self, columns: Mapping[str, np.ndarray], feed: Inputs, batch: Batch, rows: int
    ) -> dict[str, np.ndarray]:
        """``labels`` (rows, length): the token that follows each one, -1 at padding."""
        assert isinstance(feed, Documents)
        return {"labels": feed.labels(batch.indices, batch.bucket, rows)}

    def gather(
        self, predictions: Mapping[str, np.ndarray], feed: Inputs, batch: Batch
    ) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        """The parts of documents in each row."""
        assert isinstance(feed, Documents)
        for line, row in enumerate(map(int, batch.indices)):
            at = 0
            for part in feed.parts(row):
                own = slice(at, at := at + len(part))
                yield part.example, part.start, {name: values[line, own] for name, values in predictions.items()}

    def score(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """Perplexity, cross-entropy (nats) and accuracy of all tokens, and bits per byte of the texts in UTF-8."""
        size = sum(len(data.records[int(i)]["text"].encode()) for i in indices)
        return language_scores(predictions["log_likelihood"].values, predictions["correct"].values, size)
