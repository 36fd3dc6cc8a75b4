"""The files that travel with a model's weights: copied, or written anew where the source was changed.

Those are sizes, tokenizer, padding token and card.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from transferlab.data.audio import AudioTransform
from transferlab.data.images import ImageTransform
from transferlab.data.text import TextTransform, read_tokenizer
from transferlab.errors import TransferlabError, Unwritable
from transferlab.files import write_json
from transferlab.models.heads import ClassifierConfig, MaskedLanguageModelConfig, TokenClassifierConfig
from transferlab.pretrained.families import FAMILIES
from transferlab.pretrained.preprocessing import PREPROCESSOR, PROCESSOR, read_preprocessor, write_preprocessor
from transferlab.pretrained.sentence_transformers import MODULES, drop_dense, read_modules
from transferlab.pretrained.source import Source
from transferlab.pretrained.timm import TimmConfig
from transferlab.reading import read_json, read_object

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""Special tokens: ``pad_token`` in a tokenizer's settings is ``pad_token_id`` in a model's config."""

_VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
    "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
_SETTINGS = "tokenizer_config.json"
_SIZES = ("image_size", "patch_size", "num_channels", "vocab_size")


def changed_tokenizer(source: Source) -> bool:
    """Whether texts are tokenized by another tokenizer than that of the source's files."""
    return "new_rows" in source.provenance.get("changes", {})


def reads_differently(source: Source, directory: Path) -> bool:
    """Whether images are read in another size, in other patches or channels than the source's files say.

    Args:
        source: to be written.
        directory: with the files that travel with its weights.
    """
    transform, raw = source.image_transform, source.raw
    if transform is None or raw is None:
        return False
    if {"patch_size", "channels"} & source.provenance.get("changes", {}).keys():
        return True
    if "model_type" not in raw:
        return TimmConfig.read(raw).image_size != transform.size
    family = FAMILIES[source.family]
    own = read_preprocessor(directory, transform.channels) or family.transform(family.from_hf(raw))
    return not isinstance(own, ImageTransform) or own.size != transform.size


def set_sizes(raw: dict[str, Any], source: Source) -> None:
    """Write into config.json, as it was read, the sizes that the source has now."""
    family, config, transform = FAMILIES[source.family], source.config, source.image_transform
    if "model_type" in raw:
        read, inner = family.from_hf(raw), raw
        if source.towers:
            config, read, inner = config.vision, read.vision, raw["vision_config"]
        for name in _SIZES:
            if getattr(config, name, None) != getattr(read, name, None):
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


