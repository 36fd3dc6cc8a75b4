"""sentence-transformers' directories: the folder of the model, how its tokens are pooled, and its prompt.

The files: ``sentence_transformers/base/model.py``, ``base/modules/transformer.py`` and ``sentence_transformer/modules/pooling.py`` of
its version 6, which reads those of all earlier ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transferlab.data.text import read_sentence_settings
from transferlab.errors import TransferlabError, Unwritable, nearest
from transferlab.fields import given_fields
from transferlab.files import write_json
from transferlab.models.heads import Pooling
from transferlab.pretrained.dense import Dense, write_dense
from transferlab.reading import read_json

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"

_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last"}
"""Pooling modes that a source can have; the others are ``max``, ``mean_sqrt_len_tokens`` and ``weightedmean``."""

POOLING_MODES = {ours: theirs for theirs, ours in _POOLINGS.items()}
"""Our poolings, and the modes that they are there."""

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""One switch for each mode, as versions before 6 write it."""

_OTHER_FIELDS = ("word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt")
_MODELS = ("Transformer", "CLIPModel")
_TEXT_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
_HARMLESS = {
    "trust_remote_code",
    "torch_dtype",
    "dtype",
    "attn_implementation",
    "device_map",
    "add_pooling_layer",
    "use_fast",
}


@dataclass(frozen=True)
class Modules:
    """What a directory's modules say.

    Attributes:
        folder: of the model itself; the directory unless its modules say another.
        pooling: how its tokens become one vector; None where nothing says it.
        normalise: whether that vector is scaled to length 1.
        prompt: put before each text by default.
        dense: folders of the linear maps of that vector, one or two, the last of which gives a classifier's logits.
    """

    folder: Path
    pooling: Pooling | None = None
    normalise: bool = False
    prompt: str = ""
    dense: tuple[Path, ...] = ()


def read_modules(directory: Path) -> Modules:
    """Read what sentence-transformers wrote next to a model, if it did.

    Raises:
        TransferlabError: a module, pooling mode or setting that is not supported; the file and its field are named.
    """
    prompt = _prompt(directory / PROMPTS)
    path = directory / MODULES
    if not path.exists():
        old = directory / "1_Pooling" / "config.json"
        return Modules(directory, _pooling(old, prompt) if old.exists() else None, prompt=prompt)
    raw = read_json(path)
    if not isinstance(raw, list) or not all(isinstance(module, dict) for module in raw):
        raise TransferlabError(f"{path}: expected a JSON list of modules.")
    kinds = [_kind(module, path) for module in raw]
    if kinds[:1] not in ([kind] for kind in _MODELS):
        raise TransferlabError(f"{path}: the first module is {kinds[:1]}; expected one of {list(_MODELS)}.")
    after = kinds[2:]
    head = [kind for kind in after if kind == "Dense"]
    if len(kinds) > 1 and (kinds[1] != "Pooling" or len(head) > 2 or after[len(after) - len(head) :] != head):
        raise TransferlabError(
            f"{path}: modules {kinds} are not supported; expected Transformer, Pooling, Normalize and at most two Dense, in this order."
        )
    folder = _folder(raw[0], path)
    if len(kinds) == 1:
        return Modules(folder, prompt=prompt)
    _check_transformer(folder)
    folders = [_folder(module, path) for module, kind in zip(raw, kinds, strict=True) if kind != "Normalize"]
    dense = tuple(folders[2:])
    if any(inner in (path.parent, *folders[: 2 + i]) for i, inner in enumerate(dense)):
        raise TransferlabError(f"{path}: a Dense needs a folder of its own.")
    return Modules(folder, _pooling(_folder(raw[1], path) / "config.json", prompt), "Normalize" in kinds, prompt, dense)


def check_pooling(pooling: Pooling, choices: Sequence[str] = ()) -> None:
    """Check that sentence-transformers' ``Pooling`` can do this.

    Args:
        pooling: how tokens become one vector.
        choices: how the model could pool too.

    Raises:
        Unwritable: it has no such mode.
    """
    if pooling not in POOLING_MODES:
        others = " or ".join(f"pooling='{mode}'" for mode in POOLING_MODES if mode in choices)
        raise Unwritable(
            f"sentence-transformers has no pooling '{pooling}', only {', '.join(POOLING_MODES)}. Keep the model as it is: tl.save(source, "
            "directory, format='orbax').",
            f"it does not pool by {pooling}",
            f"{others} would fit" if others else "",
        )


