"""What loading needs to know of a family; each family says it in its own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from transferlab.data.audio import AudioTransform
from transferlab.data.images import ImageTransform
from transferlab.errors import TransferlabError
from transferlab.models.heads import HiddenLayer, MaskedLanguageModelConfig, Pooling
from transferlab.models.sizes import sizes_of
from transferlab.pretrained.formats.gguf import Gguf
from transferlab.pretrained.names import NameTable, token_names
from transferlab.pretrained.positions import Resize
from transferlab.pretrained.timm import TimmConfig


def unread(config: Any) -> Any:
    """Stand in for a reader of a kind of directory that the family has not."""
    raise TransferlabError("config.json: this family is not read from a directory of this kind.")


@dataclass(frozen=True)
class Family:
    """One architecture family.

    Attributes:
        name: as in error messages and checkpoints.
        config: its config dataclass.
        modality: what it reads; ``image and text`` for a model of two towers.
        inputs: names of its inputs, the required one first.
        model_types: values of ``model_type`` in Hugging Face's ``config.json``.
        architectures: those of timm, as a regular expression; empty if none is read.
        names: config → the name tables that its files may follow.
        from_hf, from_timm: ``config.json`` → config.
        gguf_architectures: values of ``general.architecture`` in GGUF files; ``from_gguf`` reads their metadata.
        adjust: (config, paths found in the file) → the config of what the file really holds.
        transform: config → preprocessing, where the weights bring none.
        head_pooling: config → how the reference implementation's own head pools.
        head_bias: whether the reference implementation's own classifier has a bias.
        head_dropout: ``config.json`` → rate of the dropout before that head.
        whole_length: config → whether every text is padded to the longest, and its padding read as text.
        head_hidden: config → the layer that that head has before its logits, or None.
        head_fields: of its ``config.json`` that say what layers that head has.
        token_hidden: config → the layer that its classifier of tokens has before its logits, or None.
        token_classifier: name of that classifier in its files; empty where the reference implementation has none.
        token_prefix: of all other keys in such files alone.
        token_dropout: ``config.json`` → rate of the dropout before it.
        to_hf: (config, head or None) → Hugging Face's ``config.json`` and the name table of its files, for weights that
            came without one; None where this family writes none.
        to_timm: config → timm's architecture with its arguments and the name table of its files, as for ``to_hf``.
        masked_head: config → the head of its masked language model in the reference implementation; None where it has none.
        modules: ``model_type`` → pairs (regular expression over a key of its files, what takes its place) where the modules
            of transformers 5, by which PEFT names what it adapts, are not named as in the files.
        resized: (config, shapes of the leaves, pixels) → the config for that image size, and the leaves to resize.
        input_kernel: path of the kernel (height, width, channels, out) that reads pixels; it can be resized for images
            of other channels where the config has ``num_channels``, and for other patches where it has ``patch_size``.
        encoder: config → that of the encoder alone, where a decoder follows.
        old_fields: what fields of its config were called in descriptions that were written before, and what they are now.
        vocabulary: path of the table that has a row for each token; a language model's head may have one too.
        no_pairs: why it reads no pairs of texts, for errors; empty where it does.
    """

    name: str
    config: type
    modality: Literal["text", "image", "audio", "image and text"]
    inputs: tuple[str, ...]
    model_types: tuple[str, ...]
    names: Callable[[Any], tuple[NameTable, ...]]
    from_hf: Callable[[Mapping[str, Any]], Any] = unread
    from_timm: Callable[[TimmConfig], Any] = unread
    architectures: str = ""
    adjust: Callable[[Any, set[str]], Any] = lambda config, found: config
    transform: Callable[[Any], ImageTransform | AudioTransform | None] = lambda config: None
    head_pooling: Callable[[Any], Pooling] = lambda config: "mean"
    head_dropout: Callable[[Mapping[str, Any]], float] = lambda raw: 0.0
    whole_length: Callable[[Any], bool] = lambda config: False
    head_hidden: Callable[[Any], HiddenLayer | None] = lambda config: None
    head_fields: tuple[str, ...] = ()
    masked_head: Callable[[Any], MaskedLanguageModelConfig] | None = None
    token_hidden: Callable[[Any], HiddenLayer | None] = lambda config: None
    token_classifier: str = ""
    token_prefix: str = ""
    token_dropout: Callable[[Mapping[str, Any]], float] = lambda raw: 0.0
    modules: Callable[[str], tuple[tuple[str, str], ...]] = lambda model_type: ()
    to_hf: Callable[[Any, Any], tuple[dict[str, Any], NameTable]] | None = None
    to_timm: Callable[[Any], tuple[TimmConfig, NameTable]] | None = None
    resized: Callable[[Any, Mapping[str, tuple[int, ...]], int], tuple[Any, dict[str, Resize | None]]] = (
        lambda config, shapes, image_size: (config, {})
    )
    head_bias: bool = True
    input_kernel: str = ""
    encoder: Callable[[Any], Any] | None = None
    vocabulary: str = "embed/word/embedding"
    no_pairs: str = ""
    old_fields: Mapping[str, str] = field(default_factory=dict)
    gguf_architectures: tuple[str, ...] = ()
    from_gguf: Callable[[Gguf], Any] = unread

    def token_names(self, names: NameTable, hidden: bool) -> NameTable:
        """The table of files with a classifier of tokens, as the reference implementation has it, by that of other files."""
        return token_names(names, self.token_classifier, hidden, self.token_prefix)

    @property
    def sizes(self) -> dict[str, Callable[[], Any]]:
        """The named sizes of its config, in the order of its file."""
        return sizes_of(self.config)
