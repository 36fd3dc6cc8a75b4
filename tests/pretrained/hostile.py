"""Checkpoints damaged on purpose, each read in a process of its own: ``python hostile.py FOLDER TIMES`` prints what came of it.

A process has 6 GB more than it began with and 60 seconds of a processor. What comes of a file is one of OUTCOMES. The damage follows from the
number of its seed alone.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

OUTCOMES = ("ok", "error", "RAW", "HANG", "NOT-FINITE", "KILLED")
MEMORY, SECONDS, WAIT = 6 << 30, 60, 240
"""Bytes, seconds of a processor, and seconds that a process may wait for something or for a processor."""


@dataclass(frozen=True)
class Base:
    """A whole checkpoint: how it is read, and which of its files are damaged how."""

    name: str
    read: Callable[[Path], None]
    damage: tuple[tuple[str, str], ...]
    """Pairs (file, kind of damage)."""
    often: int = 1


# ---------------------------------------------------------------------------------------------------------------
# Reading, as a user would


def uses(source: Any, forward: bool) -> None:
    """Read all weights, and one example through what travels with them."""
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
    """``load``, and what ``inspect`` prints."""
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
    """Every tensor of the one file in a folder."""
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


# ---------------------------------------------------------------------------------------------------------------
# Damage


ODD = (None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 10**9, 2**31, 2**63, 10**400, -(10**30), 0.5, 1e308, 1e-320, float("nan"),
       float("inf"), "", "a", "gelu", "[/b]", "\ud800", "x" * 100_000, "(" * 5000, [], {}, [1, "a"], [[[[1]]]], {"0": 1},
       [10**9], [2] * 100_000, {"a": {"b": []}}, {"content": 3}, {"type": "Sequence"})  # fmt: skip


def places(tree: Any, where: tuple = ()) -> list[tuple]:
    """The place of every value in a JSON tree."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree[:40]) if isinstance(tree, list) else ()
    return [place for key, value in pairs for place in ((*where, key), *places(value, (*where, key)))]


def changed_json(raw: Any, rng: random.Random) -> Any:
    """One or two values of another kind, keys missing, keys renamed."""
    for _ in range(rng.choice((1, 1, 2))):
        found = places(raw)
        if not found:
            return rng.choice(ODD)
        *above, key = rng.choice(found)
        node = raw
        for part in above:
            node = node[part]
        how = rng.random()
        if how < 0.75 or isinstance(node, list):
            node[key] = rng.choice(ODD)
        elif how < 0.87:
            del node[key]
        else:
            node[rng.choice(("[/b]", "\ud800", "x" * 5000, "", key + "x"))] = node.pop(key)
    return raw


def json_damage(file: Path, rng: random.Random) -> None:
    if rng.random() < 0.06:
        file.write_text(rng.choice(("[" * 200_000, '{"a":' * 50_000, "9" * 10_000, "[]", "", "\ufeff{}", "null")))
        return
    file.write_text(json.dumps(changed_json(json.loads(file.read_text()), rng)))


def changed_bytes(data: bytes, rng: random.Random, first: int = 1 << 30) -> bytes:
    """Bytes changed, cut, inserted, repeated; lengths that say too much."""
    out, span = bytearray(data), max(1, min(len(data), first))
    for _ in range(rng.choice((1, 1, 2, 4))):
        place, how = rng.randrange(span), rng.random()
        if how < 0.4:
            out[place % len(out)] = rng.randrange(256)
        elif how < 0.5:
            out[place % len(out)] ^= 1 << rng.randrange(8)
        elif how < 0.7:
            bomb = rng.choice((b"\xff" * 4, b"\xff" * 8, b"\xff" * 7 + b"\x7f", struct.pack("<I", 1 << 31), bytes(8)))
            out[place : place + len(bomb)] = bomb
        elif how < 0.8:
            out = out[:place] or bytearray(b"\0")
        elif how < 0.9:
            out[place:place] = rng.randbytes(rng.choice((1, 4, 8, 1000)))
        else:
            out[place:place] = out[place : place + rng.choice((1, 8, 64))] * rng.choice((1, 3, 1000))
    return bytes(out)


def bytes_damage(file: Path, rng: random.Random) -> None:
    file.write_bytes(changed_bytes(file.read_bytes(), rng))


