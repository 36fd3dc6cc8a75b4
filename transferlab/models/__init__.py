"""Model families as Flax NNX modules on the stage protocol: ``Config.size().build(head)``, with readable paths."""

from transferlab.models.backbone import Model, Stage, frontier, run_stages
from transferlab.models.bert import Bert, BertConfig
from transferlab.models.efficientnet import EfficientNet, EfficientNetConfig
from transferlab.models.heads import Classifier, ClassifierConfig
from transferlab.models.mobilenet import MobileNetV2, MobileNetV2Config
from transferlab.models.resnet import ResNet, ResNetConfig
from transferlab.models.vit import ViT, ViTConfig

__all__ = [
    "Bert",
    "BertConfig",
    "Classifier",
    "ClassifierConfig",
    "EfficientNet",
    "EfficientNetConfig",
    "MobileNetV2",
    "MobileNetV2Config",
    "Model",
    "ResNet",
    "ResNetConfig",
    "Stage",
    "ViT",
    "ViTConfig",
    "frontier",
    "run_stages",
]
