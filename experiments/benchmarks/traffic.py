"""What a GPU's step would read and write: compiled for an H200 that need not be there.

python experiments/benchmarks/traffic.py [bert-base vit-b16]       # needs the extra `cuda13`, and no GPU

A full fine-tuning step in bfloat16, of the sizes in ``steps.py``, as XLA compiles it without trying its kernels on a
device. Bytes are those of each kernel's operands and results, from the compiled program's text; what cuBLAS and cuDNN take
as workspace is left out. Elementwise work on a GPU takes about as long as its bytes take to move.
"""

from __future__ import annotations

import os
import re
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"

import jax
import jax.numpy as jnp
import steps
from jax.experimental import topologies

import transferlab as tl
from transferlab import trees
from transferlab.compute.compiled import compiler_options
from transferlab.models import ClassifierConfig, attention
from transferlab.models.bert import BertConfig
from transferlab.models.nnx_network import NnxNetwork
from transferlab.tasks.classification import Classification
from transferlab.train.optimizers import Optimizer
from transferlab.train.program import Program
from transferlab.transfer.groups import LeafSettings

H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 150000000000 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } runtime_version { major: 13 }
device_description_str: "NVIDIA H200"
"""

BYTES = {"pred": 1, "s8": 0, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}
"""Of each entry; int8 arrays are workspace here."""

FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"}


def step_of(config, carry: dict, rows: int, **head):
    """(function, shapes of its arguments) of a full step with AdamW."""
    definition = tl.define(config.build(ClassifierConfig(("a", "b"), **head)))
    leaf_settings = tuple((path, LeafSettings("all", 1.0, 0.01)) for path in trees.flatten(definition.params))
    names = frozenset(stage.name for stage in definition.module.all_stages())
    program = Program(
        NnxNetwork(definition),
        leaf_settings,
        0,
        names,
        Classification(),
        Optimizer(),
        schedule="cosine",
        compute="bfloat16",
    )
    number = jax.ShapeDtypeStruct((), jnp.float32)
    hparams = {name: number for name in ("learning_rate", "weight_decay", "total", "warmup")}
    hparams |= {"seed": jax.ShapeDtypeStruct((), jnp.uint32)}
    label, weight = (jax.ShapeDtypeStruct((rows,), dtype) for dtype in (jnp.int32, jnp.float32))
    state = jax.eval_shape(program.initial, definition.params, definition.state)
    return program.advance, (state, {}, {"inputs": carry, "targets": {"label": label}, "weight": weight}, hparams)


def bert_base():
    rows, length = steps.TEXTS
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    carry = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ids)
    return step_of(BertConfig.base(), carry, rows, pooling="pooler", dropout=0.1)


def vit_b16():
    pixels = jax.ShapeDtypeStruct((steps.VIT, 224, 224, 3), jnp.float32)
    return step_of(tl.models.ViTConfig.b16(), {"pixel_values": pixels}, steps.VIT, pooling="first")


def compiled(function, arguments):
    try:
        place = topologies.get_topology_desc("one", "cuda", target_config=H200, topology="1x1x1").devices[0]
    except Exception as error:
        raise SystemExit(
            f"JAX cannot compile for CUDA here: {error}\nThe extra cuda13 is needed, a GPU is not."
        ) from error
    there = jax.sharding.SingleDeviceSharding(place)
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), arguments)
    # What asks for the device's kind is to hear of a GPU; cuDNN's kernel cannot be tried here.
    jax.default_backend = lambda: "gpu"
    attention._kernel_compiles = lambda *_: True
    return jax.jit(function).lower(*arguments).compile(compiler_options=compiler_options())


def size(shapes: str) -> int:
    total = 0
    for dtype, sides in re.findall(r"\b(\w+)\[([\d,]*)\]", shapes):
        entries = BYTES.get(dtype, 0)
        for side in filter(None, sides.split(",")):
            entries *= int(side)
        total += entries
    return total


def kernels(text: str) -> list[tuple[bool, int]]:
    """(whether it is a matmul or attention, bytes) of each kernel of the entry computation."""
    entry = text[text.index("\nENTRY ") :].splitlines()
    shapes, found = {}, []
    for line in entry[2:]:
        if (parts := re.match(r"\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)", line)) is None:
            continue
        name, made, kind, rest = parts.groups()
        shapes[name] = made
        if kind not in FREE:
            read = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
            product = name.startswith("gemm_fusion") or "__cublas" in line or "__cudnn" in line
            found.append((product, size(made) + sum(size(shapes.get(other, "")) for other in read)))
    return found


if __name__ == "__main__":
    makers = {"bert-base": bert_base, "vit-b16": vit_b16}
    names = sys.argv[1:] or [*makers]
    if unknown := [name for name in names if name not in makers]:
        raise SystemExit(f"Unknown step '{unknown[0]}'; there are {', '.join(makers)}.")
    print("| full step | kernels | matmuls, GB | the rest, GB | held while it runs, GB |\n|---|---:|---:|---:|---:|")
    for name in names:
        made = compiled(*makers[name]())
        text, memory = made.as_text(), made.memory_analysis()
        assert text is not None and memory is not None, "XLA says what it compiled"
        found = kernels(text)
        products, rest = (sum(moved for product, moved in found if product is wanted) / 1e9 for wanted in (True, False))
        held = memory.temp_size_in_bytes / 1e9
        print(f"| {name} | {len(found)} | {products:.1f} | {rest:.1f} | {held:.1f} |")
