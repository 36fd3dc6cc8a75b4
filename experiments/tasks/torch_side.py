"""The peer of fine-tuning: MiniLM-L6 in transformers, trained by PyTorch with the settings of the arm ``full``.

Optimizer, decay of matrices alone, learning rates, clipping, schedule, batch size and number of steps are those of the arm. What differs: the
classifier of transformers reads the first token through BERT's pooler, and the order of examples and initial head are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

import transferlab as tl
from transferlab.config import read_config
from transferlab.methods import Full
from transferlab.studies.settings import ArmConfig, StudyConfig

Texts = list[str] | list[tuple[str, str]]


def study(name: str) -> StudyConfig:
    """The config of this name in this folder."""
    return read_config(Path(__file__).with_name(f"{name}.py"))


def texts_of(data: tl.Dataset, indices: np.ndarray) -> Texts:
    """Texts, or pairs of them, of these examples."""
    records = [data.records[int(i)] for i in indices]
    if data.content == "pair":
        return [(record["text"], record["text_pair"]) for record in records]
    return [record["text"] for record in records]


def minilm() -> tuple[Path, int]:
    """The folder of the model's files, and how many tokens are read of a text."""
    source = tl.load("minilm-l6")
    return Path(source.provenance["path"]), source.transform.max_length


def fine_tuned(
    train: Texts, targets: np.ndarray, test: Texts, *, outputs: int, problem: str, arm: ArmConfig, seed: int
) -> np.ndarray:
    """Logits (test, outputs) after training on the targets: indices of classes, or rows of 0 and 1.

    Args:
        train, test: texts or pairs.
        targets: of the training texts.
        outputs: number of logits.
        problem: transformers' ``problem_type``.
        arm: of the study, whose settings are used.
        seed: of the head, the order and the dropout.
    """
    torch.manual_seed(seed)
    folder, longest = minilm()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=outputs, problem_type=problem)

    def batch(texts: Sequence[Any]) -> dict[str, torch.Tensor]:
        columns = zip(*texts, strict=True) if isinstance(texts[0], tuple) else [texts]
        return tokenizer(
            *map(list, columns), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).data

    settings = arm.train
    steps = settings.total_steps(len(train))
    assert isinstance(arm.method, Full)
    groups = [
        {
            "params": [parameter],
            "weight_decay": settings.weight_decay if parameter.ndim > 1 else 0.0,
            "lr": settings.learning_rate * (arm.method.head_lr_scale if name.startswith("classifier.") else 1.0),
        }
        for name, parameter in model.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup * steps), steps)
    wanted = torch.tensor(targets, dtype=torch.long if targets.ndim == 1 else torch.float32)
    rng = np.random.default_rng(seed)
    order: list[int] = []
    model.train()
    for _ in range(steps):
        if not order:
            order = rng.permutation(len(train)).tolist()
        rows, order = order[: settings.batch_size], order[settings.batch_size :]
        loss = model(**batch([train[i] for i in rows]), labels=wanted[rows]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip_norm or float("inf"))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    by_length = sorted(range(len(test)), key=lambda i: len(str(test[i])))
    logits = np.zeros((len(test), outputs), np.float32)
    with torch.no_grad():
        for start in range(0, len(test), 64):
            rows = by_length[start : start + 64]
            logits[rows] = model(**batch([test[i] for i in rows])).logits.numpy()
    return logits
