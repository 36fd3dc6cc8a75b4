"""sentence-transformers' directories: the folder of the model, how its tokens are pooled, and what stands before each text.

The files: ``sentence_transformers/base/model.py``, ``base/modules/transformer.py`` and ``sentence_transformer/modules/pooling.py`` of
its version 6, which reads those of all earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transferlab.data.text import read_sentence_settings
from transferlab.errors import TransferlabError, nearest
from transferlab.fields import given_fields
from transferlab.models.heads import Pooling
from transferlab.reading import read_json

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"

_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last"}
"""Of its pooling modes, those that a source can have; the others are ``max``, ``mean_sqrt_len_tokens`` and ``weightedmean``."""

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
        folder: that the model itself is in; the directory where nothing says otherwise.
        pooling: how its tokens become one vector; None where nothing says it.
        normalise: whether that vector is scaled to length 1.
        prompt: what stands before each text by default.
    """

    folder: Path
    pooling: Pooling | None = None
    normalise: bool = False
    prompt: str = ""


def read_modules(directory: Path) -> Modules:
    """Read what sentence-transformers wrote beside a model, if it did.

    Raises:
        TransferlabError: a module, a way to pool or a setting that a source cannot have; the file and its field are named.
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
    if len(kinds) > 1 and (kinds[1] != "Pooling" or set(kinds[2:]) - {"Normalize"}):
        raise TransferlabError(
            f"{path}: modules {kinds} are not supported; only Transformer, Pooling, Normalize, in this order."
        )
    folder = _folder(raw[0], path)
    if len(kinds) == 1:
        return Modules(folder, prompt=prompt)
    _check_transformer(folder)
    return Modules(folder, _pooling(_folder(raw[1], path) / "config.json", prompt), "Normalize" in kinds, prompt)


def _kind(module: Mapping[str, Any], path: Path) -> str:
    place, _, kind = str(module.get("type", "")).rpartition(".")
    if place.partition(".")[0] != "sentence_transformers":
        raise TransferlabError(
            f"{path}: a module '{module.get('type')}' is of the repository's own code, which is never run."
        )
    if kind not in (*_MODELS, "Pooling", "Normalize"):
        raise TransferlabError(f"{path}: a module '{kind}' is not supported; only Transformer, Pooling, Normalize.")
    return kind


def _folder(module: Mapping[str, Any], path: Path) -> Path:
    """The folder of a module, which ``path`` of its entry names; the empty one is the directory."""
    name = module.get("path", "")
    folder = path.parent / str(name)
    if not isinstance(name, str) or not folder.resolve().is_relative_to(path.parent.resolve()):
        raise TransferlabError(f"{path}: the path {name!r} of a module is no folder in {path.parent}.")
    if not folder.is_dir():
        raise TransferlabError(f"{path} names the folder '{name}', which is not there.")
    return folder


def _pooling(path: Path, prompt: str) -> Pooling:
    if not path.exists():
        raise TransferlabError(f"{path} is missing: {MODULES} names its folder as that of the pooling.")
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise TransferlabError(f"{path}: expected a JSON object.")
    known = (*_OLD_MODES, *_OTHER_FIELDS)
    if other := next(
        (field for field, value in raw.items() if field not in known and value not in (None, False)), None
    ):
        raise TransferlabError(f"{path}: {other} {raw[other]!r} is not supported.{nearest(other, known)}")
    given_fields(dict.fromkeys((*_OLD_MODES, "include_prompt"), bool), raw, where=str(path))
    # The word of today stands over the switches; no switch on is the mean.
    on = [field for field in _OLD_MODES if raw.get(field)]
    said = raw.get("pooling_mode", [_OLD_MODES[field] for field in on] or "mean")
    modes = [said] if isinstance(said, str) else list(said)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        what = f"pooling_mode {said!r}" if "pooling_mode" in raw else f"pooling {on}"
        raise TransferlabError(f"{path}: {what} is not supported; expected one of {list(_POOLINGS)} alone.")
    if prompt and not raw.get("include_prompt", True):
        raise TransferlabError(
            f"{path}: include_prompt is false and {PROMPTS} has the default prompt {prompt!r}; pooling without its "
            "tokens is not supported. Set default_prompt_name to null there to read texts as they are."
        )
    return _POOLINGS[modes[0]]


def _prompt(path: Path) -> str:
    """The prompt that its ``encode`` puts before every text; of those that have a name, it is asked for none."""
    raw = read_json(path) if path.exists() else {}
    if not isinstance(raw, dict):
        raise TransferlabError(f"{path}: expected a JSON object.")
    name, prompts = raw.get("default_prompt_name"), raw.get("prompts") or {}
    if name is None:
        return ""
    if name not in prompts:
        raise TransferlabError(f"{path}: default_prompt_name '{name}' is none of prompts.{nearest(str(name), prompts)}")
    if not isinstance(prompts[name], (str, type(None))):
        raise TransferlabError(f"{path}: the prompt '{name}' is {prompts[name]!r}, no text.")
    return prompts[name] or ""


def _check_transformer(folder: Path) -> None:
    """Its settings can ask for what is pooled to be something else than a model's last hidden states."""
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
