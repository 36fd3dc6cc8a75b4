"""An n-gram language model on a source's own tokens: the baseline of causal language modelling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from transferlab.data.ragged import Ragged
from transferlab.evaluate.baselines import Baseline

if TYPE_CHECKING:
    from transferlab.data.dataset import Dataset
    from transferlab.pretrained.source import Source

Gram = tuple[int, ...]


@dataclass
class KneserNey:
    """Interpolated Kneser–Ney smoothing (Chen & Goodman 1999, section 3; Kneser & Ney 1995).

    A token's probability after a context is its discounted count there plus what was discounted, spread as the next shorter context
    has it. Shorter contexts count in how many contexts a token was seen, not how often; the shortest is evened out with ``1 /
    vocabulary``, so that every token has a probability. The discount of each order is ``n1 / (n1 + 2 n2)``, of the numbers of
    n-grams seen once and twice (Ney et al. 1994).

    Attributes:
        vocabulary: number of tokens.
        order: length of the longest n-grams.
    """

    vocabulary: int
    order: int = 3
    _counts: list[Counter[Gram]] = field(default_factory=list, init=False, repr=False)
    _totals: list[Counter[Gram]] = field(default_factory=list, init=False, repr=False)
    _after: list[dict[Gram, list[int]]] = field(default_factory=list, init=False, repr=False)
    _likeliest: dict[Gram, int] = field(default_factory=dict, init=False, repr=False)
    _discounts: list[float] = field(default_factory=list, init=False, repr=False)

    def fit(self, documents: Iterable[Sequence[int]]) -> KneserNey:
        """Count the n-grams of these documents; a document's first token is only ever a context."""
        highest: Counter[Gram] = Counter()
        # An n-gram that begins where its document does has a shorter context.
        shorter: list[Counter[Gram]] = [Counter() for _ in range(self.order)]
        for document in documents:
            tokens = tuple(map(int, document))
            for end in range(2, len(tokens) + 1):
                gram = tokens[max(0, end - self.order) : end]
                (highest if len(gram) == self.order else shorter[len(gram) - 1])[gram] += 1
        self._counts = [Counter() for _ in range(self.order)]
        self._counts[-1] = highest
        for n in range(self.order - 1, 0, -1):
            self._counts[n - 1].update(shorter[n - 1])
            self._counts[n - 1].update(gram[1:] for gram in self._counts[n])
        self._totals = [Counter() for _ in range(self.order)]
        self._after, self._likeliest = [{} for _ in range(self.order)], {}
        for counts, totals, after in zip(self._counts, self._totals, self._after, strict=True):
            for gram, count in counts.items():
                totals[gram[:-1]] += count
                after.setdefault(gram[:-1], []).append(gram[-1])
        self._discounts = [_discount(counts) for counts in self._counts]
        return self

    def probability(self, context: Sequence[int], token: int) -> float:
        """Return the probability of a token after a context, of which the last ``order - 1`` tokens count."""
        value = 1.0 / self.vocabulary
        for n in range(min(self.order, len(context) + 1)):
            before = tuple(context[len(context) - n :])
            total = self._totals[n][before]
            if not total:
                continue
            discount, count = self._discounts[n], self._counts[n][(*before, token)]
            value = (max(count - discount, 0.0) + discount * len(self._after[n][before]) * value) / total
        return value

    def likeliest(self, context: Sequence[int]) -> int:
        """Return the most probable token after a context, of equals the smallest."""
        before = tuple(context[max(0, len(context) - self.order + 1) :])
        if before not in self._likeliest:
            # A token that was never seen after any of it is at most as probable as the most frequent of all.
            seen = {token for n in range(1, len(before) + 1) for token in self._after[n].get(before[-n:], ())}
            seen.add(max(self._counts[0], key=lambda gram: (self._counts[0][gram], -gram[0]))[0])
            self._likeliest[before] = max(sorted(seen), key=lambda token: self.probability(before, token))
        return self._likeliest[before]

    def log_likelihoods(self, document: Sequence[int]) -> Float[np.ndarray, " tokens"]:
        """Return the log-likelihood, in nats, of each token of a document but its first."""
        tokens = tuple(map(int, document))
        each = (self.probability(tokens[max(0, at - self.order + 1) : at], tokens[at]) for at in range(1, len(tokens)))
        return np.log(np.fromiter(each, np.float64, len(tokens) - 1))


def ngram(task: Any, data: Dataset, source: Source) -> dict[str, Ragged]:
    """Return what a trigram model of the training split says of each text of the test split: the predictions of
    :class:`transferlab.tasks.CausalLanguageModel`, over the same tokens of the same documents.
    """
    feed = task.inputs(data.records, source.transform, ids=data.ids, sha256=data.sha256)
    model = KneserNey(feed.transform.vocabulary).fit(feed.document(int(i)) for i in data.train)
    likelihoods, hits = [], []
    for document in (feed.document(int(i)).tolist() for i in data.test):
        likelihoods.append(model.log_likelihoods(document).astype(np.float32))
        guesses = (model.likeliest(document[:at]) == document[at] for at in range(1, len(document)))
        hits.append(np.fromiter(guesses, np.float32, len(document) - 1))
    return {"log_likelihood": Ragged.of(likelihoods), "correct": Ragged.of(hits)}


NGRAM = Baseline("a trigram model of the source's tokens, with Kneser-Ney smoothing", ngram, "text", of_source=True)


def _discount(counts: Counter[Gram]) -> float:
    once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
    # Without a single n-gram that was seen once, nothing says how much to leave for new ones.
    return once / (once + 2 * twice) if once and twice else 0.75
