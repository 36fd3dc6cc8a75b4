"""Damage to one file of a checkpoint: bytes, numbers of a JSON file, opcodes of a pickle, and the kind of the file."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """Bytes changed, cut, inserted, repeated; lengths that are too large."""
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
    """Damage to a safetensors header."""
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
    """Damage to the pickle in a torch file, whose archive stays intact."""
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
    """Replace the file by something of another kind."""
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
