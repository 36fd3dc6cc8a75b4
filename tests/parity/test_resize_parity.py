"""The resize kit against timm's and transformers' own functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_bert
from support.comparison import compare
from support.optional_imports import import_timm
from test_bert_parity import randomised

import transferlab as tl
from transferlab.pretrained.kernels import kernel_resize, resized_patches
from transferlab.pretrained.vocabulary import resized_table, token_map

torch = pytest.importorskip("torch", reason="parity tests need the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="parity tests need the extra 'parity'")


@pytest.fixture(scope="module")
def timm():
    return import_timm()


def oihw(kernel: np.ndarray):
    return torch.tensor(kernel).permute(3, 2, 0, 1)


def hwio(weight) -> np.ndarray:
    return weight.permute(2, 3, 1, 0).numpy()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("old", "new"), [(16, 8), (8, 16), (14, 16), (16, 14), (4, 7), (32, 16)])
def test_patches_equal_timms_pseudo_inverse(timm, interpolation: str, old: int, new: int) -> None:
    from timm.layers.patch_embed import resample_patch_embed

    kernel = np.random.default_rng(old).normal(size=(old, old, 3, 10)).astype(np.float32)
    want = hwio(resample_patch_embed(oihw(kernel), [new, new], interpolation=interpolation, antialias=True))
    got = resized_patches(kernel, new, f"{interpolation} antialias")
    # timm inverts in float32.
    compare(got, want, family="Resized patches", form="timm", what="input", tolerance=2e-4, floor=0.0)


@pytest.mark.parametrize("channels", [1, 2, 4, 7, 13])
def test_channels_equal_timms_adapted_convolution(timm, channels: int) -> None:
    from timm.models import adapt_input_conv

    kernel = np.random.default_rng(channels).normal(size=(5, 5, 3, 6)).astype(np.float32)
    resize = kernel_resize(kernel.shape, None, channels)
    assert resize is not None
    want = hwio(adapt_input_conv(channels, oihw(kernel)))
    compare(resize.apply(kernel), want, family="Resized channels", form="timm", what="input", tolerance=2e-7)


def test_added_tokens_are_where_transformers_puts_them(tmp_path: Path) -> None:
    source = tl.load(write_bert(tmp_path, vocab_size=18))
    model = randomised(transformers.BertModel.from_pretrained(tmp_path))
    table = model.embeddings.word_embeddings.weight.detach().numpy().copy()
    model.resize_token_embeddings(26, mean_resizing=True)
    want = model.embeddings.word_embeddings.weight.detach().numpy()
    tokens = token_map(
        source.tokenizer, source.with_tokenizer(add=[f"<{i}>" for i in range(8)]).tokenizer, 18, "normal"
    )
    got = resized_table(table, tokens, "normal")
    np.testing.assert_array_equal(got[:18], want[:18])
    compare(got[18:], want[18:], family="Added tokens", form="transformers", what="input", tolerance=1e-4)
