"""The families that can be loaded, by name."""

from __future__ import annotations

from typing import Any

from transferlab.errors import TransferlabError
from transferlab.pretrained.bert import BERT
from transferlab.pretrained.bit import BIT
from transferlab.pretrained.clip import CLIP, CLIP_TEXT
from transferlab.pretrained.convnext import CONVNEXT
from transferlab.pretrained.distilbert import DISTILBERT
from transferlab.pretrained.efficientnet import EFFICIENTNET
from transferlab.pretrained.family import Family
from transferlab.pretrained.gpt2 import GPT2
from transferlab.pretrained.llama import LLAMA
from transferlab.pretrained.mobilenet import MOBILENET
from transferlab.pretrained.modernbert import MODERNBERT
from transferlab.pretrained.mpnet import MPNET
from transferlab.pretrained.resnet import RESNET
from transferlab.pretrained.roberta import ROBERTA
from transferlab.pretrained.swin import SWIN
from transferlab.pretrained.t5 import T5
from transferlab.pretrained.vit import VIT
from transferlab.pretrained.whisper import WHISPER

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
