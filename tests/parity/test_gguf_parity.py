"""GGUF against llama.cpp's own ``gguf`` package: files that it wrote, and its dequantisation of random blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from transferlab.pretrained.formats.gguf import read_gguf

gguf = pytest.importorskip("gguf", reason="parity tests need the extra 'parity'")

BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


@pytest.mark.parametrize("kind", BLOCKS)
def test_random_blocks_dequantize_as_in_the_gguf_package(kind: str, tmp_path: Path) -> None:
    number = getattr(gguf.GGMLQuantizationType, kind)
    values, size = gguf.GGML_QUANT_SIZES[number]
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (37, 3 * size), dtype=np.uint8)
    # Scales that are no NaN or infinity: any 16 bits whose exponent is not full. Where they are differs by type.
    blocks = raw.reshape(-1, size)
    for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_0": (0,), "Q5_0": (0,), "Q8_0": (0,)}.get(
        kind, (0, 2)
    ):
        blocks[:, at + 1] &= 0xBB
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("x", raw, raw_shape=raw.shape, raw_dtype=number)
    writer.add_tensor("y", rng.normal(size=(2, 3, 5)).astype(np.float32))
    write(writer)
    want = gguf.quants.dequantize(raw, number)
    found = read_gguf(tmp_path / "x.gguf")
    assert found.types["x"] == kind
    got = found.tensors["x"].read()
    assert got.shape == found.tensors["x"].shape == (37, 3 * values) and got.dtype == np.float32
    np.testing.assert_array_equal(got, want)


def write(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_metadata_and_plain_tensors_come_back_as_they_were_written(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    tokens = ["<s>", "Ġthe", "漢", "", "a" * 300]
    writer.add_block_count(12)
    writer.add_rope_freq_base(10000.0)
    writer.add_token_list(tokens)
    writer.add_token_types([1, 2, 3, 4, -5])
    writer.add_token_scores([0.5, -1.0, 0.0, 2.0, 3.0])
    writer.add_add_bos_token(True)
    writer.add_custom_alignment(64)
    given = {
        "a": np.arange(7, dtype=np.float32),
        "b": np.arange(6, dtype=np.float16).reshape(2, 3),
        "c": np.arange(24, dtype=np.int32).reshape(2, 3, 4),
    }
    for name, tensor in given.items():
        writer.add_tensor(name, tensor)
    import ml_dtypes

    brain = np.linspace(-3, 3, 10).astype(ml_dtypes.bfloat16).reshape(5, 2)
    writer.add_tensor("d", brain.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    write(writer)
    found = read_gguf(tmp_path / "x.gguf")
    assert found.version == 3
    assert found.value("general.architecture") == "llama"
    assert found.value("llama.block_count", int) == 12
    assert found.value("tokenizer.ggml.tokens") == tokens
    assert found.value("tokenizer.ggml.token_type") == [1, 2, 3, 4, -5]
    assert found.value("tokenizer.ggml.scores") == [0.5, -1.0, 0.0, 2.0, 3.0]
    assert found.value("tokenizer.ggml.add_bos_token") is True
    assert found.value("llama.rope.freq_base") == 10000.0
    for name, tensor in {**given, "d": brain}.items():
        got = found.tensors[name].read()
        assert (got.shape, got.dtype) == (tensor.shape, tensor.dtype)
        np.testing.assert_array_equal(got, tensor)


def test_what_the_gguf_package_quantized_is_dequantized_as_it_does(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(40, 512)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        number = getattr(gguf.GGMLQuantizationType, kind)
        writer.add_tensor(kind, gguf.quants.quantize(values, number), raw_dtype=number)
    write(writer)
    for kind, tensor in read_gguf(tmp_path / "x.gguf").tensors.items():
        # Half a step of the coarsest type (16 steps over about ±3.5 standard deviations), rounded up.
        assert np.abs(tensor.read() - values).max() < 0.4, kind
