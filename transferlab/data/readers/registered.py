"""The data sets that have a name here, built on first use; see :data:`transferlab.data.builders.DATASETS`."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from transferlab.data.columns import Classes, Numbers, Target, WordTags
from transferlab.data.examples import Examples, Lazy, same_text
from transferlab.data.readers.base import Options, Reader


class RegisteredReader(Reader):
    """A name such as ``tweets``."""

    name = "name of a data set"

    def recognises(self, source: Any) -> bool:
        from transferlab.data.builders import DATASETS

        return isinstance(source, str) and source in DATASETS

    def read(self, source: str, options: Options) -> Examples:
        del options
        return read_registered(source)


def read_registered(name: str) -> Examples:
    """Read a data set of :data:`transferlab.data.builders.DATASETS`, built on first use."""
    from transferlab.data.arrayrecord import data_source
    from transferlab.data.builders import DATASETS
    from transferlab.data.images import read_image

    entry = DATASETS[name]
    source = data_source(entry)
    # These sets are small: texts and encoded images are kept in memory. TFDS shuffles by a hash when it writes; sorted by
    # id, the order does not depend on its version.
    stored = sorted(source.__getitems__(range(len(source))), key=lambda raw: raw["id"])

    def record(i: int) -> dict[str, Any]:
        raw = stored[i]
        example = _text(raw["text"]) if entry.modality == "text" else read_image(raw["image"])
        content = {"words": _text(raw["text"]).split(" ")} if entry.words else {entry.modality: example}
        return {"id": _text(raw["id"]), **content, **target.record(i)}

    def identify(i: int) -> tuple[str, bytes, bytes]:
        raw = stored[i]
        if entry.modality == "image":
            # The builder encodes equal images as equal bytes.
            same = hashlib.sha256(raw["image"]).digest()
            return _text(raw["id"]), same, same
        text = _text(raw["text"])
        return _text(raw["id"]), same_text(text), text.encode()

    about = {"licence": entry.license, "citation": entry.citation, "version": entry.version}
    target: Target = (
        _word_tags(entry.labels, [_text(raw["tags"]).split(" ") for raw in stored])
        if entry.words
        else Classes(entry.labels, np.array([int(raw["label"]) for raw in stored], np.int32))
        if entry.number is None
        else Numbers((entry.number,), np.array([[float(_text(raw["target"]))] for raw in stored]))
    )
    return Examples(
        name, "words" if entry.words else entry.modality, target, Lazy(len(stored), record), identify, about
    )


def _word_tags(names: tuple[str, ...], tags: list[list[str]]) -> WordTags:
    values, index = np.empty(len(tags), object), {name: i for i, name in enumerate(names)}
    for i, each in enumerate(tags):
        values[i] = np.array([index[tag] for tag in each], np.int32)
    return WordTags(names, values)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
