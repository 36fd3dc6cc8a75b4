"""What language models have in common: the loss of tokens, predictions of different lengths, perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from jaxtyping import Array, Float

from transferlab.errors import TransferlabError
from transferlab.measure.language import perplexity
from transferlab.models.backbone import Carry
from transferlab.models.causal import Decoder
from transferlab.pretrained.families import FAMILIES
from transferlab.tasks.base import StepBatch, Task

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.pretrained.source import Source


@dataclass(frozen=True)
class LanguageTask(Task):
    """Base of the tasks that predict tokens of their own inputs. The carry has ``labels``, -1 where nothing is predicted."""

    target: ClassVar[str] = "none"
    predicted: ClassVar[str] = "log_likelihood"
    primary: ClassVar[str] = "perplexity"
    ragged: ClassVar[bool] = True
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {"perplexity": (1.0, math.inf), "accuracy": (0.0, 1.0)}
    companion: ClassVar[str | None] = "accuracy"
    validation_loss: ClassVar[str | None] = "cross_entropy"
    loss_unit: ClassVar[str] = "cross-entropy, nats per token"
    budget_unit: ClassVar[str] = "texts"

    def weights(self, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The number of predicted tokens; those of padding rows do not count."""
        tokens = (batch["inputs"]["labels"] >= 0).sum(-1)
        return {"loss": (tokens * batch["weight"]).sum()}

    def loss(self, out: Carry, batch: StepBatch) -> dict[str, Float[Array, ""]]:
        """The sum of the cross-entropy over tokens, in nats."""
        return {"loss": -(out["log_likelihood"].sum(-1) * batch["weight"]).sum()}

    def metrics(self, out: Carry, batch: StepBatch) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
        """``accuracy``: the fraction of the tokens that were the likeliest."""
        return {"accuracy": ((out["correct"].sum(-1) * batch["weight"]).sum(), self.weights(batch)["loss"])}

    def predict(self, out: Carry) -> dict[str, Float[Array, "batch ..."]]:
        """``log_likelihood`` (nats) and ``correct``, each (batch, positions)."""
        return {"log_likelihood": out["log_likelihood"], "correct": out["correct"]}

    # On the host ---------------------------------------------------------------------------------------------------

    def check(self, data: Dataset, source: Source) -> None:
        """Raise also for a source without a vocabulary."""
        if not source.table:
            raise TransferlabError(
                f"{type(self).__name__} predicts tokens, and {source.name} reads {source.modality}: it has no vocabulary. Pass a "
                "source of texts, as tl.load('minilm-l6')."
            )
        super().check(data, source)

    def shapes(self, outputs: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        """``log_likelihood`` and ``correct``, a number for each token."""
        return {"log_likelihood": (), "correct": ()}

    def logged(self, means: Mapping[str, float]) -> dict[str, float]:
        """``perplexity``, of the tokens of all the row's steps together."""
        return {"perplexity": perplexity(means["loss"])} if "loss" in means else {}

    def present(
        self, prediction: np.ndarray, outputs: tuple[str, ...], example: Any = None
    ) -> tuple[dict[str, Any], str]:
        """The perplexity of the text, and the log-likelihood of each predicted token."""
        value = perplexity(float(-prediction.mean())) if len(prediction) else float("nan")
        fields = {"perplexity": value, "tokens": len(prediction), "log_likelihood": prediction.astype(float).tolist()}
        return fields, f"perplexity {value:.4g} of {len(prediction)} token{'' if len(prediction) == 1 else 's'}"

    def selection(self, scores: Mapping[str, float], examples: int) -> float:
        """The smaller cross-entropy, which orders states as perplexity does and is never too large."""
        if (self.metric or self.primary) == "perplexity":
            scores = {**scores, "perplexity": scores["cross_entropy"]}
        return super().selection(scores, examples)


def refuse_source(source: Source, does: str, task: LanguageTask) -> NoReturn:
    """Raise for a source that cannot do the task, with one that it can."""
    if isinstance(source.definition.module, Decoder):
        can = "a decoder: it continues texts. Pass task=tl.tasks.CausalLanguageModel(), or leave task out where the data has no target"
    elif FAMILIES[source.family].masked_head is not None:
        can = "an encoder: it sees the whole text. Pass task=tl.tasks.MaskedLanguageModel(), or leave task out where the data has no target"
    else:
        can = f"of the family {source.family}, which has no such head. Pass another source, as tl.load('minilm-l6')"
    raise TransferlabError(f"{type(task).__name__} {does}, and {source.name} is {can}.")
