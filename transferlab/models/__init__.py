"""Model families as Flax NNX modules on the stage protocol: ``Config.size().build(head)``, with readable paths."""

from typing import TYPE_CHECKING

from transferlab.errors import check_arguments, face_of
from transferlab.models.backbone import Model, Stage, frontier, run_stages
from transferlab.models.bert import Bert, BertConfig
from transferlab.models.bit import Bit, BitConfig
from transferlab.models.clip import Clip, ClipConfig, TextTower, TextTowerConfig
from transferlab.models.convnext import ConvNeXt, ConvNeXtConfig
from transferlab.models.distilbert import DistilBert, DistilBertConfig
from transferlab.models.efficientnet import EfficientNet, EfficientNetConfig
from transferlab.models.gpt2 import GPT2, GPT2Config
from transferlab.models.heads import (
    Classifier,
    ClassifierConfig,
    EmbeddingConfig,
    LanguageModel,
    LanguageModelConfig,
    MaskedLanguageModelConfig,
    TokenClassifierConfig,
)
from transferlab.models.llama import Llama, LlamaConfig
from transferlab.models.mobilenet import MobileNetV2, MobileNetV2Config
from transferlab.models.modernbert import ModernBert, ModernBertConfig
from transferlab.models.mpnet import MPNet, MPNetConfig
from transferlab.models.resnet import ResNet, ResNetConfig
from transferlab.models.roberta import Roberta, RobertaConfig
from transferlab.models.swin import Swin, SwinConfig
from transferlab.models.t5 import T5, T5Config, shift_right
from transferlab.models.vit import ViT, ViTConfig
from transferlab.models.whisper import Whisper, WhisperConfig

for _config in (BertConfig, BitConfig, ClassifierConfig, ClipConfig, ConvNeXtConfig, DistilBertConfig, EfficientNetConfig,
                EmbeddingConfig, GPT2Config, LanguageModelConfig, LlamaConfig, MaskedLanguageModelConfig, MobileNetV2Config, ModernBertConfig,
                MPNetConfig, ResNetConfig,
                RobertaConfig, SwinConfig, T5Config, TextTowerConfig, TokenClassifierConfig, ViTConfig, WhisperConfig):  # fmt: skip
    check_arguments(_config)

__all__ = [
    "GPT2",
    "T5",
    "Bert",
    "BertConfig",
    "Bit",
    "BitConfig",
    "Classifier",
    "ClassifierConfig",
    "Clip",
    "ClipConfig",
    "ConvNeXt",
    "ConvNeXtConfig",
    "DistilBert",
    "DistilBertConfig",
    "EfficientNet",
    "EfficientNetConfig",
    "EmbeddingConfig",
    "GPT2Config",
    "LanguageModel",
    "LanguageModelConfig",
    "Llama",
    "LlamaConfig",
    "MPNet",
    "MPNetConfig",
    "MaskedLanguageModelConfig",
    "MobileNetV2",
    "MobileNetV2Config",
    "Model",
    "ModernBert",
    "ModernBertConfig",
    "ResNet",
    "ResNetConfig",
    "Roberta",
    "RobertaConfig",
    "Stage",
    "Swin",
    "SwinConfig",
    "T5Config",
    "TextTower",
    "TextTowerConfig",
    "TokenClassifierConfig",
    "ViT",
    "ViTConfig",
    "Whisper",
    "WhisperConfig",
    "frontier",
    "run_stages",
    "shift_right",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face_of(__name__, __all__)
