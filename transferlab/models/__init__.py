"""Model families as Flax NNX modules on the stage protocol: ``Config.size().build(head)``, with readable paths."""

from transferlab.models.backbone import Model, Stage, frontier, run_stages
from transferlab.models.bert import Bert, BertConfig
from transferlab.models.efficientnet import EfficientNet, EfficientNetConfig
from transferlab.models.heads import Classifier, ClassifierConfig, LanguageModel, LanguageModelConfig
from transferlab.models.vit import ViT, ViTConfig

__all__ = [
    "Bert",
    "BertConfig",
    "Classifier",
    "ClassifierConfig",
    "EfficientNet",
    "EfficientNetConfig",
    "LanguageModel",
    "LanguageModelConfig",
    "Model",
    "Stage",
    "ViT",
    "ViTConfig",
    "frontier",
    "run_stages",
]
