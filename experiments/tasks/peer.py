"""What the peers share: the rows of a study, and the files of its model for transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import transferlab as tl
from transferlab.config import read_config
from transferlab.data.text import TextTransform
from transferlab.studies.settings import StudyConfig


def study(name: str) -> StudyConfig:
    """The config of this name in this folder."""
    return read_config(Path(__file__).with_name(f"{name}.py"))


def texts_of(data: tl.Dataset, indices: np.ndarray) -> list[Any]:
    """Texts, or pairs of them, of these examples."""
    records = [data.records[int(i)] for i in indices]
    if data.content == "pair":
        return [(record["text"], record["text_pair"]) for record in records]
    return [record["text"] for record in records]


def minilm() -> tuple[Path, int]:
    """The folder of the model's files, and how many tokens are read of a text."""
    source = tl.load("minilm-l6")
    assert isinstance(source.transform, TextTransform)
    return Path(source.provenance["path"]), source.transform.max_length
