"""The files that travel with a model's weights: which they are, copied, or made where they are not the source's own.

Sizes, tokenizer, padding token and card are written anew where the source was changed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform, read_tokenizer
from transferlab.errors import TransferlabError
from transferlab.files import write_json
from transferlab.models.heads import ClassifierConfig
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.preprocessing import read_preprocessor, write_preprocessor
from transferlab.pretrained.sentence_transformers import MODULES, read_modules
from transferlab.pretrained.source import Source
from transferlab.pretrained.timm import TimmConfig
from transferlab.reading import read_json

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""What a tokenizer's settings and a model's config call special tokens: ``pad_token`` and ``pad_token_id``."""

_VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
    "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
_SETTINGS = "tokenizer_config.json"
_SIZES = ("image_size", "patch_size", "num_channels", "vocab_size")


def changed_tokenizer(source: Source) -> bool:
    """Whether texts are read by another tokenizer than that of the source's files."""
    return "new_rows" in source.provenance.get("changes", {})


def reads_otherwise(source: Source, made: Path) -> bool:
    """Whether images are read in another size, in other patches or channels than the source's files say.

    Args:
        source: that is written.
        made: a directory with the files that travel with its weights.
    """
    transform, raw = source.image_transform, source.raw
    if transform is None or raw is None:
        return False
    if {"patch_size", "channels"} & source.provenance.get("changes", {}).keys():
        return True
    if "model_type" not in raw:
        return TimmConfig.read(raw).image_size != transform.size
    family = FAMILIES[source.family]
    own = read_preprocessor(made, transform.channels) or family.transform(family.from_hf(raw))
    return not isinstance(own, ImageTransform) or own.size != transform.size


def set_sizes(raw: dict[str, Any], source: Source) -> None:
    """Write into config.json, as it was read, the sizes that the source has now."""
    family, config, transform = FAMILIES[source.family], source.config, source.image_transform
    if "model_type" in raw:
        again, inner = family.from_hf(raw), raw
        if source.towers:
            config, again, inner = config.vision, again.vision, raw["vision_config"]
        for name in _SIZES:
            if getattr(config, name, None) != getattr(again, name, None):
                inner[name] = getattr(config, name)
        return
    if transform is None:
        return
    arguments = dict(raw.get("model_args") or {})
    if family.name in _ONE_SIZE:
        arguments["img_size"] = transform.size
    changes = source.provenance.get("changes", {})
    if "patch_size" in changes:
        arguments["patch_size"] = config.patch_size
    if "channels" in changes:
        arguments["in_chans"] = transform.channels
    if arguments:
        raw["model_args"] = arguments
    inner = raw["pretrained_cfg"] if isinstance(raw.get("pretrained_cfg"), dict) else raw
    inner["input_size"] = [transform.channels, transform.size, transform.size]
    if "channels" in changes:
        inner |= {
            "mean": list(transform.per_channel(transform.mean)),
            "std": list(transform.per_channel(transform.std)),
        }


_ONE_SIZE = ("vit", "swin")
"""Families whose models timm makes for one size of images."""


# ---------------------------------------------------------------------------------------------------------------
# The tokenizer


def write_changed_tokenizer(source: Source, made: Path, raw: dict[str, Any] | None) -> None:
    """Write the tokenizer that the source reads by now, in place of its files' own.

    Args:
        source: with another tokenizer than that of its files.
        made: the directory, which holds the files' own.
        raw: ``config.json``, whose special tokens get the ids that they have now.
    """
    assert isinstance(source.transform, TextTransform)
    path = source.provenance["changes"]["tokenizer"]
    place = made if path is None else Path(path) if Path(path).is_dir() else Path(path).parent
    settings = _settings(place)
    before = read_tokenizer(made, source.transform.max_length)
    tokenizer = _plain(source.tokenizer)
    for name in _VOCABULARIES:
        (made / name).unlink(missing_ok=True)
    tokenizer.save(str(made / "tokenizer.json"))
    # The file says all of it; a class of the origin's would make parts of it anew.
    kept = {name: value for name, value in settings.items() if name not in ("added_tokens_decoder", "auto_map")}
    write_json(made / _SETTINGS, {**kept, "tokenizer_class": "PreTrainedTokenizerFast",
                                  "model_max_length": source.transform.max_length})  # fmt: skip
    if raw is None:
        return
    for role in (*_ROLES, "decoder_start"):
        name = f"{role}_token_id"
        if not isinstance(raw.get(name), int):
            continue
        token = _content(settings.get(f"{role}_token"))
        if token is None and before is not None:
            token = before.tokenizer.id_to_token(raw[name])
        raw[name] = tokenizer.token_to_id(token) if token is not None else None
    for name in ("pad_token_id", "decoder_start_token_id"):
        if isinstance(value := getattr(source.config, name, None), int):
            raw[name] = value


