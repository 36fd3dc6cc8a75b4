"""One full fine-tuning or LoRA update on a batch of 32, against the peer's: transformers, peft, timm.

python experiments/benchmarks/steps.py [full lora full-mean efficientnet vit …]      # needs `parity`, peft and timm
python experiments/benchmarks/steps.py vit-b16 bert-base                             # on a GPU: what fraction of its peak

MiniLM-L6 reads texts of 64 tokens with its dropout on, as transformers' BertForSequenceClassification: a pooler over the
first token, dropout, a linear map; in ``full-mean`` both sides classify the mean of the tokens. EfficientNet-Lite0 reads
96 pixels, ViT-S/16 224. The optimizer is AdamW behind a clipping of the gradient's norm on both sides. On a GPU the rows
also show the memory that a step needs (state and temporary; the peer's peak) and what fraction of a large matmul's speed its
matmuls reach.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pairs
from pairs import Work, in_a_row, on_gpu, side, torch_device

ROWS, LENGTH = 32, 64


def texts(rows: int = ROWS, length: int = LENGTH):
    import numpy as np

    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20000, (rows, length)).astype(np.int32)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return inputs, rng.integers(0, 2, rows).astype(np.int32)


def images(side: int, rows: int = ROWS):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, side, side, 3)).astype(np.float32), rng.integers(0, 10, rows).astype(np.int32)


def ours(source, data, method, inputs, labels, products: float | None = None) -> Work:
    import jax
    import numpy as np

    import transferlab as tl
    from transferlab.train import Settings
    from transferlab.train.fit import prepare
    from transferlab.train.profile import matmul_speed

    settings = Settings(batch_size=len(labels), precision="bfloat16" if on_gpu() else "float32")
    run = tl.adapt(source, data, method=method, settings=settings)
    member, state = prepare(run, {})
    batch = jax.device_put({"inputs": inputs, "targets": {"label": labels}, "weight": np.ones(len(labels), np.float32)})
    hparams = run.hparams()

    def step():
        nonlocal state
        state, metrics = run.program.step(state, member.frozen, batch, hparams)
        return state, metrics

    if not on_gpu():
        return in_a_row(step, jax.block_until_ready, 1)
    work, peak = in_a_row(step, jax.block_until_ready, pairs.STEPS), matmul_speed("bfloat16")
    held = sum(x.nbytes for x in jax.tree.leaves((state, member.frozen, batch)))
    held += run.program.step.temporary_bytes(state, member.frozen, batch, hparams)

    def measured() -> dict:
        return _with_share(work(), held, products, peak)

    return measured


def _with_share(found: Any, held: int, products: float | None, peak: float) -> dict:
    said = f"{held / 2**20:.0f} MiB"
    if products is not None:
        said += f", {products / found['seconds'] / peak:.0%} of {peak / 1e12:.0f} TFLOP/s"
    return {**found, "said": said}


def ours_text(method) -> Work:
    import transferlab as tl

    return ours(tl.load("minilm-l6"), tl.dataset("tweets", examples=1000), method, *texts())


def ours_image(source, side: int, rows: int = ROWS, products: float | None = None) -> Work:
    import transferlab as tl

    pixels, labels = images(side, rows)
    data = tl.dataset("animals", examples=64)
    return ours(source.resized(side), data, tl.methods.Full(), {"pixel_values": pixels}, labels, products)


def peer(model, loss, products: float | None = None) -> Work:
    """The peer's update, as its users write it; ``loss(model)`` runs the forward pass."""
    import torch

    device = torch_device()
    model = model.train()
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=3e-4, weight_decay=0.01, fused=device == "cuda")
    called = torch.compile(model) if device == "cuda" else model

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss(called)
        value.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()

    if device == "cpu":
        return in_a_row(step, lambda _: None, 1)
    work, peak = in_a_row(step, lambda _: torch.cuda.synchronize(), pairs.STEPS), _torch_peak()
    work()
    torch.cuda.reset_peak_memory_stats()
    return lambda: _with_share(work(), torch.cuda.max_memory_allocated(), products, peak)


def _torch_peak() -> float:
    """Operations per second of a large matmul in bfloat16."""
    import time

    import torch

    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(5):
        x @ x
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        x @ x
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - started)


def peer_text(adapt) -> Work:
    import torch
    from transformers import BertForSequenceClassification

    model = adapt(BertForSequenceClassification.from_pretrained(minilm(), num_labels=2)).to(torch_device())
    ids, mask, labels = tensors()
    return peer(model, lambda model: torch.nn.functional.cross_entropy(model(ids, mask).logits, labels))


def minilm() -> Path:
    import transferlab as tl

    return Path(tl.load("minilm-l6").provenance["path"])


def tensors(rows: int = ROWS, length: int = LENGTH):
    import torch

    inputs, labels = texts(rows, length)
    taken = (inputs["input_ids"], inputs["attention_mask"], labels)
    return (torch.tensor(x).long().to(torch_device()) for x in taken)


