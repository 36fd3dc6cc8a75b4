"""Data sets of the Hugging Face hub, ``hf:owner/name``, through the library ``datasets``."""

from __future__ import annotations

import importlib
from typing import Any

from transferlab.data.readers.arrow import of_object
from transferlab.data.readers.base import Options, Reader, Table
from transferlab.data.readers.joining import of_splits
from transferlab.errors import TransferlabError


class HubReader(Reader):
    """``hf:owner/name``, ``hf:owner/name/configuration``, and ``@revision`` after either."""

    name = "hf:owner/name"
    takes = ("white",)

    def recognises(self, source: Any) -> bool:
        return isinstance(source, str) and source.startswith("hf:")

    def read(self, source: str, options: Options) -> Table:
        del options
        name, _, revision = source.removeprefix("hf:").partition("@")
        parts = name.split("/")
        if not all(parts) or len(parts) > 3:
            raise TransferlabError(
                f"'{source}' is no name on the hub; expected hf:owner/name or hf:owner/name/configuration."
            )
        try:
            datasets = importlib.import_module("datasets")
        except ImportError:
            raise TransferlabError(
                f"'{source}' is read with the library datasets, which is not installed:\n  pip install 'transferlab[hf]'"
            ) from None
        try:
            found = datasets.load_dataset(
                "/".join(parts[:2]), parts[2] if len(parts) == 3 else None, revision=revision or None
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise TransferlabError(
                f"'{source}' cannot be read from the hub ({type(error).__name__}: {reason})."
            ) from None
        return of_splits(source, {str(split): of_object(part) for split, part in found.items()})