def with_padding(source: Source, raw: dict[str, Any], made: Path) -> dict[str, Any]:
    """Return config.json with the id of the padding token, by which the origin's classifiers of decoders find the last token.

    They take the last token of another id, and refuse batches where none is named. A tokenizer that has no padding token
    gets the end of a text as one, as is usual; what stands where a text is padded changes no number.

    Raises:
        TransferlabError: each text ends with the padding token, so that the origin would read the token before.
    """
    transform = source.transform
    if not isinstance(transform, TextTransform):
        return raw
    settings, tokenizer = _settings(made), transform.tokenizer
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    named = _content(settings.get("pad_token"))
    pad = transform.pad_id
    if named is None and pad not in special and tokenizer.id_to_token(pad) not in ("[PAD]", "<pad>"):
        named = _content(settings.get("eos_token"))
        ends = source.config.eos_token_id
        pad = next((id for id in (tokenizer.token_to_id(named) if named else None, *ends) if id is not None), None)
        if pad is None or tokenizer.id_to_token(pad) is None:
            raise TransferlabError(
                f"The tokenizer of {source.name} names no padding token and no end of a text; the origin's classifier finds "
                "the last token by it. Name a pad_token in its tokenizer_config.json, or keep the model as it is: "
                "tl.save(source, directory, format='orbax')."
            )
    token = tokenizer.id_to_token(pad)
    if pad in tokenizer.encode("a").ids[-1:]:
        raise TransferlabError(
            f"The tokenizer of {source.name} ends each text with '{token}', which is its padding token too: the origin's "
            "classifier would read the token before it. Keep the model as it is: tl.save(source, directory, format='orbax')."
        )
    if (made / "tokenizer.json").exists() or (made / _SETTINGS).exists():
        own = read_json(made / _SETTINGS) if (made / _SETTINGS).exists() else {}
        if _content(settings.get("pad_token")) is None:
            write_json(made / _SETTINGS, {**own, "pad_token": token})
    return {**raw, "pad_token_id": pad}


def new_head(source: Source) -> bool:
    """Whether it is a classifier that does not lie in the source's files."""
    leaf = source.leaves.get("head/kernel")
    if leaf is None or not isinstance(source.head, ClassifierConfig):
        return False
    return leaf.trained or leaf.tensor is not source.tensors.get(leaf.key)


def _settings(directory: Path) -> dict[str, Any]:
    paths = (directory / "special_tokens_map.json", directory / _SETTINGS)
    return {name: value for path in paths if path.exists() for name, value in read_json(path).items()}


def _content(token: Any) -> str | None:
    token = token.get("content") if isinstance(token, Mapping) else token
    return None if token is None else str(token)


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    return copy


def check_replaceable(target: Path) -> None:
    """Only a model's directory is replaced: what else lies there would be lost."""
    files = sorted(target.iterdir())
    if not any(_DESCRIBES.fullmatch(file.name) for file in files):
        raise TransferlabError(f"{target} holds no model, so it is not overwritten. There is: {files[0].name}.")
    for file in files:
        known = (
            _DIRECTORIES if file.is_dir() else re.compile(f"{_WEIGHTS.pattern}|{_AUXILIARY_FILES.pattern}|{_HIDDEN}")
        )
        if not known.fullmatch(file.name):
            raise TransferlabError(
                f"{target} is not overwritten: '{file.name}' is no part of a model, and would be lost."
            )


_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pth?|npz|gguf|h5|msgpack|onnx|ckpt|index\.json)|config\.json|adapter_config\.json|"
    r"pytorch_model.*|transferlab\.json|files\.json|tree"
)
_AUXILIARY_FILES = re.compile(r".*\.(json|txt|model|md|jinja|py\.txt)|LICENSE.*|NOTICE.*")
_LARGEST_AUXILIARY = 1 << 28
_MODULES = re.compile(r"\d+_\w+|additional_chat_templates")
_DIRECTORIES = re.compile(f"{_MODULES.pattern}|tree")
_DESCRIBES = re.compile(r"config\.json|adapter_config\.json|open_clip_config\.json|transferlab\.json")
_HIDDEN = r"\.gitattributes|\.gitignore|\.DS_Store"


def copy_auxiliary_files(source: Source, made: Path) -> None:
    """Copy what travels with the weights: tokenizer, preprocessor, sentence-transformers' modules, licence, card."""
    place = Path(source.provenance.get("path", ""))
    if "path" not in source.provenance or not place.is_dir():
        return
    # A model in a folder of its own among sentence-transformers' modules is written beside them.
    folder = read_modules(place).folder
    inner = sorted(folder.iterdir()) if folder != place else []
    for file in (*sorted(place.iterdir()), *inner):
        if file.is_dir() and _MODULES.fullmatch(file.name):
            if file != folder:
                shutil.copytree(file, made / file.name)
            continue
        wanted = _AUXILIARY_FILES.fullmatch(file.name) and not _WEIGHTS.fullmatch(file.name)
        if wanted and file.is_file() and file.stat().st_size <= _LARGEST_AUXILIARY:
            shutil.copyfile(file, made / file.name)
    if inner:
        first, *others = read_json(made / MODULES)
        write_json(made / MODULES, [{**first, "path": ""}, *others])


def write_images_settings(source: Source, made: Path, kind: str) -> None:
    """Where the files do not say how the source reads images, or say otherwise, write it."""
    transform = source.image_transform
    if transform is None or kind == "timm" or read_preprocessor(made, transform.channels) == transform:
        return
    write_preprocessor(made, transform)


def write_tokenizer(source: Source, made: Path) -> None:
    """A tokenizer that came without files of its own, as out of a GGUF file."""
    if source.tokenizer is None or any(
        (made / name).exists() for name in ("tokenizer.json", "vocab.txt", "vocab.json")
    ):
        return
    own = type(source.tokenizer).from_str(source.tokenizer.to_str())
    own.no_truncation()
    own.save(str(made / "tokenizer.json"))
    if not (made / "tokenizer_config.json").exists():
        assert isinstance(source.transform, TextTransform)
        limits = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": source.transform.max_length}
        write_json(made / "tokenizer_config.json", limits)
