"""Model families as Flax NNX modules on the stage protocol: ``Config.size().build(head)``, with readable paths."""

from transferlab.models.backbone import Model, Stage, frontier, run_stages
from transferlab.models.bert import Bert, BertConfig
from transferlab.models.distilbert import DistilBert, DistilBertConfig
from transferlab.models.efficientnet import EfficientNet, EfficientNetConfig
from transferlab.models.heads import Classifier, ClassifierConfig
from transferlab.models.modernbert import ModernBert, ModernBertConfig
from transferlab.models.mpnet import MPNet, MPNetConfig
from transferlab.models.roberta import Roberta, RobertaConfig
from transferlab.models.vit import ViT, ViTConfig

__all__ = [
    "Bert",
    "BertConfig",
    "Classifier",
    "ClassifierConfig",
    "DistilBert",
    "DistilBertConfig",
    "EfficientNet",
    "EfficientNetConfig",
    "MPNet",
    "MPNetConfig",
    "Model",
    "ModernBert",
    "ModernBertConfig",
    "Roberta",
    "RobertaConfig",
    "Stage",
    "ViT",
    "ViTConfig",
    "frontier",
    "run_stages",
]
