"""big_vision's ``.npz``, read here, written as Hugging Face's files, against transformers on the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import linen_big_vision as like
from support.comparison import compare
from support.typed import savez
from test_vit_parity import channels_first, pixels

import transferlab as tl
from transferlab.pretrained.families.clip import clip_names
from transferlab.pretrained.families.vit import vit_names
from transferlab.pretrained.names import to_file

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")


def leaves(source) -> dict[str, np.ndarray]:
    return {path: leaf.read() for path, leaf in source.leaves.items()}


def test_a_vision_transformer_of_npz_equals_transformers(tmp_path: Path) -> None:
    given = pixels(16)
    params = like.random_params(like.Image("tok", 5, layers=12), given)
    rng = np.random.default_rng(1)
    # As vision_transformer's files: the class token has a position of its own.
    params["pos_embedding"] = rng.normal(0, 0.3, (1, 17, 12)).astype(np.float32)
    savez(tmp_path / "vit.npz", like.old(params))
    source = tl.load(tmp_path / "vit.npz")
    config = source.config
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=config.hidden_size, num_hidden_layers=config.num_hidden_layers, num_labels=5,
            num_attention_heads=config.num_attention_heads, intermediate_size=config.intermediate_size,
            image_size=config.image_size, patch_size=config.patch_size, layer_norm_eps=1e-6,
            hidden_act="gelu_pytorch_tanh",
        )
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path)
    prefixed = {
        k if k.startswith("classifier") else f"vit.{k}": v
        for k, v in to_file(vit_names(config, "vit"), leaves(source)).items()
    }
    save_file(prefixed, str(tmp_path / "model.safetensors"), {"format": "pt"})
    model, said = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    with torch.no_grad():
        want = model.eval()(channels_first(given), output_hidden_states=True)
    got = source({"pixel_values": given})
    names = {"family": "ViT", "form": "big_vision npz", "tolerance": 1e-5}
    compare(got["hidden"], model.vit.layernorm(want.hidden_states[-1]), what="hidden", **names)
    compare(got["logits"], want.logits, **names)
    compare(tl.load(tmp_path)({"pixel_values": given})["logits"], want.logits, **names)


def test_two_towers_of_npz_equal_transformers_siglip(tmp_path: Path) -> None:
    given, ids = pixels(16), np.random.default_rng(2).integers(0, 40, (4, 7))
    params = like.random_params(like.TwoTowers(), given, ids)
    savez(tmp_path / "siglip.npz", {f"params/{path}": value for path, value in params.items()})
    source = tl.load(tmp_path / "siglip.npz")
    vision, text = source.config.vision, source.config.text
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    raw = {
        "model_type": "siglip", "architectures": ["SiglipModel"],
        "vision_config": {n: getattr(vision, n) for n in (*sizes, "image_size", "patch_size")},
        "text_config": {n: getattr(text, n) for n in (*sizes, "vocab_size", "max_position_embeddings")}
        | {"projection_size": text.projection_dim},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(raw))
    save_file(
        to_file(clip_names(source.config)[0], leaves(source)), str(tmp_path / "model.safetensors"), {"format": "pt"}
    )
    model, said = transformers.SiglipModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    with torch.no_grad():
        want = model.eval()(pixel_values=channels_first(given), input_ids=torch.tensor(ids))
    got = source({"pixel_values": given, "input_ids": ids})
    names: dict[str, Any] = {"family": "SigLIP", "form": "big_vision npz"}
    compare(got["image_embedding"], want.image_embeds, what="embedding", tolerance=1e-5, **names)
    compare(got["text_embedding"], want.text_embeds, what="embedding", tolerance=1e-5, **names)
    compare(got["logits"], want.logits_per_image, tolerance=2e-6, **names)
