"""Masked language modelling (Devlin et al. 2019, section 3.1): hidden tokens of a text, predicted from the others."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from transferlab.bounds import Bounds
from transferlab.data.batches import Batch
from transferlab.data.inputs import Inputs, TextInputs
from transferlab.errors import TransferlabError
from transferlab.evaluate.baselines import Baseline
from transferlab.measure.language import language_scores
from transferlab.models.backbone import Carry
from transferlab.models.heads import MaskedLanguageModelConfig
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.network_source import NetworkSource
from transferlab.tasks.base import Predictions, StepBatch
from transferlab.tasks.language import LanguageTask, refuse_source
from transferlab.tasks.masking import masked
from transferlab.tasks.untrained import UNIGRAM
from transferlab.trees import key_of

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.methods.base import Method
    from transferlab.pretrained.source import Source


@dataclass(frozen=True)
class MaskedLanguageModel(LanguageTask):
    """Texts, of whose tokens some are hidden: each step hides others (Liu et al. 2019, section 4.1); evaluation always the same ones
    of a text, drawn by its tokens.

    Special tokens and padding are never hidden. Scores are over the hidden tokens alone.

    Example:
        >>> tl.adapt(source, data, task=tl.tasks.MaskedLanguageModel(rate=0.3))

    Attributes:
        rate: fraction of a text's tokens that are selected, at least one; of those 80 % are seen as the mask token, 10 % as a random
            one, 10 % as they are.
        whole_words: select words with all of their tokens, and pass over those with more tokens than are selected of the text.
            Where every word has more, some tokens of one are selected.
    """

    rate: Annotated[float, Bounds(0.0, 1.0, above=True, below=True)] = 0.15
    whole_words: bool = False

    name: ClassVar[str] = "masked_language_model"
    contents: ClassVar[tuple[str, ...]] = ("text", "pair", "words")
    fixed_inputs: ClassVar[bool] = False
    reads_targets: ClassVar[bool] = True
    baselines: ClassVar[Mapping[str, Baseline]] = {"unigram": UNIGRAM}
    scores: ClassVar[Mapping[str, int]] = {"perplexity": -1, "cross_entropy": -1, "accuracy": 1}

    def prepare(self, batch: StepBatch, key: Key[Array, ""]) -> StepBatch:
        """Hide tokens, drawn by the step's key and the row."""
        rows = jnp.arange(len(batch["weight"]))
        keys = jax.vmap(lambda row: jax.random.fold_in(key_of(key, self.name), row))(rows)
        return {**batch, "inputs": self._masked(batch["inputs"], batch["targets"], keys)}

    def evaluation(self, inputs: Carry, targets: Mapping[str, Array]) -> Carry:
        """Hide tokens, drawn by the text alone."""
        return self._masked(inputs, targets, jax.vmap(jax.random.key)(targets["text"]))

    def _masked(self, inputs: Carry, targets: Mapping[str, Array], keys: Key[Array, " batch"]) -> Carry:
        vocabulary, mask_id = targets["vocabulary"].T
        out = masked(
            inputs["input_ids"], targets["units"], keys, rate=self.rate, mask_id=mask_id, vocabulary=vocabulary
        )
        return {**inputs, "input_ids": out.ids, "labels": out.labels, "selected": out.selected}

    def predict(self, out: Carry) -> dict[str, Float[Array, "batch ..."]]:
        """``log_likelihood`` (nats) and ``correct`` of the hidden tokens, and their ``position``; each (batch, positions)."""
        return {**super().predict(out), "position": out["selected"]}

    # On the host ---------------------------------------------------------------------------------------------------

    @classmethod
    def fits(cls, data: Dataset, source: Source) -> bool:
        """Texts without a target, and an encoder with a mask token; pairs are for a contrastive loss."""
        if isinstance(source, NetworkSource):
            return False
        encoder = FAMILIES[source.family].masked_head is not None and data.content != "pair"
        return super().fits(data, source) and encoder and getattr(source.transform, "mask_id", None) is not None

    def check(self, data: Dataset, source: Source) -> None:
        """Raise for a source without a vocabulary, a mask token or such a head, and for texts without a token to hide."""
        super().check(data, source)
        if FAMILIES[source.family].masked_head is None:
            refuse_source(source, "hides tokens from an encoder", self)
        transform = source.transform
        if getattr(transform, "mask_id", None) is None:
            raise TransferlabError(
                f"{source.name} has no mask token ([MASK] or <mask>) in its tokenizer. Add one: "
                "source = source.with_tokenizer(add=['[MASK]'])."
            )
        assert transform is not None
        feed = self.inputs(
            data.records, transform, content=data.content, ids=data.ids, sha256=data.sha256, name=data.name
        )
        assert isinstance(feed, TextInputs)
        if not any(self._units(feed, int(i)).max(initial=-1) >= 0 for i in data.train):
            raise TransferlabError(
                f"None of the {len(data.train)} training texts of '{data.name}' has a token that can be hidden: they are empty, or "
                "all of their tokens are special or unknown. Name the column of texts: tl.dataset(…, text='sentence', target=None)."
            )

    def head(self, source: Source, outputs: tuple[str, ...], method: Method) -> MaskedLanguageModelConfig:
        """The head of the source's file, or as its family has it."""
        if isinstance(source.head, MaskedLanguageModelConfig):
            return source.head
        family = FAMILIES[source.family]
        assert family.masked_head is not None
        return family.masked_head(source.config)

    def collate(
        self, columns: Mapping[str, np.ndarray], feed: Inputs, batch: Batch, rows: int
    ) -> dict[str, np.ndarray]:
        """``units`` (rows, length): the number of each token, or word, in its text, -1 at special tokens and padding; ``text``
        (rows,): a hash of the row's tokens; ``vocabulary`` (rows, 2): how many tokens there are, and which one masks.
        """
        assert isinstance(feed, TextInputs)
        units, text = np.full((rows, batch.bucket), -1, np.int32), np.zeros(rows, np.uint32)
        for row, number in enumerate(map(int, batch.indices)):
            units[row, feed.span(number, batch.bucket)] = self._units(feed, number)
            text[row] = zlib.crc32(np.array(feed.window(number).ids, np.int32).tobytes())
        vocabulary = np.array([[feed.transform.vocabulary, feed.transform.mask_id]], np.int32)
        return {"units": units, "text": text, "vocabulary": np.repeat(vocabulary, rows, axis=0)}

    def _units(self, feed: TextInputs, row: int) -> Int[np.ndarray, " tokens"]:
        """The number of each of a row's tokens, or of its word, from 0; -1 at special tokens."""
        encoded, transform = feed.window(row), feed.transform
        ids = np.array(encoded.ids, np.int64)
        text = ~np.isin(ids, list(transform.special_ids))
        begins = text
        if self.whole_words:
            after_special = np.concatenate([[True], ~text[:-1]])
            begins = text & (after_special | ~transform.continues_word[ids])
        return np.where(text, np.cumsum(begins) - 1, -1).astype(np.int32)

    def gather(
        self, predictions: Mapping[str, np.ndarray], feed: Inputs, batch: Batch
    ) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        """The hidden tokens of each row, in the order of the text."""
        for row, (number, example) in enumerate(zip(batch.indices, feed.examples_of(batch.indices), strict=True)):
            position = predictions["position"][row]
            order = np.argsort(position)[(position < 0).sum() :]
            arrays = {name: values[row][order] for name, values in predictions.items()}
            arrays["position"] = arrays["position"] - feed.span(int(number), batch.bucket).start
            yield int(example), int(number), arrays

    def shapes(self, outputs: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        """Those of every language model, and ``position``."""
        return {**super().shapes(outputs), "position": ()}

    def score(self, predictions: Predictions, data: Dataset, indices: Int[np.ndarray, " n"]) -> dict[str, float]:
        """Perplexity, cross-entropy (nats) and accuracy, pooled over all hidden tokens."""
        return language_scores(predictions["log_likelihood"].values, predictions["correct"].values)
