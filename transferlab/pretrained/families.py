"""The families that can be loaded, by name."""

from __future__ import annotations

from typing import Any

from transferlab.errors import TransferlabError
from transferlab.pretrained.bert import BERT
from transferlab.pretrained.efficientnet import EFFICIENTNET
from transferlab.pretrained.family import Family
from transferlab.pretrained.gpt2 import GPT2
from transferlab.pretrained.llama import LLAMA
from transferlab.pretrained.t5 import T5
from transferlab.pretrained.vit import VIT
from transferlab.pretrained.whisper import WHISPER

FAMILIES: dict[str, Family] = {family.name: family for family in (BERT, EFFICIENTNET, GPT2, LLAMA, T5, VIT, WHISPER)}


def family_of(config: Any) -> Family:
    """Return the family whose config this is."""
    for family in FAMILIES.values():
        if isinstance(config, family.config):
            return family
    raise TransferlabError(f"{type(config).__name__} is the config of no known family ({', '.join(FAMILIES)}).")
