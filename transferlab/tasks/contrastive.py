"""Contrastive learning of sentence encoders: an example's two texts are near each other, and far from the rest of its batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from transferlab.bounds import Positive
from transferlab.data.inputs import Inputs, TextInputs, Transform
from transferlab.data.text import TextTransform, TokenCache
from transferlab.data.views import PairViews, Sides
from transferlab.errors import TransferlabError
from transferlab.evaluate.baselines import Baseline
from transferlab.evaluate.texts import CHANCE, NEAREST
from transferlab.measure.retrieval import per_query, retrieval_scores
from transferlab.models.backbone import Carry
from transferlab.models.heads import EmbeddingConfig
from transferlab.tasks.base import Predictions, StepBatch, Task
from transferlab.tasks.heads import check_whole_texts

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.methods.base import Method
    from transferlab.pretrained.source import Source
    from transferlab.transfer.plan import Plan


@dataclass(frozen=True)
class Contrastive(Task):
    """A sentence encoder, by in-batch negatives: the softmax over the batch of ``scale`` times the cosine of each pair of texts
    (Henderson et al. 2017, section 4; InfoNCE), as sentence-transformers' ``MultipleNegativesRankingLoss``.

    Of pairs, the second text is the one that belongs to the first. Of single texts, it is the same text under another dropout
    (SimCSE, Gao et al. 2021, section 3). Texts of a batch that are equal are not negatives of each other, and an example
    without any negative, as the only one of an epoch's last batch, has no weight.

    Example:
        >>> data = tl.dataset("questions.csv", text=("question", "answer"), target=None)
        >>> result = tl.adapt(source, data, method=tl.methods.LoRA(), task=tl.tasks.Contrastive()).fit()
        >>> tl.save(result.source, "encoder")  # for sentence-transformers

    Attributes:
        scale: one over the temperature.
        symmetric: the mean of two losses, of finding the second text by the first and the first by the second, as CLIP's; each is
            the mean over the examples that have a negative in its direction.
    """

    scale: Positive = 20.0
    symmetric: bool = False

    name: ClassVar[str] = "contrastive"
    target: ClassVar[str] = "none"
    contents: ClassVar[tuple[str, ...]] = ("text", "pair")
    texts_apart: ClassVar[bool] = True
    predicted: ClassVar[str] = "embedding"
    primary: ClassVar[str] = "recall_at_1"
    scores: ClassVar[Mapping[str, int]] = {"recall_at_1": 1, "recall_at_10": 1, "mrr": 1, "cross_entropy": -1}
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = dict.fromkeys(
        ("recall_at_1", "recall_at_10", "mrr"), (0.0, 1.0)
    )
    companion: ClassVar[str | None] = "mrr"
    baselines: ClassVar[Mapping[str, Baseline]] = {"chance": CHANCE, "tfidf": NEAREST}
    loss_unit: ClassVar[str] = "cross-entropy in the batch, nats"
    budget_unit: ClassVar[str] = "examples"
    additive: ClassVar[bool] = False

    # What is traced ------------------------------------------------------------------------------------------------

    def prepare(self, batch: StepBatch, key: Key[Array, ""]) -> StepBatch:
        """Each text twice, where the examples are single texts; frozen stages make the same of both."""
        rows = len(batch["weight"])
        inputs = {name: jnp.repeat(x, 2, axis=0) if len(x) == rows else x for name, x in batch["inputs"].items()}
        return {**batch, "inputs": inputs}

    def weights(self, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The number of examples that have a negative; of two directions, the mean of both numbers."""
        numbers = [_counted(batch, negatives).sum() for negatives in self._directions(batch)]
        return {"loss": sum(numbers, jnp.zeros(())) / len(numbers)}

    def loss(self, out: Carry, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The sum over examples of the cross-entropy of its own second text among the batch's, in nats.

        Of two directions, the mean of their means, times the weight: one may have a negative where the other has none.
        """
        vectors = out["embedding"].astype(jnp.float32)
        unit = vectors * jax.lax.rsqrt(jnp.maximum((vectors**2).sum(-1, keepdims=True), 1e-24))
        logits = self.scale * unit[0::2] @ unit[1::2].T
        mean = jnp.zeros(())
        directions = self._directions(batch)
        for negatives, among in zip(directions, (logits, logits.T), strict=False):
            counted = _counted(batch, negatives)
            number = counted.sum()
            mean += (_cross_entropy(among, negatives) * counted).sum() / jnp.where(number > 0, number, 1.0)
        return {"loss": mean / len(directions) * self.weights(batch)["loss"]}

    def _directions(self, batch: StepBatch) -> list[Bool[Array, "rows rows"]]:
        """The negatives of each first text among the second ones, and with ``symmetric`` of each second among the first."""
        negatives = _negatives(batch)
        return [negatives, _negatives(batch, turned=True)] if self.symmetric else [negatives]

    def predict(self, out: Carry) -> dict[str, Float[Array, "batch ..."]]:
        """``embedding`` of each text (rows, features)."""
        return {"embedding": out["embedding"].astype(jnp.float32)}

    # On the host ---------------------------------------------------------------------------------------------------

    @classmethod
    def fits(cls, data: Dataset, source: Source) -> bool:
        """Pairs of texts without a target."""
        return data.target.kind == "none" and data.content == "pair" and source.modality == "text"

    def check(self, data: Dataset, source: Source) -> None:
        super().check(data, source)
        check_whole_texts(self, source)
        if data.target.kind != "none":
            raise TransferlabError(
                f"Contrastive takes every pair as one that belongs together, and '{data.name}' has a target ({data.summary}). Open it "
                "with target=None, and with those pairs alone that do; or predict the target: tl.tasks.Classification()."
            )
        ids = self.targets(data, {})["ids"][data.train]
        if not len(ids) or (ids == ids[0]).all(0).any():
            raise TransferlabError(
                f"'{data.name}' has no two examples to train with of different texts, so there is nothing to compare: {data.summary}."
            )

    def check_plan(self, plan: Plan, data: Dataset) -> None:
        random = {stage.name for stage in plan.network.stages if stage.random}
        if data.content == "text" and not random & plan.training:
            raise TransferlabError(
                "Of single texts, the two views differ by dropout alone, and nothing that trains has any: all rates in the source's "
                "config are 0. Give pairs of texts, or a source with dropout."
            )

    def inputs(self, examples: Sequence[Mapping[str, Any]], transform: Transform, **names: Any) -> Inputs:
        if names["content"] != "pair" or not isinstance(transform, TextTransform):
            return super().inputs(examples, transform, **names)
        ids, sha256 = names.get("ids", ()), names.get("sha256", "")
        cache = transform.caches.setdefault(f"views {sha256}", TokenCache()) if sha256 else TokenCache()
        both = [f"{id}, {side} text" for id in ids for side in ("first", "second")]
        return PairViews(examples, TextInputs(Sides(examples), transform, cache, ids=both), ids=ids)

    def head(self, source: Source, outputs: tuple[str, ...], method: Method) -> EmbeddingConfig:
        """The source's pooling, or the mean where its files name none; the method's where it has one."""
        own = "mean" if source.pooling == "pooler" else source.pooling
        return EmbeddingConfig(method.pooling or own, source.normalise)

    def outputs(self, data: Dataset) -> tuple[str, ...]:
        return ()

    def truth(self, data: Dataset) -> Predictions:
        """``ids`` (examples, 2): equal texts have equal ids, the first and the second texts' in one numbering."""
        numbers: dict[str, int] = {}
        texts = [[record["text"], record.get("text_pair", record["text"])] for record in data.records]
        ids = [[numbers.setdefault(text, len(numbers)) for text in pair] for pair in texts]
        return {"ids": np.array(ids, np.int32).reshape(-1, 2)}

    def shapes(self, outputs: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        """Without numbers, of which there are as many as the source has features."""
        return {"embedding": (0,)}

    def present(
        self, prediction: np.ndarray, outputs: tuple[str, ...], example: Any = None
    ) -> tuple[dict[str, Any], str]:
        """The vector; of a pair, both and their cosine."""
        if prediction.ndim == 1:
            return {"embedding": prediction.tolist()}, " ".join(f"{x:.4f}" for x in prediction)
        first, second = prediction.astype(np.float64)
        cosine = float(first @ second / np.sqrt(max((first @ first) * (second @ second), 1e-24)))
        return {"cosine": cosine, "embedding": prediction.tolist()}, f"cosine {cosine:.4f}"

    def score(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """Of finding each example's second text among those of all; see :func:`transferlab.measure.retrieval.retrieval_scores`.

        The two views of a single text are equal in evaluation: it is always found, and ``cross_entropy`` says how far the others
        are from it.
        """
        return retrieval_scores(*_views(predictions), self.truth(data)["ids"][indices], self.scale)

    def contributions(
        self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Each example's part in every score, among all of these."""
        return per_query(*_views(predictions), self.truth(data)["ids"][indices], self.scale)

    def explain(self, score: str, data: Dataset) -> str:
        """Among how many texts is searched, and what the views of single texts are worth."""
        if data.content == "text":
            return "Both views of a text are equal in evaluation, so that it is always found; cross-entropy says how far others are."
        return f"Each first text's partner is searched among the {len(data.test):,} of the test split."


def _views(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    vectors = np.asarray(predictions["embedding"])
    return (vectors[:, 0], vectors[:, 1]) if vectors.ndim == 3 else (vectors, vectors)


def _negatives(batch: StepBatch, turned: bool = False) -> Bool[Array, "rows rows"]:
    """Whether text j is a negative of text i: an example's, not padding, and of another text than i's own and its partner."""
    ids = batch["targets"]["ids"][:, ::-1] if turned else batch["targets"]["ids"]
    first, second = ids[:, :1], ids[:, 1:]
    same = (first == first.T) | (second == second.T) | (first == second.T)
    return ~same & (batch["weight"] > 0)


def _counted(batch: StepBatch, negatives: Bool[Array, "rows rows"]) -> Float[Array, " rows"]:
    """The weight of each example; 0 for one without a negative."""
    return jnp.where(negatives.any(1), batch["weight"], 0.0)


def _cross_entropy(logits: Float[Array, "rows rows"], negatives: Bool[Array, "rows rows"]) -> Float[Array, " rows"]:
    own = jnp.diagonal(logits)
    among = negatives | jnp.eye(len(logits), dtype=bool)
    return jax.nn.logsumexp(logits, axis=1, where=among) - own
