"""Small real things to test on: a BERT directory as Hugging Face writes it, a table of texts, a folder of pictures."""

from __future__ import annotations

import csv
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from transferlab.pretrained.families.bert import bert_from_hf

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The models of these tests are tiny: nearly all their time was XLA optimising programs that run for a millisecond. Parity
# with the origins, the README's own line and the benchmarks run what a user's machine compiles.
HURRIED = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if version("jax").startswith("0.10."):
    HURRIED.append("--xla_cpu_use_fusion_emitters=false")  # gone from jax 0.11.2, and an unknown flag ends the process


def fuzz(examples: int) -> settings:
    """The same damage on every run, so that a failure is a change's fault; ``FUZZ=20`` seeks twenty times more, by chance."""
    more = int(os.environ.get("FUZZ", "0"))
    return settings(
        max_examples=examples * max(more, 1), derandomize=not more, deadline=None,
        suppress_health_check=list(HealthCheck), **({} if more else {"database": None}),
    )  # fmt: skip


TINY = {
    "model_type": "bert", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 64, "type_vocab_size": 2, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-12, "initializer_range": 0.02,
}  # fmt: skip
WORDS = ("good", "great", "fine", "bad", "poor", "sad", "the", "film", "was", "a", "very", "day", "and", "it")


def write_bert(folder: Path, *, seed: int = 0, drop: tuple[str, ...] = (), **changes) -> Path:
    """Write config, random weights under the origin's keys, and a tokenizer."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    from transferlab import trees
    from transferlab.pretrained.families.bert import bert_names

    folder.mkdir(parents=True, exist_ok=True)
    raw = {**TINY, **changes}
    (folder / "config.json").write_text(json.dumps(raw))
    config = bert_from_hf(raw)
    shapes = trees.flatten(trees.define(config.build()).params)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name in bert_names(config).names:
        if name.path in shapes and name.key not in drop:
            values = rng.normal(0, 0.3, shapes[name.path].shape).astype(np.float32)
            tensors[name.key] = np.ascontiguousarray(name.layout.to_file(values))
    save_file(tensors, str(folder / "model.safetensors"))
    vocabulary = {w: i for i, w in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", "model_max_length": 48}))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return folder


VIT_SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
VIT_DIALECTS = {
    "vit": {"model_type": "vit", "intermediate_size": 10, "id2label": {"0": "cat", "1": "dog"}, **VIT_SIZES},
    "dinov2": {"model_type": "dinov2_with_registers", "num_register_tokens": 2, "use_swiglu_ffn": True, **VIT_SIZES},
    "timm": {
        "architecture": "vit_tiny_patch16_224", "num_classes": 2, "global_pool": "token",
        "model_args": {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
                       "init_values": 0.1, "reg_tokens": 1},
        "pretrained_cfg": {"input_size": [3, 16, 16], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9,
                           "interpolation": "bicubic", "label_names": ["cat", "dog"]},
    },
}  # fmt: skip


def vit_config(raw: dict):
    """The config that either dialect's config.json says."""
    from transferlab.pretrained.families.vit import vit_from_hf
    from transferlab.pretrained.families.vit_timm import vit_from_timm
    from transferlab.pretrained.timm import TimmConfig

    return vit_from_timm(TimmConfig.read(raw)) if "architecture" in raw else vit_from_hf(raw)


def write_vit(folder: Path, dialect: str, prefix: str = "", **changes) -> dict[str, np.ndarray]:
    """Write config and random weights under the origin's keys; return the tensors."""
    from safetensors.numpy import save_file

    from transferlab import trees
    from transferlab.models import ClassifierConfig
    from transferlab.pretrained.families.vit import vit_names
    from transferlab.pretrained.names import to_file

    folder.mkdir(parents=True, exist_ok=True)
    raw = {**VIT_DIALECTS[dialect], **changes}
    config = vit_config(raw)
    head = ClassifierConfig(("cat", "dog"), pooling=config.pooling)
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(config.build(head)).params)
    leaves = {p: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for p, leaf in shapes.items()}
    tensors = {prefix + key: tensor for key, tensor in to_file(vit_names(config, dialect), leaves).items()}
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, str(folder / "model.safetensors"))
    return tensors


CLIP_VISION = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 10,
               "image_size": 16, "patch_size": 4}  # fmt: skip
CLIP_TEXT = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 10, "vocab_size": 64,
             "max_position_embeddings": 20, "eos_token_id": 3}  # fmt: skip
CLIPS = {
    "clip": {"model_type": "clip", "vision_config": CLIP_VISION, "text_config": CLIP_TEXT, "projection_dim": 6},
    "siglip": {
        "model_type": "siglip",
        "vision_config": CLIP_VISION,
        "text_config": {**CLIP_TEXT, "projection_size": 12},
    },
}


