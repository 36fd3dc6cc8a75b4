"""Arguments that are misspelled in Python are one clear error, in every public function and in the classes one sets up."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.pretrained.source import Source
from transferlab.studies.settings import ArmConfig, StudyConfig
from transferlab.train import Optimizer, Seeds, Settings
from transferlab.train.predictor import Predictor
from transferlab.train.run import Run

CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (tl.dataset, ("tweets",), {"txet": "a"}, "dataset takes no 'txet'. Did you mean 'text'?"),
    (tl.dataset, ("tweets",), {"tagret": "a"}, "dataset takes no 'tagret'. Did you mean 'target'?"),
    (tl.load, ("minilm-l6",), {"towr": "text"}, "load takes no 'towr'. Did you mean 'tower'?"),
    (tl.adapt, (None, None), {"setings": None}, "adapt takes no 'setings'. Did you mean 'settings'?"),
    (tl.methods.LoRA, (), {"rnk": 8}, "LoRA takes no 'rnk'. Did you mean 'rank'?"),
    (Settings, (), {"learning_rte": 1e-3}, "Settings takes no 'learning_rte'. Did you mean 'learning_rate'?"),
    (Optimizer, (), {"nam": "sgd"}, "Optimizer takes no 'nam'. Did you mean 'name'?"),
    (tl.models.BertConfig, (), {"hidden_szie": 3}, "BertConfig takes no 'hidden_szie'. Did you mean 'hidden_size'?"),
    (tl.adapt, (None,), {}, "adapt: missing a required argument: 'data'."),
    (Settings, (1,), {"learning_rate": 2}, "Settings: multiple values for argument 'learning_rate'."),
]


@pytest.mark.parametrize(("made", "given", "named", "said"), CALLS)
def test_a_misspelled_argument_names_the_nearest(made: Any, given: tuple, named: dict[str, Any], said: str) -> None:
    with pytest.raises(TransferlabError, match=re.escape(said)):
        made(*given, **named)


def public() -> list[Any]:
    functions = [getattr(tl, name) for name in tl.__all__ if inspect.isfunction(getattr(tl, name))]
    models = [getattr(tl.models, name) for name in tl.models.__all__ if name.endswith("Config")]
    configs = [config for config in models if isinstance(config, type)]  # one is a union of others
    return [
        *functions,
        *tl.methods.METHODS.values(),
        *configs,
        Settings,
        Optimizer,
        Seeds,
        ArmConfig,
        StudyConfig,
        tl.data.Dataset.subset,
        Source,
        Source.resized,
        Source.with_tokenizer,
        Source.module,
        Predictor,
        Predictor.__call__,
        Run.fit,
    ]


@pytest.mark.parametrize("made", public(), ids=lambda made: made.__qualname__)
def test_every_public_call_refuses_an_unknown_argument_by_name(made: Any) -> None:
    with pytest.raises(TransferlabError, match=rf"{made.__qualname__} takes no 'qqq'\."):
        made(qqq=1)


def test_checked_classes_and_functions_keep_their_signature_and_equality() -> None:
    assert list(inspect.signature(tl.methods.Probe).parameters) == [
        "weights",
        "pooling",
        "head_dropout",
        "modifiers",
    ]
    assert "target" in inspect.signature(tl.dataset).parameters and tl.dataset.__name__ == "dataset"
    assert tl.methods.LoRA(rank=4) == tl.methods.LoRA(rank=4) and hash(Settings()) == hash(Settings())
