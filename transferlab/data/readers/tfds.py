"""Data sets of TensorFlow Datasets, ``tfds:name``: without TensorFlow wherever TFDS itself can do without it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from transferlab.data.readers.base import Options, Reader, Table
from transferlab.data.readers.joining import of_splits
from transferlab.data.values import plain
from transferlab.errors import TransferlabError, nearest
from transferlab.files import file_lock


class TfdsReader(Reader):
    """``tfds:name``, ``tfds:name/config`` or ``tfds:name/config:version``, as TFDS writes them.

    A set that is prepared in TFDS's own folder is read from there; any other is prepared in the cache, as ArrayRecord.
    """

    name = "tfds:name"
    takes = ("white",)

    def recognises(self, source: Any) -> bool:
        return isinstance(source, str) and source.startswith("tfds:")

    def read(self, source: str, options: Options) -> Table:
        del options
        builder = _builder(source)
        parts = {split: _table(source, builder, split) for split in builder.info.splits}
        return of_splits(source, parts)


def _builder(source: str) -> Any:
    """The builder of a set that is prepared."""
    from tensorflow_datasets.core import registered

    from transferlab.data.arrayrecord import tfds
    from transferlab.fetching import make_cache

    name = source.removeprefix("tfds:")
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    tfds.display_progress_bar(False)
    try:
        builder = tfds.builder(name)
    except registered.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        raise TransferlabError(f"TFDS has no data set '{name}'.{nearest(name, known)}") from None
    except Exception as error:
        raise TransferlabError(_failure(source, "be opened", error)) from error
    if builder.info.splits:
        return builder
    directory = make_cache("tfds")
    with file_lock(directory / f".{builder.name}.lock"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder = tfds.builder(name, data_dir=str(directory), file_format="array_record")
        try:
            builder.download_and_prepare()
        except Exception as error:
            raise TransferlabError(_failure(source, "be prepared", error)) from error
    return builder


def _table(source: str, builder: Any, split: str) -> Table:
    from transferlab.data.arrayrecord import tfds

    features = dict(builder.info.features.items())
    if unread := [name for name, feature in features.items() if isinstance(feature, tfds.features.Video)]:
        raise TransferlabError(f"{source}: {', '.join(unread)} is video, which is not read.")
    # Images stay encoded: they are decoded one by one when they are read.
    skip = {
        name: tfds.decode.SkipDecoding()
        for name, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    }
    rows = _rows(source, builder, split, skip)
    columns = {name: [_value(row[name], feature) for row in rows] for name, feature in features.items()}
    classes = {name: tuple(of.names) for name, feature in features.items() if (of := _classes(feature)) is not None}
    return Table(
        f"{source} ({split})", columns, [f"row {i + 1}" for i in range(len(rows))], _roles(builder.info, features), classes,
        about={"citation": builder.info.citation, "version": str(builder.info.version)},
    )  # fmt: skip


def _rows(source: str, builder: Any, split: str, skip: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The examples of a split; files of another format than ArrayRecord need TensorFlow."""
    from transferlab.data.arrayrecord import tfds

    try:
        found = builder.as_data_source(split=split, decoders=dict(skip) or None)
        return found.__getitems__(range(len(found)))
    except Exception as error:
        first = error
    try:
        import tensorflow  # noqa: F401  # pyright: ignore

        return list(tfds.as_numpy(builder.as_dataset(split=split, decoders=dict(skip) or None)))
    except ImportError:
        raise TransferlabError(
            f"{_failure(source, 'be read without TensorFlow', first)} Prepare it as ArrayRecord, or install TensorFlow:\n"
            "  pip install tensorflow"
        ) from None
    except Exception as error:
        raise TransferlabError(_failure(source, "be read", error)) from None


def _roles(info: Any, features: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    """What the set's own (content, target) says, where both are columns."""
    keys = info.supervised_keys
    if not keys or len(keys) != 2 or not all(isinstance(key, str) and key in features for key in keys):
        return {}
    content, target = keys
    kind = _content(features[content])
    return {"target": target} if kind is None else {kind: content, "target": target}


def _content(feature: Any) -> str | None:
    from transferlab.data.arrayrecord import tfds

    kinds = ((tfds.features.Image, "image"), (tfds.features.Audio, "audio"), (tfds.features.Text, "text"))
    return next((kind for cls, kind in kinds if isinstance(feature, cls)), None)


def _classes(feature: Any) -> Any:
    """The feature of classes that a column holds, one or a list an example."""
    from transferlab.data.arrayrecord import tfds

    inner = getattr(feature, "feature", feature)
    return inner if isinstance(inner, tfds.features.ClassLabel) and inner.names else None


def _value(value: Any, feature: Any) -> Any:
    kind = _content(feature)
    if kind == "audio":
        rate = feature.sample_rate or getattr(feature, "_sample_rate", None)
        scale = 1.0 if value.dtype.kind == "f" else 2.0**15
        return {"array": value / scale, "sampling_rate": rate}
    value = plain(value)
    if isinstance(value, list):
        return [item.decode("utf-8") if isinstance(item, bytes) else item for item in value]
    return value.decode("utf-8") if isinstance(value, bytes) and kind != "image" else value


def _failure(source: str, what: str, error: Exception) -> str:
    reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
    return f"'{source}' cannot {what} ({type(error).__name__}: {reason})."