def head_damage(file: Path, rng: random.Random) -> None:
    file.write_bytes(changed_bytes(file.read_bytes(), rng, 900))


def header_damage(file: Path, rng: random.Random) -> None:
    """What a safetensors header says."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    how = rng.random()
    if how < 0.15:
        header |= {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [len(rest)] * 2} for i in range(5_000)}
    elif how < 0.3:
        entry = header[rng.choice([key for key in header if key != "__metadata__"])]
        entry["shape"] = rng.choice(
            (entry["shape"][::-1], [*entry["shape"], 1], [1] * 40, [2**40, 0], [-1], [2**62, 4])
        )
    elif how < 0.45:
        entry = header[rng.choice([key for key in header if key != "__metadata__"])]
        entry["dtype"] = rng.choice(
            ("F64", "F16", "I32", "U32", "BOOL", "BF16", "F8_E4M3", "f32", "", ["F32"], None, 7)
        )
    else:
        header = changed_json(header, rng)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + rest)


OPERATIONS = (
    b"(.0125acdefghijlopqrstu}]XKMJGN)\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8e\x8f\x90\x91\x92\x93\x94\x95\x96"
)


def pickle_damage(file: Path, rng: random.Random) -> None:
    """The pickle in a torch file, whose archive stays whole."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    data = bytearray(members[name])
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[place] = rng.choice(OPERATIONS)
        else:
            made = rng.choice((b"2\x86" * 30, b"0", b"2", b"q\xff", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"}b", b"K\x01", b"\x8b\xff\xff\xff\x7f",
                               b")" + b"\x85" * 3000, b"]" + b"2a" * 50, b"X\xff\xff\xff\xff", b"ctorch\nSize\n", rng.randbytes(4)))  # fmt: skip
            data[place:place] = made
    members[name] = bytes(data)
    with zipfile.ZipFile(
        file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
            if rng.random() < 0.02:
                archive.writestr(name + "x", content)


def text_damage(file: Path, rng: random.Random) -> None:
    """Lines missing, repeated, odd, or another encoding."""
    lines = file.read_bytes().split(b"\n")
    for _ in range(rng.choice((1, 2))):
        place = rng.randrange(len(lines))
        lines[place : place + rng.choice((0, 1))] = [rng.choice((b"", b"\xff\xfe", b"a b c", b"x" * 100_000, lines[0], b"\0", b"[UNK]"))] * rng.choice((1, 2, 3000))  # fmt: skip
    if rng.random() < 0.2:
        lines = lines[: len(lines) // 2]
    file.write_bytes(b"\n".join(lines))


def kind_damage(file: Path, rng: random.Random) -> None:
    """Something else stands where the file was."""
    import socket

    whole = file.read_bytes() if file.is_file() else b""
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    how = rng.choice(("pipe", "folder", "socket", "loop", "zeros", "null", "empty", "missing", "text"))
    if how == "pipe":
        os.mkfifo(file)
    elif how == "folder":
        file.mkdir()
    elif how == "socket":
        server, here = socket.socket(socket.AF_UNIX), os.getcwd()
        os.chdir(file.parent)  # a socket's path is short
        server.bind(file.name)
        os.chdir(here)
    elif how in ("loop", "zeros", "null"):
        file.symlink_to({"loop": file.name, "zeros": "/dev/zero", "null": "/dev/null"}[how])
    elif how in ("empty", "text"):
        file.write_bytes(b"" if how == "empty" else b"version https://git-lfs.github.com/spec/v1\n" + whole[:7])


def tree_damage(folder: Path, rng: random.Random) -> None:
    """Any file of an Orbax checkpoint."""
    file = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    if rng.random() < 0.15:
        kind_damage(file, rng)
    elif file.stat().st_size and rng.random() < 0.5 and file.read_bytes()[:1] == b"{":
        try:
            json_damage(file, rng)
        except ValueError:
            bytes_damage(file, rng)
    elif file.stat().st_size:
        bytes_damage(file, rng)


def tokenizer_damage(file: Path, rng: random.Random) -> None:
    """Rules that grow, expressions that do not end, and values of other kinds."""
    raw = json.loads(file.read_text())
    how = rng.random()

    def replace(pattern: dict, content: str, times: int) -> dict:
        return {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": pattern, "content": content}] * times,
        }

    if how < 0.1:
        raw["normalizer"] = replace(
            rng.choice(({"String": "a"}, {"Regex": "a*"}, {"Regex": "(?=.)"})), "aa", rng.choice((2, 40))
        )
    elif how < 0.15:
        raw["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}]
            * 40,
        }
    elif how < 0.25:
        regex = rng.choice(("(a+)+$", "(.*)*(.*)*(.*)*$", "(?:x+x+)+y", "(", "(a|aa)+$", "\\p{Nope}"))
        raw["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    elif how < 0.3:
        raw["truncation"] = {
            "direction": "Right",
            "max_length": rng.choice((0, 2**63)),
            "strategy": "LongestFirst",
            "stride": rng.choice((0, 10**9)),
        }
    elif how < 0.35:
        raw["padding"] = {
            "strategy": {"Fixed": 10**9},
            "direction": "Left",
            "pad_to_multiple_of": 10**9,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        }
    elif how < 0.45:
        token = {
            "id": rng.choice((0, 5, 2**31, 30)),
            "content": rng.choice(("", "a", "[/b]", "x" * 5000)),
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        raw["added_tokens"] = [token] * rng.choice((1, 2, 3000))
    elif how < 0.55:
        raw["model"] = {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "ab": rng.choice((2, 2**32 - 1, 9))},
            "merges": rng.choice(([["a", "b"]], ["a b"], ["a"], [["a", "c"]])),
        }
    elif how < 0.65:
        raw["model"] = {
            "type": "Unigram",
            "unk_id": rng.choice((0, 7, None)),
            "vocab": rng.choice(([], [["a", 0.0]], [["", 1e308]], [["a", -1e308], ["b", 0]])),
        }
    elif how < 0.7:
        raw["normalizer"] = {
            "type": "Precompiled",
            "precompiled_charsmap": rng.choice(("", "AAAA", "/////w==", "BAAAAAAAAAA=")),
        }
    else:
        raw = changed_json(raw, rng)
    file.write_text(json.dumps(raw))


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "json": json_damage, "bytes": bytes_damage, "head": head_damage, "header": header_damage, "pickle": pickle_damage,
    "lines": text_damage, "kind": kind_damage, "tree": tree_damage, "tokenizer": tokenizer_damage,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------
# Whole checkpoints


def build(home: Path) -> None:
    """Write the whole ones."""
    import numpy as np
    import vocabulary_files
    from conftest import write_bert, write_clip, write_decoder, write_table, write_vit
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
    picture = {"do_resize": True, "size": {"height": 16, "width": 16}, "resample": 3, "do_normalize": True,
               "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_rescale": True, "rescale_factor": 1 / 255}  # fmt: skip
    (home / "vit/preprocessor_config.json").write_text(json.dumps(picture))
    write_clip(home / "clip", "clip")
    for kind in ("gpt2", "llama"):
        write_decoder(home / kind, kind)
        shutil.copy(home / "bert/tokenizer.json", home / kind)
    others = {
        "convnext": {"model_type": "convnext", "hidden_sizes": [4, 8], "depths": [1, 2], "num_stages": 2, "image_size": 32},
        "swin": {"model_type": "swin", "embed_dim": 4, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2, "image_size": 16,
                 "patch_size": 2},
        "resnet": {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"},
        "t5": {"model_type": "t5", "vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2},
        "modernbert": {"model_type": "modernbert", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 12,
                       "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0},
    }  # fmt: skip
    for name, raw in others.items():
        family = FAMILIES[name]
        config = family.from_hf(raw)
        definition = trees.define(config.build())
        rng = np.random.default_rng(0)
        leaves = {path: rng.uniform(0.1, 0.4, leaf.shape).astype(np.float32)
                  for path, leaf in {**trees.flatten(definition.params), **trees.flatten(definition.state)}.items()}  # fmt: skip
        (home / name).mkdir()
        save_file(to_file(family.names(config)[0], leaves), str(home / name / "model.safetensors"))
        (home / name / "config.json").write_text(json.dumps(raw))
    import test_unpickle

    arrays = load_file(str(home / "bert/model.safetensors"))
    for name, write in (("torch", test_unpickle.zipped), ("legacy", test_unpickle.legacy)):
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
        (np.savez_compressed if name == "packed" else np.savez)(
            home / name / "a.npz", **{f"k{i}": np.arange(30.0) for i in range(4)}
        )
    (home / "gguf").mkdir()
    (home / "gguf/m.gguf").write_bytes(llama_gguf())
    vocabulary_files.write_wordpiece(home / "wordpiece", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    vocabulary_files.write_bpe(home / "bpe", ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    vocabulary_files.write_sentencepiece(home / "unigram" / "sentencepiece.bpe.model", vocabulary_files.pieces())
    for name in ("wordpiece", "bpe", "unigram"):
        (home / name / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32}))
        (home / name / "added_tokens.json").write_text(json.dumps({}))
    table = write_table(home / "films.csv", 60)
    from transferlab.train import Settings

    tl.adapt(source, tl.dataset(table, test_examples=20), method=tl.methods.Probe(), directory=home / "run",
             settings=Settings(learning_rate=1e-3, steps=2, batch_size=8)).fit()  # fmt: skip


def llama_gguf() -> bytes:
    """A whole language model in a GGUF file."""
    import numpy as np
    from test_gguf import gguf, text

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


# ---------------------------------------------------------------------------------------------------------------


def outcome(read: Callable[[Path], None], path: Path, out: Path) -> None:
    """Read in this process, which ends; what came of it is written to ``out``."""
    from transferlab.errors import TransferlabError

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS,) * 2)
    warnings.simplefilter("ignore")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        read(path)
        said = "ok"
    except TransferlabError as error:
        text = str(error)
        said = (
            f"error {text}" if 10 < len(text) < 9000 and text.encode() else f"RAW a message of {len(text)} characters"
        )
    except FloatingPointError as error:
        said = f"NOT-FINITE {error}"
    except BaseException as error:
        import traceback

        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"RAW {type(error).__name__}: {str(error)[:200]} ({place.filename}:{place.lineno})"
    out.write_text(said, "utf-8", "replace")
    os._exit(0)


def watched(action: Callable[[], None], seconds: float) -> str:
    """Do something in a process of its own; return how it ended."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
                return "HANG of all its seconds"
            return "" if status == 0 else f"KILLED by status {status}"
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"HANG after {seconds} s"


def main(home: Path, times: int, only: str = "") -> None:
    """Write the whole ones, damage them, and print a line for each: what was damaged how, and what came of it.

    ``only`` names some of the whole ones, with commas between. What came out wrong is kept in ``home/kept``.
    """
    warnings.simplefilter("ignore")
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "built").exists():
        if ended := watched(lambda: build(home), 400):
            sys.exit(f"the whole checkpoints could not be written: {ended}")
        (home / "built").write_text("")
    import transferlab.cli.main
    import transferlab.methods.adapted
    import transferlab.pretrained.inspection
    import transferlab.train.result

    assert transferlab.cli.main
    place, out, counts = home / "damaged", home / "out.txt", Counter()
    # Whole ones first: what cannot be read whole tells nothing.
    tasks = [(base, "", "", 0) for base in {base.name: base for base in BASES}.values()]
    made = Counter()
    for base in BASES:
        for pair in base.damage:
            first = made[base.name, pair]
            made[base.name, pair] += base.often * times
            tasks += [(base, *pair, i) for i in range(first, made[base.name, pair])]
    for number, (base, file, kind, i) in enumerate(tasks):
        label = f"{base.name}/{file} {kind} {i}"
        if only and base.name not in only.split(","):
            continue
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(home / base.name, place)
        if kind:
            DAMAGE[kind](place / file, random.Random(f"{base.name} {file} {kind} {i}"))
        out.unlink(missing_ok=True)
        began = time.monotonic()
        ended = watched(lambda base=base: outcome(base.read, place, out), WAIT)
        said = ended or (out.read_text("utf-8") if out.exists() else "KILLED")
        word = said.split()[0]
        counts[word] += bool(kind)
        if not kind and word != "ok":
            said, word = f"RAW the whole one: {said}", "RAW"
        if word not in ("ok", "error"):
            kept = home / "kept" / f"{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(
                place, kept, symlinks=True, ignore=lambda _, names: [n for n in names if not (place / n).exists()]
            )
        print(f"{label} [{time.monotonic() - began:.1f} s]: {' '.join(said.split())[:300]}", flush=True)
    print(json.dumps({"damaged": sum(counts.values()), **{name: counts[name] for name in OUTCOMES}}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4])
