"""Model inputs for any choice of a data set's examples: texts tokenised once and kept, images decoded when read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from transferlab.data.dataset import Dataset
from transferlab.data.images import ImageTransform
from transferlab.data.packing import NARROWEST, Packed, pack
from transferlab.data.text import TextTransform, TokenCache
from transferlab.errors import TransferlabError


@dataclass
class Inputs:
    """Preprocessed access to a data set: model inputs for any choice of its examples.

    Texts are tokenised once and kept (they are small); images are decoded and transformed when read.

    Attributes:
        data: the data set.
        transform: the source's preprocessing.

    Raises:
        TransferlabError: a transform of another modality than the data's.
    """

    data: Dataset
    transform: TextTransform | ImageTransform
    _cache: TokenCache = field(init=False, repr=False)

    def __post_init__(self) -> None:
        reads = "text" if isinstance(self.transform, TextTransform) else "image"
        if reads != self.data.modality:
            raise TransferlabError(
                f"Data set '{self.data.name}' contains {self.data.modality}s, but the source reads {reads}s."
            )
        caches = self.transform.caches if isinstance(self.transform, TextTransform) else {}
        self._cache = caches.setdefault(self.data.sha256, TokenCache())

    def prepare(self, indices: Int[np.ndarray, " n"]) -> None:
        """Tokenise the texts that have not been yet."""
        if isinstance(self.transform, TextTransform):
            new = [int(i) for i in indices if int(i) not in self._cache.encoded]
            texts, ids = [self.data.records[i]["text"] for i in new], [self.data.ids[i] for i in new]
            self._cache.encoded.update(zip(new, self.transform.encode(texts, ids), strict=True))

    def buckets(self, indices: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the padded length of each example; zeros for images, which all have the same shape."""
        if not isinstance(self.transform, TextTransform):
            return np.zeros(len(indices), np.int32)
        key = np.ascontiguousarray(indices).tobytes()
        if key not in self._cache.buckets:
            self.prepare(indices)
            lengths = [self.transform.bucket(self.length(int(i))) for i in indices]
            self._cache.buckets[key] = buckets = np.array(lengths, np.int32)
            buckets.flags.writeable = False
        return self._cache.buckets[key]

    def truncated(self, indices: Int[np.ndarray, " n"]) -> int:
        """Return how many of these texts are longer than the model's limit."""
        if not isinstance(self.transform, TextTransform):
            return 0
        key = np.ascontiguousarray(indices).tobytes()
        if key not in self._cache.truncated:
            self.prepare(indices)
            self._cache.truncated[key] = sum(self._cache.encoded[int(i)].cut > 0 for i in indices)
        return self._cache.truncated[key]

    def length(self, index: int) -> int:
        """Return the number of tokens of one text."""
        return len(self._cache.encoded[int(index)].ids)

    def span(self, index: int, bucket: int) -> slice:
        """Return where a text's own tokens are in a row padded to ``bucket``; empty for an image."""
        if not isinstance(self.transform, TextTransform):
            return slice(0, 0)
        length = self.length(index)
        return slice(0, length) if self.transform.side == "right" else slice(bucket - length, bucket)

    @property
    def packs(self) -> bool:
        """Whether its examples are texts that can share rows; padded on the left, their positions depend on the padding."""
        return isinstance(self.transform, TextTransform) and self.transform.side == "right"

    def packed(self, indices: Int[np.ndarray, " n"], tokens: int, first_position: int) -> Iterator[Packed]:
        """Iterate over batches of about ``tokens`` tokens that contain each of these texts once, many to a row."""
        assert isinstance(self.transform, TextTransform)
        self.prepare(indices)
        texts, transform = [self._cache.encoded[int(i)] for i in indices], self.transform
        longest = max((len(text.ids) for text in texts), default=0)
        width = transform.bucket(max(longest, min(NARROWEST, transform.max_length)))
        return pack(texts, width, tokens, pad=transform.pad_id, types=transform.types, first_position=first_position)

    def inputs(self, indices: Int[np.ndarray, " n"], bucket: int, rows: int) -> dict[str, np.ndarray]:
        """Return model inputs for these examples, padded to ``rows`` and, for texts, to ``bucket`` tokens."""
        if isinstance(self.transform, TextTransform):
            self.prepare(indices)
            return self.transform.pad([self._cache.encoded[int(i)] for i in indices], bucket, rows)
        pixels = np.zeros((rows, self.transform.size, self.transform.size, self.transform.channels), np.float32)
        for row, i in enumerate(indices):
            pixels[row] = self.transform(self.data.records[int(i)]["image"])
        return {"pixel_values": pixels}
