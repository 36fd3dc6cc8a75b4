"""Write pairs of tweets: which of the two is rated more positive?

python experiments/tasks/pairs_data.py                              # results/tasks/pairs/{train,test}.csv

Tweets of at most 60 characters and their mean ratings, from -4 to 4, are those of the registered data ``tweets-ratings``, whose test
tweets make the test pairs and whose training tweets the training pairs. Each tweet is in at most four pairs, and the ratings of a pair
are at least a point apart.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import transferlab as tl

FOLDER = Path("results/tasks/pairs")
GAP, TURNS, LONGEST, TEST = 1.0, 4, 60, 1200


def pairs(tweets: Sequence[int], ratings: np.ndarray, seed: int) -> Iterator[tuple[int, int]]:
    """Pairs of indices; in each turn, every tweet is drawn at most once. Its place in the pair is random, since the draw is."""
    rng = np.random.default_rng(seed)
    seen: set[frozenset[int]] = set()
    for _ in range(TURNS):
        drawn = rng.permutation(tweets)
        for first, second in zip(drawn[::2].tolist(), drawn[1::2].tolist(), strict=False):
            if abs(ratings[first] - ratings[second]) >= GAP and frozenset((first, second)) not in seen:
                seen.add(frozenset((first, second)))
                yield first, second


def main() -> None:
    data = tl.dataset("tweets-ratings", test_examples=TEST)
    ratings = data.target.values.reshape(-1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed, (split, indices) in enumerate({"train": data.train, "test": data.test}.items()):
        short = [i for i in indices.tolist() if len(data.records[i]["text"]) <= LONGEST]
        rows = [
            (data.records[a]["text"], data.records[b]["text"], "first" if ratings[a] > ratings[b] else "second")
            for a, b in pairs(short, ratings, seed)
        ]
        with (FOLDER / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("first", "second", "more_positive"), *rows])
        share = np.mean([label == "first" for *_, label in rows])
        print(
            f"{FOLDER / f'{split}.csv'}: {len(rows)} pairs of {len(short)} tweets, the first is more positive in {share:.1%}"
        )


if __name__ == "__main__":
    main()
