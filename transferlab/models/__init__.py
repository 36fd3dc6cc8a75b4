"""Model families as Flax NNX modules on the stage protocol: ``Config.size().build(head)``, with readable paths."""

from transferlab.models.backbone import Model, Stage, frontier, run_stages
from transferlab.models.bert import Bert, BertConfig
from transferlab.models.efficientnet import EfficientNet, EfficientNetConfig
from transferlab.models.gpt2 import GPT2, GPT2Config
from transferlab.models.heads import Classifier, ClassifierConfig, LanguageModel, LanguageModelConfig
from transferlab.models.llama import Llama, LlamaConfig
from transferlab.models.vit import ViT, ViTConfig

__all__ = [
    "GPT2",
    "Bert",
    "BertConfig",
    "Classifier",
    "ClassifierConfig",
    "EfficientNet",
    "EfficientNetConfig",
    "GPT2Config",
    "LanguageModel",
    "LanguageModelConfig",
    "Llama",
    "LlamaConfig",
    "Model",
    "Stage",
    "ViT",
    "ViTConfig",
    "frontier",
    "run_stages",
]
