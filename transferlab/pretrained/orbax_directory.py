"""Our own directory, both directions: an Orbax ``tree`` with readable paths, and the description that opens it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np

from transferlab import trees
from transferlab.data.text import TextTransform
from transferlab.errors import FieldError, TransferlabError, nearest
from transferlab.fields import read_values
from transferlab.files import write_json
from transferlab.manifest import MANIFEST, Damaged, check_manifest
from transferlab.models.heads import HeadConfig, TokenClassifierConfig
from transferlab.pretrained.config_checks import check_depth, check_layers
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.formats.orbax import read_orbax, write_tree
from transferlab.pretrained.formats.tensors import narrowed
from transferlab.pretrained.leaves import LazyLeaf
from transferlab.pretrained.matching import Described, assemble
from transferlab.pretrained.names import Entry, NameTable
from transferlab.pretrained.sentence_transformers import MODULES, read_modules
from transferlab.pretrained.source import Source
from transferlab.pretrained.transforms import read_transforms
from transferlab.reading import read_object, reading

_LOG = logging.getLogger(__name__)

DESCRIPTION = "transferlab.json"
"""What an Orbax directory of ours has next to its ``tree``: family, config, head."""


def _is_data(file: str) -> bool:
    """Whether a file of an Orbax directory holds arrays: those are long, and are checked when the first array is read."""
    return "/d/" in file


def _check_export(directory: Path, selects: Callable[[str], bool]) -> bool:
    """Check the selected files of an Orbax directory of ours against its manifest; False where it has none."""
    try:
        return check_manifest(directory, selects)
    except Damaged as error:
        raise TransferlabError(
            f"{error} Write {directory} again. If the file was changed on purpose, remove the manifest: "
            f"rm '{directory / MANIFEST}'"
        ) from None


def from_orbax(directory: Path, name: str, provenance: dict[str, Any]) -> Source:
    """Open a directory as :func:`write_orbax` wrote it.

    Raises:
        TransferlabError: it is damaged, from a later version, or does not fit the network that it describes.
    """
    path = directory / DESCRIPTION
    described = read_object(path)
    try:
        if described["format"] != 1:
            raise TransferlabError(
                f"{path}: format {described['format']!r} is not supported, expected 1; it was written by a later version."
            )
        if (family := FAMILIES.find(str(described["family"]))) is None:
            raise TransferlabError(
                f"{path}: its family '{described['family']}' is not known here.{nearest(str(described['family']), FAMILIES)} One of "
                "your own: tl.load(…, family=…)."
            )
        if old := family.old_fields.keys() & described["config"].keys():
            _LOG.warning(
                "%s: its config has the old names %s of the fields %s.",
                path,
                sorted(old),
                [family.old_fields[field] for field in sorted(old)],
            )
        renamed = {family.old_fields.get(field, field): value for field, value in described["config"].items()}
        config = family.config(**read_values(family.config, renamed, "config"))
        head = None if described["head"] is None else dict(described["head"])
        if head is not None:
            kind = _HEADS[head.pop("kind")]
            head = kind(**read_values(kind, head, "head"))
        check_depth(described["config"], path)
        check_layers(config, len(described["keys"]), path)
        keys, names = described["keys"], family.names(config)[described["names"]]
        if isinstance(head, TokenClassifierConfig):
            names = family.token_names(names, head.hidden is not None)
        pooling, normalise = described["pooling"], described["normalise"]
        provenance = {**described["origin"], "path": str(directory.resolve()), **provenance}
    except FieldError as error:
        raise TransferlabError(f"{path}: {error} It is not a readable description.") from None
    except TransferlabError as error:
        # The error of a config or head; those raised above name the file already.
        named = str(error).startswith(str(path))
        raise error if named else TransferlabError(f"{path}: not a readable description ({error})") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise TransferlabError(f"{path}: not a readable description ({error!r}).") from None
    if not _check_export(directory, lambda file: not _is_data(file)):
        _LOG.warning("%s was written without a manifest: it cannot be checked for damage.", directory)
    tensors = read_orbax(directory / "tree", lambda: _check_export(directory, _is_data))
    raw = read_object(directory / "config.json") if (directory / "config.json").exists() else None
    transform, towers = read_transforms(directory, family, config, (raw or {}).get("model_type"))
    if isinstance(transform, TextTransform):
        with reading(directory / MODULES):
            transform = replace(transform, prompt=read_modules(directory).prompt)
    paths = NameTable(tuple(Entry(leaf, leaf) for leaf in tensors))
    with reading(path):
        meta = Described(transform, towers, pooling, normalise, head=head)
        source = assemble(name, family, config, tensors, provenance, meta, paths)
        if source.unused:
            key = source.unused[0][0]
            raise TransferlabError(f"{path}: '{key}' is in its tree, but not in the network that it describes.")
        leaves = {path: replace(leaf, key=str(keys.get(path, path))) for path, leaf in source.leaves.items()}
    return replace(source, leaves=leaves, raw=raw, names=names, tensors={}, files={})


_HEADS = {kind.__name__: kind for kind in get_args(HeadConfig)}


def write_orbax(source: Source, directory: Path, dtype: str | None) -> None:
    """Write ``tree``, every leaf under its readable path, and ``transferlab.json``, what is needed to open it.

    :func:`from_orbax` is its counterpart.
    """
    if source.raw is not None:
        write_json(directory / "config.json", source.raw)
    write_json(
        directory / DESCRIPTION,
        {
            "format": 1,
            "family": source.family,
            "config": asdict(source.config),
            "head": None if source.head is None else {"kind": type(source.head).__name__, **asdict(source.head)},
            # Keys of the reference implementation: with them it can be written for that again.
            "keys": {path: leaf.key for path, leaf in source.leaves.items()},
            "names": _table_number(source),
            "pooling": source.pooling,
            "normalise": source.normalise,
            "origin": {name: value for name, value in source.provenance.items() if name not in ("path", "config")},
        },
    )

    def cast(leaf: LazyLeaf) -> np.ndarray:
        array = trees.contiguous(np.asarray(leaf.read()))
        if dtype is None or not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        return narrowed(array, np.dtype(dtype), leaf.key)

    # The layout and the image size of the tree; Orbax writes the tree as a whole, so here it is in memory once.
    tree = trees.unflatten({path: cast(leaf) for path, leaf in source.leaves.items()})
    write_tree(directory / "tree", tree)


def _table_number(source: Source) -> int:
    if source.names is None:
        return 0

    tokens = source.names.tokens

    def keys(table: NameTable) -> set[tuple[str, str]]:
        # Compared by key: two layouts that do the same are not equal. A table for tokens follows from that of another head, and may
        # name what was dropped since.
        pairs = {(name.path, name.key) for name in table.names}
        return {(p, key) for p, key in pairs if p in source.leaves and not p.startswith("head/")} if tokens else pairs

    return [keys(table) for table in FAMILIES[source.family].names(source.config)].index(keys(source.names))
