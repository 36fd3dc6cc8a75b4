"""The ``.npz`` files of big_vision and vision_transformer: ViT and AugReg, and SigLIP with its text tower.

Kernels are (in, out) as in the tree; query, key and value are (in, heads, width), and the output is (heads, width, out).
Their GELU is the tanh approximation, LayerNorm's eps is 1e-6. Blocks are numbered, or stacked along a first axis; old
files count all the modules of a block together (``MlpBlock_3``), new ones each kind by itself (``MlpBlock_0``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transferlab.errors import TransferlabError
from transferlab.models.clip import ClipConfig, TextTowerConfig
from transferlab.models.vit import ViTConfig
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.pretrained.names import SAME, Entry, Layout, NameTable, squeezed

Shape = tuple[int, ...]

_IGNORED = ((r"opt/(?!target/).*|extra/.*", "the state of the training run, no parameter"),)


@dataclass(frozen=True)
class Blocks:
    """How a file calls the parts of a block, and whether it stacks the blocks."""

    attention: str
    mlp: str
    second_norm: str
    stacked: bool = False


OLD = Blocks("MultiHeadDotProductAttention_1", "MlpBlock_3", "LayerNorm_2")
NEW = Blocks("MultiHeadDotProductAttention_0", "MlpBlock_0", "LayerNorm_1")
_BLOCKS = (OLD, NEW, replace(NEW, stacked=True), replace(OLD, stacked=True))
_POSITIONS = ("pos_embedding", "Transformer/posembed_input/pos_embedding")


def vit_tables(config: ViTConfig) -> tuple[NameTable, ...]:
    """Return a table for each way in which such a file may call a Vision Transformer's leaves."""
    tables = [_vision(config, blocks, position) for blocks in _BLOCKS for position in _POSITIONS]
    return tuple(
        NameTable(tuple(names), ("opt/target/", "params/img/", "params/"), ignored=_IGNORED) for names in tables
    )


def clip_tables(config: ClipConfig) -> tuple[NameTable, ...]:
    """Return a table for each way in which such a file may call the leaves of two towers, as SigLIP's."""
    tables = []
    for blocks in (NEW, replace(NEW, stacked=True)):
        names = [
            replace(name, path=f"vision/{name.path}", key=f"img/{name.key}")
            for name in _vision(config.vision, blocks, "pos_embedding")
            if not name.path.startswith("head/")
        ]
        names += [replace(n, path=f"text/{n.path}", key=f"txt/{n.key}") for n in _text(config.text, blocks)]
        names += [Entry("logit_scale", "t", squeezed(1)), Entry("logit_bias", "b", squeezed(1))]
        tables.append(NameTable(tuple(names), ("opt/target/", "params/"), ignored=_IGNORED))
    return tuple(tables)


def _vision(config: ViTConfig, blocks: Blocks, position: str) -> list[Entry]:
    names = [
        Entry("embed/patch/kernel", "embedding/kernel"),
        Entry("embed/patch/bias", "embedding/bias"),
        Entry("embed/position", position, squeezed(1)),
    ]
    if config.class_token:
        names.append(Entry("embed/class_token", "cls", squeezed(2)))
    names += _encoder(blocks, "Transformer", config.num_hidden_layers, config.num_attention_heads)
    if config.pooler and config.pooler_kind == "attention":
        there = "MAPHead_0"
        names.append(Entry("pooler/probe", f"{there}/probe", squeezed(2)))
        attention = f"{there}/{NEW.attention}"
        names += [
            Entry(f"pooler/attention/{path}", key, layout)
            for path, key, layout in _attention(attention, config.num_attention_heads)
        ]
        names += _pair("pooler/mlp/norm", f"{there}/LayerNorm_0", "scale")
        names += _pair("pooler/mlp/up", f"{there}/{NEW.mlp}/Dense_0")
        names += _pair("pooler/mlp/down", f"{there}/{NEW.mlp}/Dense_1")
    else:
        names += _pair("pooler", "pre_logits")
    return names + _pair("head", "head")


def _text(config: TextTowerConfig, blocks: Blocks) -> list[Entry]:
    return [
        Entry("embed/word/embedding", "Embed_0/embedding"),
        Entry("embed/position/embedding", "pos_embedding", squeezed(1)),
        *_encoder(blocks, "Encoder_0", config.num_hidden_layers, config.num_attention_heads),
        *_pair("projection", "head"),
    ]


def _encoder(blocks: Blocks, there: str, layers: int, heads: int) -> list[Entry]:
    parts = [
        *_pair("attention/norm", "LayerNorm_0", "scale"),
        *(Entry(f"attention/{path}", key, layout) for path, key, layout in _attention(blocks.attention, heads)),
        *_pair("mlp/norm", blocks.second_norm, "scale"),
        *_pair("mlp/up", f"{blocks.mlp}/Dense_0"),
        *_pair("mlp/down", f"{blocks.mlp}/Dense_1"),
    ]
    names = []
    for i in range(layers):
        for part in parts:
            if blocks.stacked:
                key, layout = f"{there}/encoderblock/{part.key}", stacked(part.layout, i, layers)
            else:
                key, layout = f"{there}/encoderblock_{i}/{part.key}", part.layout
            names.append(Entry(f"layers/{i}/{part.path}", key, layout))
    return names + _pair("norm", f"{there}/encoder_norm", "scale")


