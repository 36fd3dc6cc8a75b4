"""Intact checkpoints of every kind: how they are written, how they are read, and which of their files are damaged how."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import pickles, vocabularies
from support.checkpoints import write_bert, write_clip, write_decoder, write_vit
from support.gguf import gguf, text
from support.tables import write_table


@dataclass(frozen=True)
class Base:
    """An intact checkpoint: how it is read, and which of its files are damaged how."""

    name: str
    read: Callable[[Path], None]
    damage: tuple[tuple[str, str], ...]
    """Pairs (file, kind of damage)."""
    often: int = 1


def uses(source: Any, forward: bool) -> None:
    """Read all weights, and run one example through the preprocessing."""
    import numpy as np

    from transferlab.data.text import TextTransform

    for path, leaf in source.leaves.items():
        array = np.asarray(leaf.read())
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise FloatingPointError(path)
    transforms = [source.transform, *source.towers.values()]
    for transform in transforms:
        if isinstance(transform, TextTransform):
            transform.pad(transform.encode(["the good film", "", "a [CLS] Ångström 漢"]), transform.max_length, 3)
        elif transform is not None and hasattr(transform, "size"):
            transform(np.zeros((9, 7, 3), np.uint8))
    if forward and isinstance(source.transform, TextTransform):
        out = source(source.transform.pad(source.transform.encode(["the film", "a"]), source.transform.bucket(8), 2))
        for name, array in out.items():
            if not np.isfinite(np.asarray(array, np.float32)).all():
                raise FloatingPointError(name)


def loads(path: Path, forward: bool = False) -> None:
    """Run ``load``, and print the table of ``inspect``."""
    from rich.console import Console

    import transferlab as tl

    try:
        uses(tl.load(path), forward)
    finally:
        with suppress(tl.TransferlabError):
            Console(file=io.StringIO()).print(tl.inspect_checkpoint(path).table())


def runs(path: Path) -> None:
    loads(path, forward=True)


def weights(path: Path) -> None:
    """Read every tensor of the only file in a folder."""
    import numpy as np

    from transferlab.pretrained.formats.weights import read_any
    from transferlab.reading import reading

    file = next(iter(sorted(path.iterdir())), path / "nothing.npz")
    for tensor in read_any(file).values():
        with reading(file):  # as a leaf's own read has it
            array = tensor.read()
        if array.shape != tensor.shape or (array.dtype.kind not in "USV" and not np.asarray(array).size >= 0):
            raise FloatingPointError("a tensor of another shape")


def tokenizes(kind: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        from transferlab.data.text import read_tokenizer
        from transferlab.reading import reading

        with reading(path):  # as load has it
            transform = read_tokenizer(path, 32, kind=kind)
        if transform is not None:
            transform.encode(["the cat sat on the mat", "", "naïve Ångström 漢字 <s> [CLS]", "x" * 200])

    return read


def adapter(path: Path) -> None:
    import numpy as np

    import transferlab as tl

    made = tl.load_adapter(path / "adapter")
    for leaf in made.merged().leaves.values():
        if np.isnan(np.asarray(leaf.read(), np.float32)).any():
            raise FloatingPointError("merged")


def results(path: Path) -> None:
    import numpy as np

    import transferlab as tl
    from transferlab.train.result import read_result

    found = read_result(path)
    if not np.isfinite(found.probabilities).all():
        raise FloatingPointError("probabilities")
    tl.open_run(path)


def build(home: Path) -> None:
    """Write the intact checkpoints."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    import transferlab as tl
    from transferlab import trees
    from transferlab.methods.adapted import Adapted
    from transferlab.pretrained.families import FAMILIES
    from transferlab.pretrained.names import to_file
    from transferlab.pretrained.peft import Pair

    write_bert(home / "bert", id2label={"0": "a"})
    for dialect in ("vit", "timm"):
        write_vit(home / dialect, dialect)
    shutil.copy(home / "bert/tokenizer.json", home / "vit/unused.json")
    image = {"do_resize": True, "size": {"height": 16, "width": 16}, "resample": 3, "do_normalize": True,
               "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_rescale": True, "rescale_factor": 1 / 255}  # fmt: skip
    (home / "vit/preprocessor_config.json").write_text(json.dumps(image))
    write_clip(home / "clip", "clip")
    for kind in ("gpt2", "llama"):
        write_decoder(home / kind, kind)
        shutil.copy(home / "bert/tokenizer.json", home / kind)
    configs = {
        "convnext": {"model_type": "convnext", "hidden_sizes": [4, 8], "depths": [1, 2], "num_stages": 2, "image_size": 32},
        "swin": {"model_type": "swin", "embed_dim": 4, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2, "image_size": 16,
                 "patch_size": 2},
        "resnet": {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"},
        "t5": {"model_type": "t5", "vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2},
        "modernbert": {"model_type": "modernbert", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 12,
                       "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0},
    }  # fmt: skip
    for name, raw in configs.items():
        family = FAMILIES[name]
        config = family.from_hf(raw)
        definition = trees.define(config.build())
        rng = np.random.default_rng(0)
        leaves = {path: rng.uniform(0.1, 0.4, leaf.shape).astype(np.float32)
                  for path, leaf in {**trees.flatten(definition.params), **trees.flatten(definition.state)}.items()}  # fmt: skip
        (home / name).mkdir()
        save_file(to_file(family.names(config)[0], leaves), str(home / name / "model.safetensors"))
        (home / name / "config.json").write_text(json.dumps(raw))
    arrays = load_file(str(home / "bert/model.safetensors"))
    for name, write in (("torch", pickles.zipped), ("legacy", pickles.legacy)):
        shutil.copytree(home / "bert", home / name)
        (home / name / "model.safetensors").unlink()
        write(home / name / "pytorch_model.bin", arrays)
    source = tl.load(home / "bert")
    tl.save(source, home / "orbax", format="orbax")
    tl.save(source, home / "shards", shard_bytes=4000)
    pair = Pair(np.ones((16, 2), np.float32), np.ones((2, 16), np.float32), 2.0)
    (home / "peft").mkdir()
    Adapted(source, {"layers/0/attention/query/kernel": pair}).save_adapter(home / "peft/adapter")
    raw = json.loads((home / "peft/adapter/adapter_config.json").read_text())
    raw |= {"rank_pattern": {"layer.0.attention.self.query": 2}, "alpha_pattern": {}}
    (home / "peft/adapter/adapter_config.json").write_text(json.dumps(raw))
    for name in ("npz", "packed"):
        (home / name).mkdir()
        arrays: dict[str, Any] = {f"k{i}": np.arange(30.0) for i in range(4)}
        (np.savez_compressed if name == "packed" else np.savez)(home / name / "a.npz", **arrays)
    (home / "gguf").mkdir()
    (home / "gguf/m.gguf").write_bytes(llama_gguf())
    vocabularies.write_wordpiece(home / "wordpiece", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    vocabularies.write_bpe(home / "bpe", ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    vocabularies.write_sentencepiece(home / "unigram" / "sentencepiece.bpe.model", vocabularies.pieces())
    for name in ("wordpiece", "bpe", "unigram"):
        (home / name / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32}))
        (home / name / "added_tokens.json").write_text(json.dumps({}))
    table = write_table(home / "films.csv", 60)
    from transferlab.train import Settings

    tl.adapt(source, tl.dataset(table, test_examples=20), method=tl.methods.Probe(), directory=home / "run",
             settings=Settings(learning_rate=1e-3, steps=2, batch_size=8)).fit()  # fmt: skip


def llama_gguf() -> bytes:
    """An intact language model in a GGUF file."""
    import numpy as np

    from transferlab import trees
    from transferlab.models.llama import LlamaConfig
    from transferlab.pretrained.families.llama_gguf import llama_gguf_names
    from transferlab.pretrained.names import to_file

    config = LlamaConfig(vocab_size=12, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=4, max_position_embeddings=64, tie_word_embeddings=True)  # fmt: skip
    rng = np.random.default_rng(0)
    shapes = trees.flatten(trees.define(config.build()).params)
    leaves = {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    tensors = to_file(llama_gguf_names(config), leaves)
    numbers = {"block_count": 2, "embedding_length": 16, "feed_forward_length": 24, "attention.head_count": 4,
               "attention.head_count_kv": 2, "context_length": 64}  # fmt: skip
    tokens = ("<unk>", "<s>", "a", "b", "c", "Ġ", "ab", "Ġa", "d", "e", "f", "g")
    pairs = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    pairs += [text(f"llama.{key}") + struct.pack("<II", 4, value) for key, value in numbers.items()]
    pairs.append(text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5))
    for key, value in (("model", "gpt2"), ("pre", "llama-bpe")):
        pairs.append(text(f"tokenizer.ggml.{key}") + struct.pack("<I", 8) + text(value))
    for key, values in (("tokens", tokens), ("merges", ("a b", "Ġ a"))):
        pairs.append(
            text(f"tokenizer.ggml.{key}") + struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))
        )
    pairs.append(
        text("tokenizer.ggml.token_type") + struct.pack(f"<IIQ{len(tokens)}i", 9, 5, len(tokens), 2, 3, *[1] * 10)
    )
    pairs.append(text("tokenizer.ggml.bos_token_id") + struct.pack("<II", 4, 1))
    return gguf(tuple(pairs), tuple((key, array.shape[::-1], 0, array.tobytes()) for key, array in tensors.items()))


def model(*more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (("config.json", "json"), ("model.safetensors", "header"), ("model.safetensors", "head"), *more)


BASES = (
    Base("bert", runs, (("config.json", "json"), ("tokenizer_config.json", "json")), 3),
    Base("bert", loads, model(("tokenizer.json", "tokenizer"), ("tokenizer.json", "bytes"), ("1_Pooling/config.json", "json"),
                              ("config.json", "kind"), ("model.safetensors", "kind"), ("tokenizer.json", "kind"),
                              ("tokenizer_config.json", "kind"), ("1_Pooling/config.json", "kind"), ("config.json", "bytes"))),
    Base("bert", loads, (("tokenizer.json", "tokenizer"), ("model.safetensors", "header")), 3),
    Base("vit", loads, model(("preprocessor_config.json", "json"), ("preprocessor_config.json", "kind"))),
    Base("timm", loads, (("config.json", "json"),), 2),
    Base("clip", loads, model(("tokenizer.json", "tokenizer"))),
    Base("gpt2", loads, model()),
    Base("llama", loads, (("config.json", "json"),), 2),
    *(Base(name, loads, (("config.json", "json"),), 2) for name in ("convnext", "swin", "resnet", "t5", "modernbert")),
    Base("torch", loads, (("pytorch_model.bin", "pickle"),), 6),
    Base("torch", loads, (("pytorch_model.bin", "bytes"), ("pytorch_model.bin", "kind"))),
    Base("legacy", loads, (("pytorch_model.bin", "head"), ("pytorch_model.bin", "bytes")), 2),
    Base("orbax", loads, (("transferlab.json", "json"), ("tree", "tree"), ("tree", "tree"), ("transferlab.json", "kind")), 2),
    Base("shards", loads, (("model.safetensors.index.json", "json"), ("model.safetensors.index.json", "kind"))),
    Base("peft", adapter, (("adapter/adapter_config.json", "json"), ("adapter/adapter_model.safetensors", "header"),
                           ("adapter/adapter_config.json", "kind"), ("adapter/adapter_model.safetensors", "kind")), 2),
    Base("npz", weights, (("a.npz", "bytes"), ("a.npz", "kind")), 2),
    Base("packed", weights, (("a.npz", "bytes"),), 2),
    Base("gguf", lambda path: loads(path / "m.gguf"), (("m.gguf", "head"), ("m.gguf", "head"), ("m.gguf", "kind")), 3),
    Base("wordpiece", tokenizes("bert"), (("vocab.txt", "lines"), ("vocab.txt", "kind"), ("tokenizer_config.json", "json"),
                                          ("added_tokens.json", "kind"))),
    Base("bpe", tokenizes("roberta"), (("vocab.json", "json"), ("merges.txt", "lines"), ("merges.txt", "kind"))),
    Base("unigram", tokenizes("xlm-roberta"), (("sentencepiece.bpe.model", "bytes"), ("sentencepiece.bpe.model", "kind")), 2),
    Base("run", results, (("predictions.npz", "bytes"), ("result.json", "json"), ("run.json", "json"), ("metrics.jsonl", "lines"),
                          ("predictions.npz", "kind"), ("result.json", "kind"), ("checkpoints", "tree"))),
)  # fmt: skip