def write_modules(
    directory: Path,
    pooling: Pooling,
    normalise: bool,
    features: int,
    longest: int,
    dense: Sequence[Dense] = (),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the modules of a sentence encoder next to its model, in place of others, where they do not say the same already.

    Args:
        directory: of the model.
        pooling: how tokens become one vector.
        normalise: whether that is scaled to length 1.
        features: of the vector.
        longest: tokens of the longest text.
        dense: linear maps of the vector: a classifier.
        metadata: of the files of their weights.

    Raises:
        Unwritable: a pooling that sentence-transformers does not have.
    """
    check_pooling(pooling)
    if (directory / MODULES).exists() and not dense:
        own = read_modules(directory)
        if own.folder == directory and (own.pooling, own.normalise, own.dense) == (pooling, normalise, ()):
            return
    for old in directory.glob("[0-9]_*"):
        shutil.rmtree(old)
    kinds = ["Transformer", "Pooling", *["Normalize"] * normalise, *["Dense"] * len(dense)]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    write_json(directory / MODULES, modules)
    for path in paths[1:]:
        (directory / path).mkdir()
    switches = {switch: mode == POOLING_MODES[pooling] for switch, mode in _OLD_MODES.items()}
    write_json(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": features, **switches})
    for path, layer in zip(paths[len(paths) - len(dense) :], dense, strict=True):
        write_dense(directory / path, layer, metadata or {})
    place, settings = read_sentence_settings(directory)
    write_json(place, {"do_lower_case": False, **settings, "max_seq_length": longest})
    if not (directory / PROMPTS).exists():
        write_json(directory / PROMPTS, {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})


def drop_dense(directory: Path) -> None:
    """Remove the modules ``Dense`` from a copy of a directory that was read: they are a head, which is written by itself."""
    path = directory / MODULES
    raw = read_json(path) if path.exists() else []
    kept = [module for module in raw if _kind(module, path) != "Dense"]
    for module in (module for module in raw if module not in kept):
        shutil.rmtree(directory / module["path"], ignore_errors=True)
    if len(kept) < len(raw):
        write_json(path, kept)


def _kind(module: Mapping[str, Any], path: Path) -> str:
    place, _, kind = str(module.get("type", "")).rpartition(".")
    if place.partition(".")[0] != "sentence_transformers":
        raise TransferlabError(
            f"{path}: module '{module.get('type')}' is the repository's own code, which is never run."
        )
    if kind not in (*_MODELS, "Pooling", "Normalize", "Dense"):
        raise TransferlabError(
            f"{path}: module '{kind}' is not supported; expected Transformer, Pooling, Normalize or Dense."
        )
    return kind


def _folder(module: Mapping[str, Any], path: Path) -> Path:
    """The folder of a module, named by ``path`` of its entry; an empty one is the directory itself."""
    name = module.get("path", "")
    folder = path.parent / str(name)
    if not isinstance(name, str) or not folder.resolve().is_relative_to(path.parent.resolve()):
        raise TransferlabError(f"{path}: the path {name!r} of a module is not a folder in {path.parent}.")
    if not folder.is_dir():
        raise TransferlabError(f"{path} names the folder '{name}', which does not exist.")
    return folder


def _pooling(path: Path, prompt: str) -> Pooling:
    if not path.exists():
        raise TransferlabError(f"{path} is missing, but {MODULES} names its folder as the pooling's.")
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise TransferlabError(f"{path}: expected a JSON object.")
    known = (*_OLD_MODES, *_OTHER_FIELDS)
    if other := next(
        (field for field, value in raw.items() if field not in known and value not in (None, False)), None
    ):
        raise TransferlabError(f"{path}: {other} {raw[other]!r} is not supported.{nearest(other, known)}")
    given_fields(dict.fromkeys((*_OLD_MODES, "include_prompt"), bool), raw, where=str(path))
    # The present field overrides the old switches; without any switch on, it is the mean.
    on = [field for field in _OLD_MODES if raw.get(field)]
    mode = raw.get("pooling_mode", [_OLD_MODES[field] for field in on] or "mean")
    modes = [mode] if isinstance(mode, str) else list(mode)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        field = f"pooling_mode {mode!r}" if "pooling_mode" in raw else f"pooling {on}"
        raise TransferlabError(f"{path}: {field} is not supported; expected one of {list(_POOLINGS)}.")
    if prompt and not raw.get("include_prompt", True):
        raise TransferlabError(
            f"{path}: include_prompt is false and {PROMPTS} has the default prompt {prompt!r}; pooling without its "
            "tokens is not supported. Set default_prompt_name to null there to read texts without a prompt."
        )
    return _POOLINGS[modes[0]]


def _prompt(path: Path) -> str:
    """The prompt that ``encode`` puts before every text by default: that of ``default_prompt_name``."""
    raw = read_json(path) if path.exists() else {}
    if not isinstance(raw, dict):
        raise TransferlabError(f"{path}: expected a JSON object.")
    name, prompts = raw.get("default_prompt_name"), raw.get("prompts") or {}
    if name is None:
        return ""
    if name not in prompts:
        raise TransferlabError(
            f"{path}: default_prompt_name '{name}' is not among its prompts.{nearest(str(name), prompts)}"
        )
    if not isinstance(prompts[name], (str, type(None))):
        raise TransferlabError(f"{path}: prompt '{name}' is {prompts[name]!r}, expected a string.")
    return prompts[name] or ""


def _check_transformer(folder: Path) -> None:
    """Refuse settings by which something other than a model's last hidden states would be pooled."""
    path, raw = read_sentence_settings(folder)

    def refuse(field: str) -> TransferlabError:
        return TransferlabError(f"{path}: {field} {raw[field]!r} is not supported.")

    if raw.get("transformer_task") not in (None, "feature-extraction"):
        raise refuse("transformer_task")
    ways = raw.get("modality_config") or {"text": _TEXT_FORWARD}
    if ways.get("text") != _TEXT_FORWARD or "message" in ways:
        raise refuse("modality_config")
    if raw.get("module_output_name", "token_embeddings") != "token_embeddings":
        raise refuse("module_output_name")
    for field in ("model", "config", "tokenizer", "processor"):
        for name in (f"{field}_args", f"{field}_kwargs"):
            if set(raw.get(name) or ()) - _HARMLESS:
                raise refuse(name)
    if any((raw.get("processing_kwargs") or {}).get(part) for part in ("common", "text")):
        raise refuse("processing_kwargs")
