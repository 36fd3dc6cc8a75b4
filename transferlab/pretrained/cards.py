"""Model cards (``README.md``): what was written, from which base, under which license.

The base's own card describes another model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from transferlab.models.heads import (
    ClassifierConfig,
    EmbeddingConfig,
    LanguageModelConfig,
    MaskedLanguageModelConfig,
    TokenClassifierConfig,
)
from transferlab.pretrained.registry import REGISTRY
from transferlab.pretrained.source import Source

CARD = "README.md"

_LICENSE = ("license", "license_name", "license_link")
"""Fields of a card's head that say under which license a model is."""


def write_card(source: Source, directory: Path, kind: str) -> None:
    """Write the card of a model that was trained or changed here, in place of its base's.

    Args:
        source: the model or adapter's base, with what was trained in it.
        directory: of the model or adapter.
        kind: ``hf``, ``timm``, ``sentence-transformers``, ``orbax``, or ``peft`` for an adapter.
    """
    head = {"base_model": _hub_name(source), **base_license(source), "library_name": _LIBRARIES[kind]}
    if task := _task(source):
        head["pipeline_tag"] = task
    head = {name: value for name, value in head.items() if value}
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in head.items()), "tags: [transferlab]", "---", ""]
    title = "An adapter for" if kind == "peft" else "A model made from"
    lines += [f"# {title} {_base_name(source)}", "", *_facts(source), "", "```python", *_usage(source, kind), "```", ""]
    (directory / CARD).write_text("\n".join(lines), "utf-8")


_LIBRARIES = {
    "hf": "transformers", "timm": "timm", "sentence-transformers": "sentence-transformers", "orbax": "transferlab", "peft": "peft",
}  # fmt: skip


def base_license(source: Source) -> dict[str, str]:
    """Return the base's license as fields of a card, from the registry or the base's own card; empty where neither says it."""
    if name := source.provenance.get("licence"):
        return {"license": str(name).lower()}
    path = Path(source.provenance.get("path", "")) / CARD
    if "path" not in source.provenance or not path.is_file():
        return {}
    block = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", path.read_text("utf-8", "replace"), re.DOTALL)
    pairs = re.findall(r"^(\w+):[ \t]*(\S.*?)[ \t]*$", block.group(1), re.MULTILINE) if block else []
    return {name: value.strip("\"'") for name, value in pairs if name in _LICENSE}


def _hub_name(source: Source) -> str:
    """The base's name on the hub; empty where it did not come from there."""
    return source.name.removeprefix("hf:").partition("@")[0] if source.name.startswith("hf:") else ""


def _base_name(source: Source) -> str:
    if source.name in REGISTRY:
        return f"{source.name} ({REGISTRY[source.name].about.partition(':')[0]})"
    return _hub_name(source) or Path(source.name).name


def _facts(source: Source) -> list[str]:
    license = base_license(source)
    trained = sum(leaf.trained for leaf in source.leaves.values())
    facts = [
        f"Base: {_base_name(source)}"
        + (f", {source.provenance['revision']}" if source.provenance.get("revision") else "")
    ]
    name = license.get("license_name") or license.get("license")
    facts.append(f"License of the base: {name or 'not stated by its files; ask its authors'}")
    facts.append(f"Architecture: {source.family}; {trained} of {len(source.leaves)} tensors differ from the base's")
    head = source.head
    if isinstance(head, ClassifierConfig):
        facts.append(f"Labels, in the order of the logits: {', '.join(head.labels)}")
        facts.append(f"Head: over {head.pooling}" + (", with a hidden layer" if head.hidden else ""))
    if isinstance(head, TokenClassifierConfig):
        facts.append(f"Tags of each word, at its first sub-word, in the order of the logits: {', '.join(head.labels)}")
    if changes := source.provenance.get("changes", {}):
        facts.append(f"Changed in the base: {', '.join(sorted(changes))}")
    return [f"- {fact}" for fact in facts]


def _task(source: Source) -> str:
    if isinstance(source.head, LanguageModelConfig):
        return "text-generation"
    if isinstance(source.head, MaskedLanguageModelConfig):
        return "fill-mask"
    if isinstance(source.head, TokenClassifierConfig):
        return "token-classification"
    if isinstance(source.head, EmbeddingConfig):
        return "sentence-similarity"
    if not isinstance(source.head, ClassifierConfig):
        return ""
    return {"text": "text-classification", "image": "image-classification"}.get(source.modality, "")


def _usage(source: Source, kind: str) -> list[str]:
    text = source.modality == "text"
    name = "SequenceClassification" if text else "ImageClassification"
    if isinstance(source.head, LanguageModelConfig):
        name = "CausalLM"
    if isinstance(source.head, MaskedLanguageModelConfig):
        name = "MaskedLM"
    if isinstance(source.head, TokenClassifierConfig):
        name = "TokenClassification"
    encoder = isinstance(source.head, EmbeddingConfig)
    auto = f"AutoModelFor{name}" if source.head is not None and not encoder else "AutoModel"
    labels = f", num_labels={len(source.labels)}" if source.labels else ""
    if kind == "peft":
        base = _hub_name(source) or "BASE"
        return ["import peft", f"from transformers import {auto}", "", f"base = {auto}.from_pretrained({base!r}{labels})",
                'model = peft.PeftModel.from_pretrained(base, "DIRECTORY")']  # fmt: skip
    if kind == "sentence-transformers" or (kind == "hf" and encoder):
        lines = [
            "from sentence_transformers import SentenceTransformer",
            "",
            'model = SentenceTransformer("DIRECTORY")',
        ]
        return [*lines, *_outputs(source.head)] if isinstance(source.head, ClassifierConfig) else lines
    if kind == "hf":
        return [f"from transformers import {auto}", "", f'model = {auto}.from_pretrained("DIRECTORY")']
    if kind == "timm":
        return ["import timm", "", 'model = timm.create_model("local-dir:DIRECTORY", pretrained=True)']
    return ["import transferlab as tl", "", 'source = tl.load("DIRECTORY")']


def _outputs(head: ClassifierConfig) -> list[str]:
    """Lines of code: what a classifier's vectors are in sentence-transformers."""
    logits = "model.encode(texts, convert_to_tensor=True)"
    columns = "columns as in model[0].auto_model.config.id2label"
    if head.problem == "regression":
        return [f"values = {logits}  # {columns}"]
    way = "softmax(-1)" if head.problem == "single_label_classification" else "sigmoid()"
    return [f"probabilities = {logits}.{way}  # {columns}"]
