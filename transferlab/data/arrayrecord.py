"""TFDS without TensorFlow: an entry's examples written once as ArrayRecord, then read as a data source."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

os.environ.setdefault("TFDS_DISABLE_TQDM", "1")
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from transferlab.data.builders import Entry, Example
from transferlab.data.images import png
from transferlab.errors import TransferlabError
from transferlab.fetching import make_cache
from transferlab.files import file_lock


def data_source(entry: Entry) -> Any:
    """Return random access to a data set's examples. It is built on first use, once even if two processes ask for it."""
    directory = make_cache("tfds")
    name = _builder_name(entry)
    builder_class = _builder_class(entry)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with file_lock(directory / f".{name}.lock"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder = builder_class(data_dir=str(directory), file_format="array_record")
        tfds.display_progress_bar(False)
        with _quiet():
            # TFDS writes to a temporary directory and renames it, so a killed build leaves nothing behind.
            builder.download_and_prepare()
    # Images stay encoded: they are decoded one by one when read, and comparing two needs no decoding.
    skip = {"image": tfds.decode.SkipDecoding()} if entry.modality == "image" else None
    source = builder.as_data_source(split="examples", decoders=skip)
    if len(source) == 0:
        raise TransferlabError(f"The data set '{entry.name}' has no examples after it was built.")
    return source


def _builder_name(entry: Entry) -> str:
    """TFDS's names have no hyphens."""
    return f"transferlab_{entry.name.replace('-', '_')}"


@cache
def _builder_class(entry: Entry) -> type:
    """TFDS registers a class by its name, once in a process."""
    name = _builder_name(entry)
    with registered.skip_registration():
        return type(name, (_Builder,), {"name": name, "entry": entry, "VERSION": tfds.core.Version(entry.version)})


class _Builder(tfds.core.GeneratorBasedBuilder):
    """One class for all entries; ``data_source`` derives a named one for each."""

    entry: Entry
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        entry = self.entry
        content = tfds.features.Text() if entry.modality == "text" else tfds.features.Image(shape=(None, None, 3))
        # TFDS would keep a float64 in single precision.
        number = {"target": tfds.features.Text()}
        target = {"label": tfds.features.ClassLabel(names=list(entry.labels))} if entry.labels else number
        if entry.words:
            target = {"tags": tfds.features.Text()}
        features = {"id": tfds.features.Text(), entry.modality: content, **target}
        return tfds.core.DatasetInfo(
            builder=self,
            description=entry.about,
            features=tfds.features.FeaturesDict(features),
            citation=entry.citation,
            license=entry.license,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"examples": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, Example]]:
        for example in self.entry.examples():
            if "image" in example:
                # Encoded here: TFDS would need TensorFlow to encode an array.
                image = example["image"]
                rgb = np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image
                example = {**example, "image": io.BytesIO(png(rgb))}
            if "target" in example:
                example = {**example, "target": repr(float(example["target"]))}
            yield example["id"], example


class _quiet:
    """Silences TFDS's progress on standard output; building a data set takes only a second or two."""

    def __enter__(self) -> None:
        import contextlib

        self._stack = contextlib.ExitStack()
        self._stack.enter_context(contextlib.redirect_stdout(io.StringIO()))

    def __exit__(self, *error: object) -> None:
        self._stack.close()
