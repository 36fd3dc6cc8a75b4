"""Tables of texts whose labels can be learned."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from support.checkpoints import WORDS


def write_table(path: Path, rows: int = 160, seed: int = 0) -> Path:
    """Texts whose label is decided by the words in them; lengths differ, so that two padded lengths occur."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(rows):
            positive = i % 3 != 0
            fitting = WORDS[:3] if positive else WORDS[3:6]
            # 16 and 32 tokens padded: each length more is a compilation more in most tests.
            length = int(rng.integers(3, 14)) if i % 2 else int(rng.integers(24, 30))
            words = [str(rng.choice(WORDS[6:])) for _ in range(length)]
            words[int(rng.integers(len(words)))] = str(rng.choice(fitting))
            writer.writerow([" ".join(words), "up" if positive else "down"])
    return path
