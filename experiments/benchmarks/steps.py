"""One full fine-tuning or LoRA update on a batch of 32, against the peer's: transformers, peft, timm.

python experiments/benchmarks/steps.py [full lora full-mean efficientnet vit …]      # needs `parity`, peft and timm

MiniLM-L6 reads texts of 64 tokens with its dropout on, as transformers' BertForSequenceClassification: a pooler over the
first token, dropout, a linear map; in ``full-mean`` both sides classify the mean of the tokens. EfficientNet-Lite0 reads
96 pixels, ViT-S/16 224. The optimizer is AdamW behind a clipping of the gradient's norm on both sides.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pairs
from pairs import Work, side

ROWS, LENGTH = 32, 64


def texts():
    import numpy as np

    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20000, (ROWS, LENGTH)).astype(np.int32)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return inputs, rng.integers(0, 2, ROWS).astype(np.int32)


def images(side: int):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, side, side, 3)).astype(np.float32), rng.integers(0, 10, ROWS).astype(np.int32)


def ours(source, data, method, inputs, labels) -> Work:
    import jax
    import numpy as np

    import transferlab as tl
    from transferlab.train import Settings
    from transferlab.train.fit import prepare

    run = tl.adapt(source, data, method=method, settings=Settings())
    member, state = prepare(run, {})
    batch = jax.device_put({"carry": inputs, "label": labels, "weight": np.ones(ROWS, np.float32)})
    hyper = run.hyper()

    def work() -> None:
        nonlocal state
        state, metrics = run.program.step(state, member.frozen, batch, hyper)
        jax.block_until_ready((state, metrics))

    return work


def ours_text(method) -> Work:
    import transferlab as tl

    return ours(tl.load("minilm-l6"), tl.dataset("tweets", examples=64), method, *texts())


def ours_image(source, side: int) -> Work:
    import transferlab as tl

    pixels, labels = images(side)
    data = tl.dataset("animals", examples=64)
    return ours(source.resized(side), data, tl.methods.Full(), {"pixel_values": pixels}, labels)


def peer(model, loss) -> Work:
    """The peer's update, as its users write it; ``loss(model)`` runs the forward pass."""
    import torch

    torch.set_num_threads(2)
    model = model.train()
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=3e-4, weight_decay=0.01)

    def work() -> None:
        optimizer.zero_grad()
        loss(model).backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()

    return work


def peer_text(adapt) -> Work:
    import torch
    from transformers import BertForSequenceClassification

    model = adapt(BertForSequenceClassification.from_pretrained(minilm(), num_labels=2))
    ids, mask, labels = tensors()
    return peer(model, lambda model: torch.nn.functional.cross_entropy(model(ids, mask).logits, labels))


def minilm() -> Path:
    import transferlab as tl

    return Path(tl.load("minilm-l6").origin["path"])


def tensors():
    import torch

    inputs, labels = texts()
    return (torch.tensor(x).long() for x in (inputs["input_ids"], inputs["attention_mask"], labels))


def peer_image(name: str, side: int) -> Work:
    import sys

    import torch

    # timm asks torchvision for a few functions that no model here uses; the parity tests have a stand-in for it.
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "parity"))
    from timm_alone import import_timm

    model = import_timm().create_model(name, num_classes=10)
    pixels, labels = images(side)
    pixels = torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(labels).long()
    return peer(model, lambda model: torch.nn.functional.cross_entropy(model(pixels), labels))


@side("full", "ours")
def full_ours() -> Work:
    import transferlab as tl

    return ours_text(tl.methods.Full(pooling="pooler", head_dropout=0.1))


@side("full", "peer")
def full_peer() -> Work:
    return peer_text(lambda model: model)


@side("lora", "ours")
def lora_ours() -> Work:
    import transferlab as tl

    return ours_text(tl.methods.LoRA(rank=8, alpha=16.0, pooling="pooler", head_dropout=0.1))


@side("lora", "peer")
def lora_peer() -> Work:
    def adapt(model):
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], modules_to_save=["classifier"])
        return get_peft_model(model, config)

    return peer_text(adapt)


@side("full-mean", "ours")
def full_mean_ours() -> Work:
    import transferlab as tl

    return ours_text(tl.methods.Full(pooling="mean"))


@side("full-mean", "peer")
def full_mean_peer() -> Work:
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(minilm(), add_pooling_layer=False)
    model.classifier = torch.nn.Linear(model.config.hidden_size, 2)
    ids, mask, labels = tensors()

    def loss(model):
        hidden = model(ids, mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.cross_entropy(model.classifier(mean), labels)

    return peer(model, loss)


@side("efficientnet", "ours")
def efficientnet_ours() -> Work:
    import transferlab as tl

    return ours_image(tl.load("efficientnet-lite0"), 96)


@side("efficientnet", "peer")
def efficientnet_peer() -> Work:
    return peer_image("tf_efficientnet_lite0", 96)


@side("vit", "ours")
def vit_ours() -> Work:
    """Random weights, in a directory as timm writes it: a step's time does not hang on them."""
    import jax
    import numpy as np
    from safetensors.numpy import save_file

    import transferlab as tl
    from transferlab import trees
    from transferlab.pretrained.names import to_file
    from transferlab.pretrained.vit import vit_names

    config = tl.models.ViTConfig.s16()
    definition = tl.define(config.build())
    leaves = definition.initialise(trees.flatten(definition.params), jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        tensors = to_file(vit_names(config, "timm"), {path: np.asarray(leaf) for path, leaf in leaves.items()})
        save_file(tensors, Path(folder) / "model.safetensors")
        (Path(folder) / "config.json").write_text(
            json.dumps({"architecture": "vit_small_patch16_224", "num_classes": 0})
        )
        return ours_image(tl.load(folder), 224)


@side("vit", "peer")
def vit_peer() -> Work:
    return peer_image("vit_small_patch16_224", 224)


if __name__ == "__main__":
    pairs.main(
        __file__,
        {
            "full": "full fine-tuning step, MiniLM-L6, 32 × 64 tokens, dropout on; peer: transformers",
            "lora": "LoRA step, rank 8 on query and value, same; peer: peft",
            "full-mean": "the full step, the mean of the tokens classified on both sides",
            "efficientnet": "full step, EfficientNet-Lite0, 32 pictures of 96 px; peer: timm",
            "vit": "full step, ViT-S/16, 32 pictures of 224 px; peer: timm",
        },
        repeats=9,
        settle=1,
    )
