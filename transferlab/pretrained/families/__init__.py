"""The families that can be loaded, by name."""

from __future__ import annotations

from typing import Any

from transferlab.errors import TransferlabError
from transferlab.pretrained.families.bert import BERT
from transferlab.pretrained.families.bit import BIT
from transferlab.pretrained.families.clip import CLIP, CLIP_TEXT
from transferlab.pretrained.families.convnext import CONVNEXT
from transferlab.pretrained.families.distilbert import DISTILBERT
from transferlab.pretrained.families.efficientnet import EFFICIENTNET
from transferlab.pretrained.families.family import Family
from transferlab.pretrained.families.gpt2 import GPT2
from transferlab.pretrained.families.llama import LLAMA
from transferlab.pretrained.families.mobilenet import MOBILENET
from transferlab.pretrained.families.modernbert import MODERNBERT
from transferlab.pretrained.families.mpnet import MPNET
from transferlab.pretrained.families.resnet import RESNET
from transferlab.pretrained.families.roberta import ROBERTA
from transferlab.pretrained.families.swin import SWIN
from transferlab.pretrained.families.t5 import T5
from transferlab.pretrained.families.vit import VIT
from transferlab.pretrained.families.whisper import WHISPER

_ALL = (
    BERT, BIT, CLIP, CLIP_TEXT, CONVNEXT, DISTILBERT, EFFICIENTNET, GPT2, LLAMA, MOBILENET, MODERNBERT, MPNET, RESNET, ROBERTA, SWIN, T5, VIT, WHISPER,
)  # fmt: skip
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}


def family_of(config: Any) -> Family:
    """Return the family whose config this is."""
    for family in FAMILIES.values():
        if isinstance(config, family.config):
            return family
    raise TransferlabError(f"{type(config).__name__} is the config of no known family ({', '.join(FAMILIES)}).")
