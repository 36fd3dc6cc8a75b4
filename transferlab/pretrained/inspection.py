"""``inspect_checkpoint``: any checkpoint's tree, with shapes and dtypes, without reading its arrays where possible."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transferlab.errors import TransferlabError, check_arguments, printable
from transferlab.pretrained.formats.orbax import read_orbax
from transferlab.pretrained.formats.weights import read_any
from transferlab.pretrained.loading import load
from transferlab.pretrained.orbax_directory import DESCRIPTION
from transferlab.pretrained.peft_config import AdapterConfig
from transferlab.pretrained.registry import REGISTRY
from transferlab.reading import reading

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Inspection:
    """The tensors of a checkpoint; :func:`inspect_checkpoint` returns one.

    Attributes:
        name: as it was given.
        kind: of checkpoint, in words.
        rows: (path or key, shape, dtype, key in the file) of each tensor.
    """

    name: str
    kind: str
    rows: tuple[tuple[str, tuple[int, ...], str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        rows = [{"path": p, "shape": list(s), "dtype": d, "key": k} for p, s, d, k in self.rows]
        return {"name": self.name, "kind": self.kind, "tensors": rows}

    def table(self) -> Table:
        """Return a table for the terminal; of very many tensors it shows the first, and says so."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        more = f"; the first {_SHOWN:,} are shown, to_dict() and --json have all" if len(self.rows) > _SHOWN else ""
        total = sum(math.prod(shape) for _, shape, _, _ in self.rows)
        table = Table(
            title=escape(printable(f"{self.name}: {self.kind}")),
            caption=f"{len(self.rows)} tensors, {total:,} elements{more}",
            box=box.SIMPLE,
        )
        table.title_justify = table.caption_justify = "left"  # type: ignore[assignment]
        for column in ("path", "shape", "dtype", "key in the file"):
            table.add_column(column, overflow="fold")
        for path, shape, dtype, key in self.rows[:_SHOWN]:
            cells = (path, "×".join(map(str, shape)) or "scalar", dtype, key if key != path else "")
            table.add_row(*(escape(printable(cell)) for cell in cells))
        return table


_SHOWN = 2000
"""Rows that a table shows: each takes a millisecond to lay out."""


@check_arguments
def inspect_checkpoint(name: str | Path) -> Inspection:
    """Return the tree of a registry name, ``hf:owner/name``, weight file, directory, PEFT adapter, run or Orbax checkpoint.

    A model whose family is known is shown with its readable paths, anything else with its file's own keys.

    Args:
        name: what :func:`load` takes, or the path of any of these.

    Returns:
        Its tensors: :meth:`Inspection.table` for the terminal, :meth:`Inspection.to_dict` for JSON.

    Raises:
        TransferlabError: the name is unknown, or the checkpoint cannot be read.

    Example:
        >>> inspection = tl.inspect_checkpoint("minilm-l6")
        >>> inspection.rows[0]
        ('embed/norm/bias', (384,), 'float32', 'embeddings.LayerNorm.bias')
    """
    with reading(str(name)):
        return _inspect(str(name), Path(name).expanduser())


def _inspect(text: str, path: Path) -> Inspection:
    if text in REGISTRY or text.startswith("hf:"):
        return _source(text)
    if not path.exists():
        return _source(text)  # which raises with the valid choices
    if (path / DESCRIPTION).exists():
        return _source(text)
    if (path / "adapter_config.json").exists():
        return _adapter(path, text)
    if path.suffix.lower() == ".gguf":
        return _gguf(path, text)
    if path.is_dir() and (path / "checkpoints").is_dir():
        steps = sorted((p for p in (path / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        if not steps:
            raise TransferlabError(f"{path / 'checkpoints'} holds no finished checkpoint.")
        return _orbax(steps[-1], text)
    if path.is_dir() and any((path / file).exists() for file in ("_CHECKPOINT_METADATA", "_METADATA", "tree")):
        return _orbax(path, text)
    if path.is_dir() and (path / "config.json").exists():
        try:
            return _source(text)
        except TransferlabError:
            pass  # an unknown family still has keys to show
    tensors = read_any(path)
    rows = tuple((key, t.shape, str(t.dtype), key) for key, t in sorted(tensors.items()))
    return Inspection(text, "weights, by the file's own keys", rows)


def _source(name: str) -> Inspection:
    source = load(name)
    rows = tuple((p, leaf.shape, str(leaf.dtype), leaf.key) for p, leaf in source.leaves.items())
    return Inspection(name, f"{source.family}, {source.modality}", rows)


def _adapter(path: Path, name: str) -> Inspection:
    config = AdapterConfig.read(path / "adapter_config.json")
    weights = next((path / f"adapter_model.{kind}" for kind in ("safetensors", "bin") if
                    (path / f"adapter_model.{kind}").exists()), path / "adapter_model.safetensors")  # fmt: skip
    rows = tuple((key, t.shape, str(t.dtype), key) for key, t in sorted(read_any(weights).items()))
    return Inspection(name, f"PEFT adapter, rank {config.r}, alpha {config.lora_alpha:g}, on '{config.base}'", rows)


def _gguf(path: Path, name: str) -> Inspection:
    from transferlab.pretrained.formats.gguf import read_gguf

    file = read_gguf(path)
    rows = tuple((key, tensor.shape, file.types[key], key) for key, tensor in file.tensors.items())
    return Inspection(name, f"GGUF {file.version}, {file.metadata.get('general.architecture', 'unknown')}", rows)


def _orbax(path: Path, name: str) -> Inspection:
    inner = path / "tree" if (path / "tree").is_dir() else path / "default" if (path / "default").is_dir() else path
    rows = tuple((key, t.shape, str(t.dtype), key) for key, t in sorted(read_orbax(inner).items()))
    return Inspection(name, "Orbax checkpoint", rows)
