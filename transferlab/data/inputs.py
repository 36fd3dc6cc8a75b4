"""Model inputs for any choice of examples: texts tokenised once and kept, images and audio decoded when read.

A batch consists of *rows*. A row is an example, unless a task puts several examples into one or spreads one over several; rows
have numbers of their own then (:meth:`Inputs.rows_of`, :meth:`Inputs.examples_of`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from transferlab.compute.prefetch import prefetch_map
from transferlab.data.arrays import ArrayTransform
from transferlab.data.audio import AudioTransform, resampled
from transferlab.data.images import ImageTransform
from transferlab.data.packing import NARROWEST, Packed, pack
from transferlab.data.text import Encoded, Text, TextTransform, TokenCache
from transferlab.errors import TransferlabError

Transform = TextTransform | ImageTransform | AudioTransform | ArrayTransform
"""The preprocessing of a source."""

Examples = Sequence[Mapping[str, Any]]
"""Records with an example's content: see :data:`transferlab.data.examples.Content`."""


@dataclass(eq=False)
class Inputs:
    """Base: examples as the inputs of a model.

    Attributes:
        examples: records, by index.
        ids: their names in errors; by default their numbers.
    """

    examples: Examples
    ids: Sequence[str] = field(default=(), kw_only=True)

    key: ClassVar[str] = ""
    """What the inputs of a row depend on in addition to examples and preprocessing."""
    packs: ClassVar[bool] = False
    """Whether its examples are texts that can share the rows of a feature pass (:meth:`TextInputs.packed`)."""
    views: ClassVar[int] = 1
    """How many rows of model inputs a row of a batch has, one after another, as the two texts that a contrastive loss compares;
    those of row i are the rows from ``views * i`` on of :attr:`single`."""

    @property
    def shapes(self) -> tuple[Any, ...]:
        """What the shapes of a batch depend on in addition to its padded length; runs that step together have it in common."""
        return ()

    @property
    def single(self) -> Inputs:
        """The same inputs with one view a row, for whatever is computed of each view by itself."""
        return self

    def views_of(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " views"]:
        """Return the rows of :attr:`single` that are these rows' views."""
        return rows if self.views == 1 else (self.views * rows[:, None] + np.arange(self.views)).reshape(-1)

    def rows_of(self, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " rows"]:
        """Return the rows that hold these examples; by default the examples themselves."""
        return indices

    def examples_of(self, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """Return the example of each of these rows; by default the row itself."""
        return rows

    def buckets(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the padded length of each row; zeros where all rows have the same shape."""
        return np.zeros(len(rows), np.int32)

    def truncated(self, indices: Int[np.ndarray, " n"]) -> int:
        """Return how many of these examples are longer than the model's limit."""
        return 0

    def span(self, row: int, bucket: int) -> slice:
        """Return where a row's own tokens are when it is padded to ``bucket``; empty where all rows have the same shape."""
        return slice(0, 0)

    def inputs(self, rows: Int[np.ndarray, " n"], bucket: int, size: int) -> dict[str, np.ndarray]:
        """Return model inputs for these rows, padded to ``size`` rows and, for texts, to ``bucket`` tokens."""
        raise NotImplementedError


@dataclass(eq=False)
class TextInputs(Inputs):
    """Texts, pairs of texts, or lists of words; tokenised once and kept (they are small).

    A text that is read in windows has a row for each: window ``k`` of example ``i`` of ``n`` is row ``i + k · n``.

    Attributes:
        transform: the source's tokenizer.
        cache: what is known of the texts already; data sets share one through :attr:`TextTransform.caches`.
    """

    transform: TextTransform
    cache: TokenCache = field(default_factory=TokenCache, repr=False)

    def prepare(self, indices: Int[np.ndarray, " n"]) -> None:
        """Tokenise the texts that have not been yet."""
        new = [int(i) for i in indices if int(i) not in self.cache.encoded]
        texts, ids = [text_of(self.examples[i]) for i in new], [self.ids[i] for i in new] if self.ids else ()
        self.cache.encoded.update(zip(new, self.transform.encode(texts, ids), strict=True))

    def encoded(self, index: int) -> Encoded:
        """Return one example's tokens."""
        if index not in self.cache.encoded:
            self.prepare(np.array([index]))
        return self.cache.encoded[index]

    def window(self, row: int) -> Encoded:
        """Return the tokens of a row."""
        number, example = divmod(row, len(self.examples))
        encoded = self.encoded(example)
        return encoded.windows[number - 1] if number else encoded

    def rows_of(self, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " rows"]:
        if self.transform.overlap is None:
            return indices
        self.prepare(indices)
        counts = [1 + len(self.cache.encoded[int(i)].windows) for i in indices]
        rows = [i + len(self.examples) * np.arange(n) for i, n in zip(indices, counts, strict=True)]
        return np.concatenate([indices[:0], *rows])

    def examples_of(self, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        return rows % max(1, len(self.examples))

    def buckets(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        key = np.ascontiguousarray(rows).tobytes()
        if key not in self.cache.buckets:
            self.prepare(self.examples_of(rows))
            lengths = [self.transform.bucket(self.length(int(i))) for i in rows]
            self.cache.buckets[key] = buckets = np.array(lengths, np.int32)
            buckets.flags.writeable = False
        return self.cache.buckets[key]

    def truncated(self, indices: Int[np.ndarray, " n"]) -> int:
        key = np.ascontiguousarray(indices).tobytes()
        if key not in self.cache.truncated:
            self.prepare(indices)
            self.cache.truncated[key] = sum(self.cache.encoded[int(i)].cut > 0 for i in indices)
        return self.cache.truncated[key]

    def length(self, row: int) -> int:
        """Return the number of tokens of a row."""
        return len(self.window(int(row)).ids)

    def span(self, row: int, bucket: int) -> slice:
        length = self.length(row)
        return slice(0, length) if self.transform.side == "right" else slice(bucket - length, bucket)

    @property
    def packs(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether texts can share rows; padded on the left, their positions depend on the padding."""
        return self.transform.side == "right"

    def packed(self, rows: Int[np.ndarray, " n"], tokens: int, first_position: int) -> Iterator[Packed]:
        """Iterate over batches of about ``tokens`` tokens that contain each of these texts once, many laid end to end."""
        self.prepare(self.examples_of(rows))
        texts, transform = [self.window(int(row)) for row in rows], self.transform
        longest = max((len(text.ids) for text in texts), default=0)
        width = transform.bucket(max(longest, min(NARROWEST, transform.max_length)))
        return pack(texts, width, tokens, pad=transform.pad_id, types=transform.types, first_position=first_position)

    def inputs(self, rows: Int[np.ndarray, " n"], bucket: int, size: int) -> dict[str, np.ndarray]:
        self.prepare(self.examples_of(rows))
        return self.transform.pad([self.window(int(row)) for row in rows], bucket, size)


@dataclass(eq=False)
class ImageInputs(Inputs):
    """Images, decoded and transformed when read."""

    transform: ImageTransform

    def inputs(self, rows: Int[np.ndarray, " n"], bucket: int, size: int) -> dict[str, np.ndarray]:
        pixels = np.zeros((size, self.transform.size, self.transform.size, self.transform.channels), np.float32)
        for row, i in enumerate(rows):
            pixels[row] = self.transform(self.examples[int(i)]["image"])
        return {"pixel_values": pixels}


@dataclass(eq=False)
class AudioInputs(Inputs):
    """Audio, resampled to the rate of the model and transformed when read, a few examples at a time."""

    transform: AudioTransform
    _cut: dict[int, bool] = field(default_factory=dict, init=False, repr=False)
    """Of each example that was read: whether it is longer than what the model hears."""

    def truncated(self, indices: Int[np.ndarray, " n"]) -> int:
        for i in map(int, indices):
            if i not in self._cut:
                self._read(i)
        return sum(self._cut[int(i)] for i in indices)

    def inputs(self, rows: Int[np.ndarray, " n"], bucket: int, size: int) -> dict[str, np.ndarray]:
        features = np.zeros((size, self.transform.frames, self.transform.bands), np.float32)
        for row, heard in enumerate(prefetch_map(self._heard, [int(i) for i in rows])):
            features[row] = heard
        return {"input_features": features}

    def _read(self, index: int) -> Mapping[str, Any]:
        record = self.examples[index]
        self._cut[index] = len(record["audio"]) > self.transform.seconds * record["rate"]
        return record

    def _heard(self, index: int) -> np.ndarray:
        record = self._read(index)
        try:
            return self.transform(resampled(record["audio"], record["rate"], self.transform.rate))
        except TransferlabError as error:
            name = self.ids[index] if self.ids else record.get("id", f"Example {index}")
            raise TransferlabError(f"{name}: {error}") from None


@dataclass(eq=False)
class ArrayInputs(Inputs):
    """Arrays of numbers, as they are."""

    transform: ArrayTransform

    def inputs(self, rows: Int[np.ndarray, " n"], bucket: int, size: int) -> dict[str, np.ndarray]:
        values = np.zeros((size, *self.transform.shape), np.float32)
        for row, i in enumerate(map(int, rows)):
            record = self.examples[i]
            name = self.ids[i] if self.ids else record.get("id", f"Example {i}")
            values[row] = self.transform(record["array"], name)
        return {"array": values}


def inputs_for(
    examples: Examples,
    transform: Transform,
    *,
    content: str,
    ids: Sequence[str] = (),
    sha256: str = "",
    name: str = "",
) -> Inputs:
    """Return the inputs for a source with this preprocessing.

    Args:
        examples: records.
        transform: of the source.
        content: what the records hold.
        ids: names of the examples.
        sha256: of a data set, whose tokens are then kept with the transform; empty for examples that are seen once.
        name: of the data set, for errors.

    Raises:
        TransferlabError: the preprocessing is of another modality, or reads no pairs.
    """
    holds = content if content in ("image", "audio", "array") else "text"
    if isinstance(transform, TextTransform) and holds == "text":
        if content == "pair":
            transform.check_pairs()
        cache = transform.caches.setdefault(f"{content} {sha256}", TokenCache()) if sha256 else TokenCache()
        return TextInputs(examples, transform, cache, ids=ids)
    if isinstance(transform, ImageTransform) and holds == "image":
        return ImageInputs(examples, transform, ids=ids)
    if isinstance(transform, AudioTransform) and holds == "audio":
        return AudioInputs(examples, transform, ids=ids)
    if isinstance(transform, ArrayTransform) and holds == "array":
        return ArrayInputs(examples, transform, ids=ids)
    plural = {"text": "texts", "image": "images", "audio": "audio", "array": "arrays"}
    kinds = {TextTransform: "text", ImageTransform: "image", AudioTransform: "audio", ArrayTransform: "array"}
    reads = kinds[type(transform)]
    what = f"Data set '{name}' contains" if name else "These are"
    raise TransferlabError(f"{what} {plural[holds]}, but the source reads {plural[reads]}.")


def text_of(record: Mapping[str, Any]) -> Text:
    """Return what a record gives to a tokenizer: its text, its two texts, or its words."""
    if "words" in record:
        return list(record["words"])
    return (record["text"], record["text_pair"]) if "text_pair" in record else record["text"]
