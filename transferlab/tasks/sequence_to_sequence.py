"""Text to text: the likelihood of the target's tokens, each given the text and the tokens before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from transferlab.bounds import Count
from transferlab.data.batches import Batch
from transferlab.data.inputs import Inputs, TextInputs, Transform
from transferlab.data.sequences import SequenceInputs, Targets
from transferlab.data.text import TextTransform, TokenCache
from transferlab.errors import TransferlabError
from transferlab.evaluate.baselines import Baseline
from transferlab.evaluate.texts import FREQUENT
from transferlab.measure.texts import exact_match, token_f1
from transferlab.models.backbone import Carry
from transferlab.models.heads import HeadConfig, LanguageModelConfig
from transferlab.models.t5 import T5Config
from transferlab.tasks.base import Predictions, StepBatch, Task
from transferlab.tasks.heads import check_whole_texts

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.methods.base import Method
    from transferlab.pretrained.source import Source


@dataclass(frozen=True)
class SequenceToSequence(Task):
    """Text to text (Raffel et al. 2020, section 2.1), by an encoder and a decoder that is shown the target up to each token.

    The state is chosen by the likelihood of the targets. The test split is written too, once, taking the likeliest token each
    time: ``exact_match`` and ``token_f1`` compare that with the targets.

    Example:
        >>> data = tl.dataset("questions.csv", text="question", target="answer", label_kind="text")
        >>> result = tl.adapt(source, data, method=tl.methods.LoRA()).fit()
        >>> tl.open_run("runs/answers")(["translate English to German: a fine day"])

    Attributes:
        longest_target: tokens of the longest target, with the one that ends it: longer ones are cut, and counted as truncated;
            no more are written.
    """

    longest_target: Count = 128

    name: ClassVar[str] = "sequence_to_sequence"
    target: ClassVar[str] = "texts"
    contents: ClassVar[tuple[str, ...]] = ("text", "pair")
    predicted: ClassVar[str] = "text"
    primary: ClassVar[str] = "perplexity"
    scores: ClassVar[Mapping[str, int]] = {"perplexity": -1, "cross_entropy": -1, "token_accuracy": 1}
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = dict.fromkeys(
        ("token_accuracy", "exact_match", "token_f1"), (0.0, 1.0)
    )
    baselines: ClassVar[Mapping[str, Baseline]] = {"frequent": FREQUENT}
    validation_loss: ClassVar[str | None] = "cross_entropy"
    loss_unit: ClassVar[str] = "cross-entropy, nats a token"
    budget_unit: ClassVar[str] = "examples"
    reads_targets: ClassVar[bool] = True

    @property
    def writes(self) -> int:
        """Tokens of the longest text that is written."""
        return self.longest_target

    # What is traced ------------------------------------------------------------------------------------------------

    def prepare(self, batch: StepBatch, key: Key[Array, ""]) -> StepBatch:
        """The targets go with the inputs: the decoder sees them, shifted by one, and the head gives their likelihoods."""
        return {**batch, "inputs": self.evaluation(batch["inputs"], batch["targets"])}

    def evaluation(self, inputs: Carry, targets: Mapping[str, Array]) -> Carry:
        return {**inputs, "labels": targets["labels"]}

    def weights(self, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The number of the targets' tokens."""
        return {"loss": _tokens(batch).sum()}

    def loss(self, out: Carry, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The sum over the targets' tokens of their negative log-likelihood, in nats."""
        return {"loss": -(out["log_likelihood"] * _tokens(batch)).sum()}

    def metrics(self, out: Carry, batch: StepBatch) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """``token_accuracy``: the fraction of tokens that are the likeliest after those before them."""
        tokens = _tokens(batch)
        return {"token_accuracy": ((out["correct"] * tokens).sum(), tokens.sum())}

    def predict(self, out: Carry) -> dict[str, Float[Array, "batch ..."]]:
        """Of each target: its ``log_likelihood`` in nats, its number of ``tokens``, and how many of them are the likeliest."""
        tokens = (out["labels"] >= 0).astype(jnp.float32)
        return {
            "log_likelihood": (out["log_likelihood"] * tokens).sum(1),
            "tokens": tokens.sum(1),
            "likeliest": (out["correct"] * tokens).sum(1),
        }

    # On the host ---------------------------------------------------------------------------------------------------

    def check(self, data: Dataset, source: Source) -> None:
        super().check(data, source)
        self.column(data)
        check_whole_texts(self, source)
        if not isinstance(source.config, T5Config) or not source.config.num_decoder_layers:
            raise TransferlabError(
                f"SequenceToSequence needs an encoder and a decoder, as T5 has; {source.name} ({source.family}) has not both."
            )

    def inputs(self, examples: Sequence[Mapping[str, Any]], transform: Transform, **names: Any) -> Inputs:
        texts = super().inputs(examples, transform, **names)
        if not len(examples) or "target_text" not in examples[0] or not isinstance(texts, TextInputs):
            return texts
        assert isinstance(transform, TextTransform)
        ids, sha256 = names.get("ids", ()), names.get("sha256", "")
        cache = transform.caches.setdefault(f"targets {sha256}", TokenCache()) if sha256 else TokenCache()
        # A prompt is for what is read.
        plain = replace(transform, prompt="", overlap=None)
        targets = TextInputs(Targets(examples), plain, cache, ids=[f"the target of {id}" for id in ids])
        return SequenceInputs(examples, texts, targets, min(self.longest_target, transform.max_length), ids=ids)

    def head(self, source: Source, outputs: tuple[str, ...], method: Method) -> HeadConfig:
        """The source's own, or the one that its config says."""
        if isinstance(source.head, LanguageModelConfig):
            return source.head
        return source.config.language_model(tied=source.config.scale_decoder_outputs)

    def truth(self, data: Dataset) -> Predictions:
        """``target``: the texts that are to be written."""
        return {"target": self.column(data).values.astype(str)}

    def targets(self, data: Dataset, fitted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Nothing: they are tokenised with the texts that they belong to."""
        return {}

    def collate(
        self, columns: Mapping[str, np.ndarray], feed: Inputs, batch: Batch, rows: int
    ) -> dict[str, np.ndarray]:
        """``labels`` (rows, length): the targets' tokens, -1 at padding."""
        assert isinstance(feed, SequenceInputs)
        return {"labels": feed.labels(batch.indices, batch.bucket, rows)}

    def shapes(self, outputs: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        return {"log_likelihood": (), "tokens": (), "likeliest": (), "text": ()}

    def present(
        self, prediction: np.ndarray, outputs: tuple[str, ...], example: Any = None
    ) -> tuple[dict[str, Any], str]:
        """The text that is written."""
        return {"text": str(prediction)}, " ".join(str(prediction).splitlines())

    def score(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """Of the tokens: perplexity, cross-entropy in nats, accuracy; of what was written, if it was: exact match and F1 of words."""
        sums = {
            name: float(np.sum(predictions[name], dtype=np.float64))
            for name in ("log_likelihood", "tokens", "likeliest")
        }
        tokens = sums["tokens"] or float("nan")
        entropy = -sums["log_likelihood"] / tokens
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(entropy))
        scores = {"perplexity": perplexity, "cross_entropy": entropy, "token_accuracy": sums["likeliest"] / tokens}
        if "text" in predictions:
            true = self.column(data).values[indices].tolist()
            written = [str(text) for text in predictions["text"]]
            scores |= {"exact_match": exact_match(written, true), "token_f1": token_f1(written, true)}
        return scores


def _tokens(batch: StepBatch) -> Float[Array, "rows length"]:
    """The weight of each token of the targets; 0 at padding."""
    return (batch["targets"]["labels"] >= 0) * batch["weight"][:, None]