def write_clip(folder: Path, kind: str, **changes) -> dict[str, np.ndarray]:
    """Write config, random weights of both towers under Hugging Face's keys, and a tokenizer; return the tensors."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from transferlab import trees
    from transferlab.pretrained.families.clip import clip_from_hf, clip_names
    from transferlab.pretrained.names import to_file

    folder.mkdir(parents=True, exist_ok=True)
    raw = {**CLIPS[kind], **changes}
    config = clip_from_hf(raw)
    shapes = trees.flatten(trees.define(config.build()).params)
    rng = np.random.default_rng(0)
    leaves = {p: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for p, leaf in shapes.items()}
    tensors = to_file(clip_names(config)[0], leaves)
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, str(folder / "model.safetensors"))
    vocabulary = {w: i for i, w in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "photo", "of"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    return tensors


def write_table(path: Path, rows: int = 160, seed: int = 0) -> Path:
    """Texts whose label is decided by the words in them; lengths differ, so that two padded lengths occur."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(rows):
            positive = i % 3 != 0
            fitting = WORDS[:3] if positive else WORDS[3:6]
            # 16 and 32 tokens padded: each length more is a compilation more in most tests.
            length = int(rng.integers(3, 14)) if i % 2 else int(rng.integers(24, 30))
            words = [str(rng.choice(WORDS[6:])) for _ in range(length)]
            words[int(rng.integers(len(words)))] = str(rng.choice(fitting))
            writer.writerow([" ".join(words), "up" if positive else "down"])
    return path


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("data") / "films.csv")


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Random weights of a parity test are its own, whichever tests ran before it."""
    if request.path.parent.name == "parity" and "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def source(bert_folder: Path):
    import transferlab as tl

    return tl.load(bert_folder)


@pytest.fixture(scope="session")
def films(table: Path):
    import transferlab as tl

    return tl.dataset(table, test_examples=60)


@pytest.fixture(autouse=True, scope="session")
def frontier_cache(tmp_path_factory: pytest.TempPathFactory):
    """Carries of tests stay out of the user's cache."""
    from transferlab.train import setup
    from transferlab.transfer.cache import FrontierCache

    made = FrontierCache(tmp_path_factory.mktemp("frontier"))
    patch = pytest.MonkeyPatch()
    patch.setattr(setup, "shared_cache", lambda: made)
    yield made
    patch.undo()


DECODERS = {
    "gpt2": {"model_type": "gpt2", "vocab_size": 40, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 4,
             "eos_token_id": 3},
    "llama": {"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 6,
              "eos_token_id": 3},
    "gemma": {"model_type": "gemma2", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 6,
              "sliding_window": 4, "query_pre_attn_scalar": 9, "eos_token_id": 3, "attn_logit_softcapping": 2.0},
}  # fmt: skip


def write_decoder(folder: Path, kind: str, *, scale: float = 0.4, **changes) -> dict[str, np.ndarray]:
    """Write config and random weights of a language model under the origin's keys; return the tensors."""
    from safetensors.numpy import save_file

    from transferlab import trees
    from transferlab.pretrained.families import FAMILIES
    from transferlab.pretrained.names import to_file

    folder.mkdir(parents=True, exist_ok=True)
    raw = {**DECODERS[kind], **changes}
    family = FAMILIES["gpt2" if kind == "gpt2" else "llama"]
    config = family.from_hf(raw)
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(config.build(config.language_model())).params)
    leaves = {p: rng.normal(0, scale, leaf.shape).astype(np.float32) for p, leaf in shapes.items()}
    names = family.names(config)[0]
    tensors = {
        key if key.startswith("lm_head") else names.prefixes[-1] + key: tensor
        for key, tensor in to_file(names, leaves).items()
    }
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, str(folder / "model.safetensors"))
    return tensors


def pytest_configure(config: pytest.Config) -> None:
    """Hurry, before any device is asked for; processes that tests start inherit it."""
    if not any("parity" in Path(place).parts for place in config.args):
        os.environ["XLA_FLAGS"] = " ".join((*HURRIED, os.environ.get("XLA_FLAGS", "")))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The differences for the table are collected in one process."""
    if config.getoption("--parity-table"):
        config.option.numprocesses, config.option.dist = 0, "no"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--parity-table FILE``: where the differences from the origins' numbers are written, as Markdown."""
    parser.addoption("--parity-table", type=Path, help="write the table of largest differences from the origins here")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the parity table of the tests that ran."""
    if place := session.config.getoption("--parity-table"):
        from compared import DIFFERENCES, table

        place.write_text(table(DIFFERENCES))