def write_changed_tokenizer(source: Source, directory: Path, raw: dict[str, Any] | None) -> None:
    """Write the source's present tokenizer in place of its files' own.

    Args:
        source: with another tokenizer than that of its files.
        directory: with the tokenizer of the source's files.
        raw: ``config.json``, whose special tokens get their present ids.
    """
    assert isinstance(source.transform, TextTransform)
    path = source.provenance["changes"]["tokenizer"]
    source_directory = directory if path is None else Path(path) if Path(path).is_dir() else Path(path).parent
    settings = _settings(source_directory)
    before = read_tokenizer(directory, source.transform.max_length)
    tokenizer = _plain(source.tokenizer)
    for name in _VOCABULARIES:
        (directory / name).unlink(missing_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    # The file says all of it; a model's own tokenizer class in transformers would rebuild parts of it.
    fields = {name: value for name, value in settings.items() if name not in ("added_tokens_decoder", "auto_map")}
    write_json(directory / _SETTINGS, {**fields, "tokenizer_class": "PreTrainedTokenizerFast",
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


def with_padding(source: Source, raw: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Return config.json with the id of the padding token, by which transformers' classifiers on decoders find the last token.

    They take the last token with another id, and refuse batches where none is named. A tokenizer without a padding token
    gets the end of a text as one, as is usual; the value of padding tokens changes no result.

    Raises:
        TransferlabError: each text ends with the padding token, so that transformers would read the token before.
    """
    if not isinstance(source.transform, TextTransform):
        return raw
    pad = padding_token(source, _settings(directory))
    name_padding(source, directory)
    return {**raw, "pad_token_id": pad}


def padding_token(source: Source, settings: Mapping[str, Any], *, apart: bool = True) -> int:
    """Return the id of the token that pads texts in other libraries.

    Args:
        source: that reads texts.
        settings: of its tokenizer.
        apart: whether it must differ from the token that ends each text.

    Raises:
        Unwritable: see :func:`with_padding`.
    """
    assert isinstance(source.transform, TextTransform)
    tokenizer, pad = source.transform.tokenizer, source.transform.pad_id
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    named = _content(settings.get("pad_token"))
    if named is None and pad not in special and tokenizer.id_to_token(pad) not in ("[PAD]", "<pad>"):
        named = _content(settings.get("eos_token"))
        ends = source.config.eos_token_id
        pad = next((id for id in (tokenizer.token_to_id(named) if named else None, *ends) if id is not None), None)
        if pad is None or tokenizer.id_to_token(pad) is None:
            raise Unwritable(
                f"The tokenizer of {source.name} names no padding token and no end of a text; transformers' classifier "
                "finds the last token by it. Set pad_token in its tokenizer_config.json, or keep the model as it is: "
                "tl.save(source, directory, format='orbax').",
                "the tokenizer names no padding token",
                "pad_token in its tokenizer_config.json would be one",
            )
    if apart and pad in tokenizer.encode("a").ids[-1:]:
        raise Unwritable(
            f"The tokenizer of {source.name} ends each text with '{tokenizer.id_to_token(pad)}', which is its padding token too: "
            "transformers' classifier would read the token before it. Keep the model as it is: tl.save(source, directory, "
            "format='orbax').",
            "the token that ends each text is the padding token too",
        )
    return pad


def name_padding(source: Source, directory: Path, *, apart: bool = True) -> None:
    """Name the padding token in the tokenizer's settings in this directory, where they do not; see :func:`padding_token`."""
    if not any((directory / name).exists() for name in ("tokenizer.json", _SETTINGS)):
        return
    if _content((settings := _settings(directory)).get("pad_token")) is None:
        own = read_json(directory / _SETTINGS) if (directory / _SETTINGS).exists() else {}
        token = source.tokenizer.id_to_token(padding_token(source, settings, apart=apart))
        write_json(directory / _SETTINGS, {**own, "pad_token": token})


def tokenizer_settings(source: Source) -> dict[str, Any]:
    """The settings of the source's present tokenizer, as its files have them; empty where it came without."""
    path = source.provenance.get("changes", {}).get("tokenizer")
    if path is not None:
        return _settings(Path(path) if Path(path).is_dir() else Path(path).parent)
    directory = Path(source.provenance.get("path", ""))
    return _settings(read_modules(directory).folder) if "path" in source.provenance and directory.is_dir() else {}


def new_head(source: Source) -> bool:
    """Whether the source has a classifier, or the head of a masked language model, that is not in its files."""
    leaf = source.leaves.get(
        "head/dense/kernel" if isinstance(source.head, MaskedLanguageModelConfig) else "head/kernel"
    )
    if leaf is None or not isinstance(
        source.head, ClassifierConfig | MaskedLanguageModelConfig | TokenClassifierConfig
    ):
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
    """Refuse to replace anything but a model's directory: other files in it would be lost."""
    files = sorted(target.iterdir())
    if not any(_DESCRIBES.fullmatch(file.name) for file in files):
        raise TransferlabError(
            f"{target} is not overwritten: it does not hold a model, but '{files[0].name}'. Pass another directory."
        )
    for file in files:
        known = (
            _DIRECTORIES if file.is_dir() else re.compile(f"{_WEIGHTS.pattern}|{_AUXILIARY_FILES.pattern}|{_HIDDEN}")
        )
        if not known.fullmatch(file.name):
            raise TransferlabError(
                f"{target} is not overwritten: '{file.name}' is not part of a model and would be lost. Move it first."
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


def copy_auxiliary_files(source: Source, directory: Path) -> None:
    """Copy what travels with the weights: tokenizer, preprocessor, sentence-transformers' modules but ``Dense``, license, card."""
    source_directory = Path(source.provenance.get("path", ""))
    if "path" not in source.provenance or not source_directory.is_dir():
        return
    # A model in a folder of its own among sentence-transformers' modules is written next to them.
    folder = read_modules(source_directory).folder
    inner = sorted(folder.iterdir()) if folder != source_directory else []
    for file in (*sorted(source_directory.iterdir()), *inner):
        if file.is_dir() and _MODULES.fullmatch(file.name):
            if file != folder:
                shutil.copytree(file, directory / file.name)
            continue
        copied = _AUXILIARY_FILES.fullmatch(file.name) and not _WEIGHTS.fullmatch(file.name)
        if copied and file.is_file() and file.stat().st_size <= _LARGEST_AUXILIARY:
            shutil.copyfile(file, directory / file.name)
    if inner:
        first, *others = read_json(directory / MODULES)
        write_json(directory / MODULES, [{**first, "path": ""}, *others])
    drop_dense(directory)


def write_images_settings(source: Source, directory: Path, kind: str) -> None:
    """Write how the source reads images, unless the files say the same."""
    transform = source.image_transform
    if transform is None or kind == "timm" or read_preprocessor(directory, transform.channels) == transform:
        return
    write_preprocessor(directory, transform)


def write_sound_settings(source: Source, directory: Path) -> None:
    """Write how the source hears sounds, unless files that came with it say so."""
    transform = source.transform
    if not isinstance(transform, AudioTransform) or any(
        (directory / name).exists() for name in (PROCESSOR, PREPROCESSOR)
    ):
        return
    seconds = int(transform.seconds) if float(transform.seconds).is_integer() else transform.seconds
    fields = {
        "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": transform.bands, "sampling_rate": transform.rate,
        "n_fft": transform.window, "hop_length": transform.hop, "chunk_length": seconds,
    }  # fmt: skip
    write_json(directory / PREPROCESSOR, fields)


def write_tokenizer(source: Source, directory: Path) -> None:
    """Write a tokenizer that came without files of its own, as from a GGUF file."""
    if source.tokenizer is None or any(
        (directory / name).exists() for name in ("tokenizer.json", "vocab.txt", "vocab.json")
    ):
        return
    own = type(source.tokenizer).from_str(source.tokenizer.to_str())
    own.no_truncation()
    own.save(str(directory / "tokenizer.json"))
    if not (directory / "tokenizer_config.json").exists():
        assert isinstance(source.transform, TextTransform)
        limits = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": source.transform.max_length}
        write_json(directory / "tokenizer_config.json", limits)


def limit_tokenizer(source: Source, directory: Path) -> None:
    """Let the tokenizer's settings cut texts where the head was trained to have them cut.

    A sentence encoder's own limit is in a file that transformers does not read; its tokenizer would allow longer texts.
    """
    path, transform = directory / _SETTINGS, source.transform
    if not isinstance(transform, TextTransform) or not path.exists():
        return
    fields = read_object(path)
    own = fields.get("model_max_length")
    if not isinstance(own, (int, float)) or own > transform.max_length:
        write_json(path, {**fields, "model_max_length": transform.max_length})
