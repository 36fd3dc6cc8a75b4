"""Parquet, Arrow and Feather files, folders of Parquet files, and data sets that Hugging Face's ``datasets`` saved."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transferlab import limits
from transferlab.data.examples import SPLITS
from transferlab.data.readers.base import Options, Reader, Table
from transferlab.data.readers.joining import of_splits
from transferlab.data.values import plain
from transferlab.errors import TransferlabError
from transferlab.reading import check_file, read_object

PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather", ".ipc")
_SHARD = re.compile(r"-\d+-of-\d+.*$")
"""The number of a file among those of its split: ``train-00000-of-00002``."""


class ArrowReader(Reader):
    """Columns with types, in files or in memory."""

    name = "Parquet, Arrow or Feather file, or a folder that datasets saved"
    takes = ("white",)

    def recognises(self, source: Any) -> bool:
        if isinstance(source, Path):
            return _saved(source) if source.is_dir() else source.suffix.lower() in PARQUET + ARROW
        return _is_arrow(source) or (hasattr(source, "with_format") and hasattr(source, "column_names"))

    def read(self, source: Any, options: Options) -> Table:
        del options
        if not isinstance(source, Path):
            return of_object(source)
        if not source.is_dir():
            return of_arrow(str(source), _file(source), folder=source.parent)
        if (source / "dataset_dict.json").exists():
            splits = read_object(source / "dataset_dict.json").get("splits", [])
            return of_splits(str(source), {str(split): _saved_set(source / str(split)) for split in splits})
        if (source / "state.json").exists():
            return _saved_set(source)
        return _shards(source)


def of_object(source: Any) -> Table:
    """Return an Arrow table, or a ``datasets.Dataset``, as a table."""
    if _is_arrow(source):
        return of_arrow(type(source).__name__, source)
    features = source.features.to_dict() if source.features is not None else {}
    return of_arrow("Dataset", source.with_format("arrow")[:], features)


def of_arrow(name: str, table: Any, features: Mapping[str, Any] | None = None, folder: Path | None = None) -> Table:
    """Return an Arrow table's columns; those of a struct are called ``column.field``.

    Args:
        name: of the source.
        table: of pyarrow.
        features: of each column, as ``datasets`` describes them; by default those in the table's metadata.
        folder: relative to which paths are.
    """
    if repeated := [column for column in dict.fromkeys(table.column_names) if table.column_names.count(column) > 1]:
        raise TransferlabError(
            f"{name} has {table.column_names.count(repeated[0])} columns '{repeated[0]}'; rename all but one."
        )
    described = _features(table.schema.metadata) if features is None else features
    columns: dict[str, list[Any]] = {}
    classes, roles = {}, {}
    for column in table.column_names:
        feature = described.get(column)
        kind = feature.get("_type") if isinstance(feature, Mapping) else None
        values = [plain(value) for value in table.column(column).to_pylist()]
        fields = next((list(value) for value in values if isinstance(value, dict)), None)
        if fields is None or kind in ("Image", "Audio") or set(fields) <= {"bytes", "path", "sampling_rate", "array"}:
            columns[column] = values
        else:
            columns |= {f"{column}.{field}": [(value or {}).get(field) for value in values] for field in fields}
        if kind in ("Image", "Audio"):
            roles.setdefault(kind.lower(), column)
        if names := _class_names(feature):
            classes[column] = names
    return Table(name, columns, [f"row {i + 1}" for i in range(table.num_rows)], roles, classes, folder=folder)


def _is_arrow(source: Any) -> bool:
    return type(source).__module__.split(".")[0] == "pyarrow" and hasattr(source, "column_names")


def _saved(folder: Path) -> bool:
    """Whether a folder is a saved set, or holds Parquet files (at the top, or in ``data``) or the files of ``datasets``' cache."""
    if (
        (folder / "dataset_dict.json").exists()
        or (folder / "dataset_info.json").exists()
        or (folder / "state.json").exists()
    ):
        return True
    return bool(_parquet(folder))


def _parquet(folder: Path) -> list[Path]:
    return [
        path
        for place in (folder, folder / "data")
        if place.is_dir()
        for path in sorted(place.iterdir())
        if path.suffix.lower() in PARQUET
    ]


def _saved_set(folder: Path) -> Table:
    """What ``Dataset.save_to_disk`` wrote."""
    import_arrow()
    import pyarrow

    state = read_object(folder / "state.json")
    files = [folder / str(file["filename"]) for file in state.get("_data_files", [])]
    if not files:
        raise TransferlabError(f"{folder} names no data files in its state.json.")
    info = read_object(folder / "dataset_info.json") if (folder / "dataset_info.json").exists() else {}
    table = pyarrow.concat_tables([_file(file) for file in files])
    return of_arrow(str(folder), table, info.get("features") or _features(table.schema.metadata))


def _shards(folder: Path) -> Table:
    """Files whose names say which split they are of: those of the hub, or of ``datasets``' cache."""
    import_arrow()
    import pyarrow

    files = _parquet(folder) or sorted(path for path in folder.iterdir() if path.suffix.lower() in ARROW)
    if not files:
        raise TransferlabError(f"{folder} has no Parquet or Arrow files.")
    by_split: dict[str, list[Any]] = {}
    for file in files:
        name = _SHARD.sub("", file.stem)
        last = re.split(r"[-_.]", name)[-1]
        by_split.setdefault(last if last.lower() in SPLITS else name, []).append(_file(file))
    parts = {name: of_arrow(f"{folder} ({name})", pyarrow.concat_tables(tables)) for name, tables in by_split.items()}
    return of_splits(str(folder), parts)


def _file(path: Path) -> Any:
    """The table of a Parquet or Arrow file; Arrow's has two layouts."""
    import_arrow()
    import pyarrow
    from pyarrow import parquet

    check_file(path, limits.TABLE_BYTES)
    try:
        if path.suffix.lower() in PARQUET:
            return parquet.ParquetFile(path).read()
        with pyarrow.memory_map(str(path)) as file:
            try:
                return pyarrow.ipc.open_file(file).read_all()
            except pyarrow.ArrowInvalid:
                file.seek(0)
                return pyarrow.ipc.open_stream(file).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise TransferlabError(
            f"{path} cannot be read as {path.suffix[1:]} ({' '.join(str(error).split())[:200]})."
        ) from None


def import_arrow() -> None:
    """Check that pyarrow is there.

    Raises:
        TransferlabError: it is not; the line that installs it is shown.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise TransferlabError(
            "Parquet and Arrow are read with pyarrow, which is not installed:\n  pip install 'transferlab[tables]'"
        ) from None


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The features that ``datasets`` writes into a schema; none if anything else wrote it."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of a column of classes, or of lists of them."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        return tuple(str(name) for name in feature["names"])
    return _class_names(feature.get("feature"))