def _attention(there: str, heads: int) -> list[tuple[str, str, Layout]]:
    out = []
    for part in ("query", "key", "value"):
        out.append((f"{part}/kernel", f"{there}/{part}/kernel", by_head(heads, 1)))
        out.append((f"{part}/bias", f"{there}/{part}/bias", by_head(heads, 0)))
    out.append(("output/kernel", f"{there}/out/kernel", by_head(heads, 0)))
    out.append(("output/bias", f"{there}/out/bias", SAME))
    return out


def _pair(path: str, key: str, first: str = "kernel") -> list[Entry]:
    return [Entry(f"{path}/{first}", f"{key}/{first}"), Entry(f"{path}/bias", f"{key}/bias")]


def by_head(heads: int, axis: int) -> Layout:
    """Return the layout of a leaf whose ``axis`` the file holds as two: heads, and the width of one."""

    def whole(shape: Shape) -> Shape:
        return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])

    return Layout(
        f"{heads} heads side by side",
        lambda x: x.reshape(whole(x.shape)),
        lambda x: x.reshape(*x.shape[:axis], heads, -1, *x.shape[axis + 1 :]),
        # Another number of heads would give the same shape, and other numbers.
        lambda shape: whole(shape) if len(shape) > axis + 1 and shape[axis] == heads else shape,
    )


def stacked(layout: Layout, n: int, of: int) -> Layout:
    """Return the layout of the n-th of ``of`` leaves that the file stacks along a first axis, as ``nn.scan`` does."""
    return Layout(
        f"layer {n + 1} of {of}, {layout.name}",
        lambda x: layout.to_tree(x[n]),
        lambda x: layout.to_file(x)[None],
        lambda shape: layout.shape(shape[1:]) if shape[0] == of else shape,
        (n, of),
    )


# ---------------------------------------------------------------------------------------------------------------
# The config, from the tensors


def config_of(tensors: Mapping[str, LazyTensor]) -> ViTConfig | ClipConfig | None:
    """Return the config that the tensors' shapes tell: all sizes can be read off them; None if these are other tensors.

    Raises:
        TransferlabError: tensors of this kind whose shapes contradict what a Vision Transformer is.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    roots = [k.removesuffix("embedding/kernel") for k, s in shapes.items() if re.fullmatch(_PATCH, k) and len(s) == 4]
    if len(roots) != 1:
        return None
    vision = _vision_config(_below(shapes, roots[0]))
    root = roots[0].removesuffix("img/")
    text = _below(shapes, f"{root}txt/")
    if not text:
        return vision
    for key in ("Embed_0/embedding", "pos_embedding", "head/kernel"):
        if key not in text:
            raise TransferlabError(
                f"The file has '{root}txt/', but no '{root}txt/{key}': no text tower that can be read."
            )
    layers, heads, inner = _encoder_sizes(text, "Encoder_0")
    vocabulary, width = text["Embed_0/embedding"]
    config = replace(
        TextTowerConfig.siglip_base(), vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=inner, max_position_embeddings=text["pos_embedding"][-2],
        projection_dim=text["head/kernel"][-1],
    )  # fmt: skip
    return ClipConfig(vision, config, math.log(10.0), -10.0 if f"{root}b" in shapes else None)


_PATCH = r"(opt/target/|params/)?(img/)?embedding/kernel"


def _below(shapes: Mapping[str, Any], root: str) -> dict[str, Shape]:
    return {key.removeprefix(root): shape for key, shape in shapes.items() if key.startswith(root)}


def _vision_config(shapes: Mapping[str, Shape]) -> ViTConfig:
    rows, columns, channels, width = shapes["embedding/kernel"]
    table = next((shapes[key] for key in _POSITIONS if key in shapes), None)
    if rows != columns or table is None:
        raise TransferlabError(
            f"A patch of {rows} × {columns} pixels and positions {table} make no Vision Transformer."
        )
    layers, heads, inner = _encoder_sizes(shapes, "Transformer")
    first, positions = "cls" in shapes, table[-2]
    # vision_transformer gives the class token a position; big_vision puts it before the patches when they have theirs.
    slots = int(first and math.isqrt(positions) ** 2 != positions)
    grid = math.isqrt(positions - slots)
    if grid**2 != positions - slots:
        raise TransferlabError(f"A table of {positions} positions, {slots} of them before the patches, is no square.")
    attention, tanh = "MAPHead_0/probe" in shapes, "pre_logits/kernel" in shapes
    if tanh and (attention or not first):
        raise TransferlabError("pre_logits (representation_size) without the class token is not supported.")
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        hidden_act="gelu_pytorch_tanh",
        image_size=grid * rows,
        patch_size=rows,
        num_channels=channels,
        class_token=first,
        position_slots=slots,
        pooler=attention or tanh,
        pooler_kind="attention" if attention else "tanh",
        pooling="pooler" if attention or tanh else "first" if first else "mean",
        position_rule="linear zoom",
    )


def _encoder_sizes(shapes: Mapping[str, Shape], there: str) -> tuple[int, int, int]:
    """Return (layers, heads, width of the MLP)."""
    block = rf"{there}/encoderblock(_\d+)?/"
    queries = [
        s for key, s in shapes.items() if re.fullmatch(block + r"MultiHeadDotProductAttention_\d/query/kernel", key)
    ]
    inner = [s for key, s in shapes.items() if re.fullmatch(block + r"MlpBlock_\d/Dense_0/kernel", key)]
    if not queries or not inner:
        raise TransferlabError(
            f"No blocks '{there}/encoderblock_0/…' with attention and MLP: no encoder that can be read."
        )
    return len(queries) if len(queries[0]) == 3 else queries[0][0], queries[0][-2], inner[0][-1]