def peer_image(name: str, side: int, rows: int = ROWS, products: float | None = None) -> Work:
    import importlib
    import sys

    import torch

    # timm asks torchvision for a few functions that no model here uses; the parity tests have a stand-in for it.
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    support = importlib.import_module("support.optional_imports")
    model = support.import_timm().create_model(name, num_classes=10).to(torch_device())
    pixels, labels = images(side, rows)
    pixels = torch.tensor(pixels).permute(0, 3, 1, 2).contiguous().to(torch_device())
    labels = torch.tensor(labels).long().to(torch_device())
    return peer(model, lambda model: torch.nn.functional.cross_entropy(model(pixels), labels), products)


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
    torch.nn.Module.to(model, torch_device())
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


def random_vit(config, name: str):
    """Random weights, in a directory as timm writes it: a step's time does not depend on them."""
    import numpy as np
    from safetensors.numpy import save_file

    import transferlab as tl
    from transferlab import trees
    from transferlab.pretrained.families.vit import vit_names
    from transferlab.pretrained.names import to_file

    rng, shapes = np.random.default_rng(0), trees.flatten(tl.define(config.build()).params)
    leaves = {path: 0.02 * rng.standard_normal(leaf.shape, np.float32) for path, leaf in shapes.items()}
    folder = tempfile.mkdtemp()
    save_file(to_file(vit_names(config, "timm"), leaves), Path(folder) / "model.safetensors")
    (Path(folder) / "config.json").write_text(json.dumps({"architecture": name, "num_classes": 0}))
    return tl.load(folder)


@side("vit", "ours")
def vit_ours() -> Work:
    import transferlab as tl

    return ours_image(random_vit(tl.models.ViTConfig.s16(), "vit_small_patch16_224"), 224)


@side("vit", "peer")
def vit_peer() -> Work:
    return peer_image("vit_small_patch16_224", 224)


def products(rows: int, tokens: int, layers: int, width: int) -> float:
    """Operations of a step's matmuls: of the layers' kernels and of attention, backward twice forward."""
    return 3 * rows * layers * tokens * (24 * width**2 + 4 * tokens * width)


VIT, TEXTS = 256, (256, 128)
"""Pictures of a batch for ViT-B/16; texts and their tokens for BERT-base."""


@side("vit-b16", "ours")
def vit_base_ours() -> Work:
    import transferlab as tl

    source = random_vit(tl.models.ViTConfig.b16(), "vit_base_patch16_224")
    return ours_image(source, 224, VIT, products(VIT, 197, 12, 768))


@side("vit-b16", "peer")
def vit_base_peer() -> Work:
    return peer_image("vit_base_patch16_224", 224, VIT, products(VIT, 197, 12, 768))


@side("bert-base", "ours")
def bert_base_ours() -> Work:
    """Random weights, with the tokenizer of MiniLM, which is BERT's."""
    import shutil

    from safetensors.numpy import save_file
    from transformers import BertConfig, BertModel

    import transferlab as tl

    folder = Path(tempfile.mkdtemp())
    for name in ("tokenizer.json", "vocab.txt"):
        shutil.copy(minilm() / name, folder / name)
    save_file(
        {name: x.numpy() for name, x in BertModel(BertConfig()).state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(BertConfig().to_json_string(use_diff=False))
    # Of this length, so that the step is compiled for one shape alone.
    rows = [f"{i} {'word ' * (TEXTS[1] - 10)},{'ab'[i % 2]}" for i in range(1000)]
    (folder / "texts.csv").write_text("\n".join(["text,label", *rows]))
    data = tl.dataset(folder / "texts.csv", test_examples=100)
    method = tl.methods.Full(pooling="pooler", head_dropout=0.1)
    return ours(tl.load(folder), data, method, *texts(*TEXTS), products(*TEXTS, 12, 768))


@side("bert-base", "peer")
def bert_base_peer() -> Work:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig()
    config.num_labels = 2
    model = BertForSequenceClassification(config)
    torch.nn.Module.to(model, torch_device())
    ids, mask, labels = tensors(*TEXTS)
    loss = torch.nn.functional.cross_entropy
    return peer(model, lambda model: loss(model(ids, mask).logits, labels), products(*TEXTS, 12, 768))


if __name__ == "__main__":
    pairs.main(
        __file__,
        {
            "full": "full fine-tuning step, MiniLM-L6, 32 × 64 tokens, dropout on; peer: transformers",
            "lora": "LoRA step, rank 8 on query and value, same; peer: peft",
            "full-mean": "the full step, the mean of the tokens classified on both sides",
            "efficientnet": "full step, EfficientNet-Lite0, 32 images of 96 px; peer: timm",
            "vit": "full step, ViT-S/16, 32 images of 224 px; peer: timm",
            **(
                {
                    "vit-b16": f"full step, ViT-B/16, {VIT} images of 224 px; peer: timm",
                    "bert-base": f"full step, BERT-base, {TEXTS[0]} × {TEXTS[1]} tokens, dropout on; peer: transformers",
                }
                if pairs.gpu_here()
                else {}
            ),
        },
        repeats=9,
        settle=1,
    )
