"""Hostile or merely large files: each ends in weights or in one error, in little time and memory."""

from __future__ import annotations

import difflib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_bert
from support.gguf import gguf, text
from support.typed import savez

import transferlab as tl
from transferlab import limits
from transferlab.data.sentencepiece import read_sentencepiece
from transferlab.data.text import read_tokenizer
from transferlab.errors import TransferlabError
from transferlab.methods.adapted import Adapted
from transferlab.pretrained.formats.safetensors import read_safetensors, write_safetensors
from transferlab.pretrained.formats.tensors import LazyTensor
from transferlab.pretrained.formats.weights import read_any
from transferlab.pretrained.peft import Pair


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory and makes pipes as Linux does")
def test_a_damaged_checkpoint_ends_in_finite_weights_or_in_one_error(tmp_path: Path) -> None:
    """Each in a process of its own. ``FUZZ=5`` damages five times as many, otherwise."""
    times = max(int(os.environ.get("FUZZ", "0")), 1)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-m", "support.hostile", str(tmp_path), str(times)], env=environment, capture_output=True, text=True)  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines and lines[-1].startswith("{"), done.stdout[-2000:] + done.stderr[-2000:]
    counts = json.loads(lines[-1])
    wrong = [line for line in lines if not any(f"]: {word}" in line for word in ("ok", "error", "{"))][:-1]
    assert not wrong, "\n".join(wrong)
    assert counts["damaged"] >= 100 * times and counts["error"] >= counts["damaged"] / 2


def header(path: Path, entries: dict) -> Path:
    """A safetensors file of this header, with four bytes of data."""
    raw = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
    return path


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def test_names_are_sought_only_for_problems_that_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_bert(tmp_path / "other", num_hidden_layers=6)
    tensors = load_file(str(folder / "model.safetensors"))
    save_file({f"{key}_renamed": tensor for key, tensor in tensors.items()}, str(folder / "model.safetensors"))
    sought, plain = [], difflib.get_close_matches
    monkeypatch.setattr(difflib, "get_close_matches", lambda *a, **k: (sought.append(len(a[1])), plain(*a, **k))[1])
    with pytest.raises(TransferlabError, match=r"Did you mean 'embeddings\.[a-z._]*_renamed") as raised:
        tl.load(folder)
    assert len(sought) == 12 and str(raised.value).count("\n") == 13


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_norm_eps": 1e30}, None),
        ({"num_hidden_layers": 900}, "num_hidden_layers is 900, but the weights are only"),
    ],
)
def test_an_epsilon_is_not_a_number_of_layers(changes: dict, said: str | None, tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    if said is None:
        assert tl.load(folder).config.layer_norm_eps == 1e30
        return
    with pytest.raises(TransferlabError, match=said):
        tl.load(folder)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "float8_e4m3fn"])
def test_quantized_weights_without_their_scales_are_refused(dtype: str, tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert")
    tensors = load_file(str(folder / "model.safetensors"))
    key = "encoder.layer.0.output.dense.weight"
    cast = LazyTensor(tensors[key].shape, np.dtype(dtype), lambda: np.ones(tensors[key].shape, dtype))
    plain = {name: LazyTensor(a.shape, a.dtype, lambda a=a: a) for name, a in tensors.items()}
    write_safetensors(folder / "model.safetensors", {**plain, key: cast}, {"format": "pt"})
    with pytest.raises(TransferlabError, match=rf"the file's key '{key}' is of dtype {dtype}, .* or a GGUF file of it"):
        tl.load(folder)


def test_more_tensors_than_any_model_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]} for i in range(50)}
    path = header(tmp_path / "m.safetensors", {"a": ONE, **empty})
    assert len(read_safetensors(path)) == 51
    monkeypatch.setattr(limits, "TENSORS", 50)
    with pytest.raises(
        TransferlabError, match=r"m\.safetensors holds 51 tensors, more than transferlab\.limits\.TENSORS = 50"
    ):
        read_safetensors(path)
    savez(tmp_path / "m.npz", {f"k{i}": np.ones(1) for i in range(3)})
    monkeypatch.setattr(limits, "ZIP_MEMBERS", 1)
    with pytest.raises(TransferlabError, match=r"m\.npz lists \d+ bytes of names"):
        read_any(tmp_path / "m.npz")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": ["F32"]},
        {"shape": [2**62, 4]},
        {"shape": [1] * 40},
        {"shape": "1"},
        {"data_offsets": [0, 2**70]},
        {"shape": [True]},
    ],
)
def test_an_odd_entry_of_a_header_is_one_error(tmp_path: Path, entry: dict) -> None:
    path = header(tmp_path / "m.safetensors", {"a": {**ONE, **entry}})
    with pytest.raises(TransferlabError, match=r"m\.safetensors.*'a'"):
        read_safetensors(path)


def test_a_name_of_a_megabyte_is_cut_in_errors(tmp_path: Path) -> None:
    path = header(tmp_path / "m.safetensors", {"a" * 10**6: ONE})
    with pytest.raises(TransferlabError, match="has 1,000,000 characters") as raised:
        read_safetensors(path)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 10**9}, {"num_hidden_layers": 20_000}, {"depths": [10**9]}])
def test_layers_without_end_are_refused(tmp_path: Path, changes: dict) -> None:
    folder = write_bert(tmp_path / "deep")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **changes}))
    with pytest.raises(
        TransferlabError,
        match=rf"config\.json: {next(iter(changes))} is .*more than transferlab\.limits\.LAYERS = 2048",
    ):
        tl.load(folder)


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "1_Pooling/config.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "directory", "device"])
def test_opening_a_pipe_does_not_wait_forever(tmp_path: Path, file: str, kind: str) -> None:
    path = write_bert(tmp_path / "odd") / file
    path.unlink()
    {"pipe": lambda: os.mkfifo(path), "directory": path.mkdir, "device": lambda: path.symlink_to("/dev/zero")}[kind]()
    with pytest.raises(TransferlabError, match=rf"{path.name}.* is a {kind}; expected a file"):
        tl.load(tmp_path / "odd")
    if path.suffix == ".safetensors":
        with pytest.raises(TransferlabError, match=r"expected a file|no weights"):
            tl.inspect_checkpoint(path)


def test_a_config_of_a_gigabyte_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_bert(tmp_path / "large")
    monkeypatch.setattr(limits, "JSON_BYTES", 100)
    with pytest.raises(
        TransferlabError, match=r"config\.json has [\d,]+ bytes; such a file can have 100 \(transferlab\.limits\)"
    ):
        tl.load(folder)


def test_arrays_of_an_npz_that_overlap_are_refused(tmp_path: Path) -> None:
    """Many names for one run of packed zeros: each is small, and all together are without end."""
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, a=np.zeros(10**6))
    data = whole.read_bytes()
    at = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entries = [data[at:end].replace(b"a.npy", b"%c.npy" % letter) for letter in b"abcdefgh"]
    tail = bytearray(data[end:])
    tail[8:16] = struct.pack("<HHI", 8, 8, len(b"".join(entries)))
    path = tmp_path / "m.npz"
    path.write_bytes(data[:at] + b"".join(entries) + bytes(tail))
    with pytest.raises(TransferlabError, match=r"m\.npz: not a readable npz"):
        read_any(path)


@pytest.mark.parametrize(
    "blob, why",
    [
        (b"\xff" * 3_000_000 + b"\x01", "more than 64 bits"),
        (b"\x0a\xff\xff\xff\xff\x0f", "end early"),
        (b"", "no pieces"),
    ],
)
def test_a_number_of_a_megabyte_does_not_keep_a_sentencepiece_model_busy(tmp_path: Path, blob: bytes, why: str) -> None:
    (tmp_path / "m.model").write_bytes(blob)
    with pytest.raises(TransferlabError, match=rf"m\.model: not a readable SentencePiece model .*{why}"):
        read_sentencepiece(tmp_path / "m.model")


def test_metadata_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = struct.pack("<IQ", 4, 0)  # an array of no numbers
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf((text("k") + struct.pack("<IIQ", 9, 9, 500) + nothing * 500,), ()) + bytes(32))
    assert read_any(path) == {}
    monkeypatch.setattr(limits, "GGUF_ITEMS", 400)
    with pytest.raises(
        TransferlabError, match=r"m\.gguf: its metadata has more than transferlab\.limits\.GGUF_ITEMS = 400"
    ):
        read_any(path)


def test_a_damaged_tensor_of_a_gguf_or_torch_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf((), (("w", (2,), 0, np.array([1.0, np.nan], np.float32).tobytes()),)))
    from transferlab.pretrained.leaves import LazyLeaf
    from transferlab.pretrained.names import SAME

    with pytest.raises(TransferlabError, match=r"m\.gguf: 'w' holds NaN"):
        LazyLeaf("w", read_any(path)["w"], SAME).read()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("adapter")
    pair = Pair(np.ones((16, 2), np.float32), np.ones((2, 16), np.float32), 2.0)
    Adapted(tl.load(write_bert(home / "base")), {"layers/0/attention/query/kernel": pair}).save_adapter(home / "it")
    return home / "it"


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_hundred_thousand_patterns_are_refused(adapter: Path, tmp_path: Path, field: str) -> None:
    folder = shutil.copytree(adapter, tmp_path / "it")
    raw = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**raw, field: {f"m{i}": 4 for i in range(100_000)}}))
    with pytest.raises(
        TransferlabError, match=r"adapter_config\.json: not a readable adapter config \(more than 4096 patterns"
    ):
        tl.load_adapter(folder)


def test_the_first_pattern_that_fits_is_the_modules_rank(adapter: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(adapter, tmp_path / "it")
    raw = json.loads((folder / "adapter_config.json").read_text()) | {"r": 9, "lora_alpha": 6}
    patterns = {f"m{i}": 4 for i in range(882)} | {"attention.self.query": 2, ".*query": 3}
    (folder / "adapter_config.json").write_text(json.dumps({**raw, "rank_pattern": patterns, "alpha_pattern": {}}))
    pair = tl.load_adapter(folder).pairs["layers/0/attention/query/kernel"]
    assert pair.rank == 2 and pair.scale == 3.0


def tokenizer(folder: Path, **parts) -> Path:
    """A directory with a tokenizer of these parts."""
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
             "model": {"type": "WordLevel", "vocab": {"[UNK]": 1, "a": 7}, "unk_token": "[UNK]"}}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps({**whole, **parts}))
    return folder


def rules(pattern: dict, content: str, times: int, kind: str = "normalizers") -> dict:
    return {"type": "Sequence", kind: [{"type": "Replace", "pattern": pattern, "content": content}] * times}


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": rules({"String": "a"}, "aa", 40)},
        {"normalizer": rules({"Regex": "a*"}, "a", 40)},
        {"normalizer": rules({"Regex": "(?=a)"}, "a", 40)},
        {"normalizer": rules({"Regex": "a"}, "aa", 40)},
        {"normalizer": rules({"String": "a"}, "a" * 5000, 1)},
        {"decoder": rules({"String": "a"}, "aa", 40, "decoders")},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": True,
                                                                   "trim_offsets": True, "use_regex": False}] * 40}},
    ],
)  # fmt: skip
def test_a_text_is_not_doubled_forty_times(tmp_path: Path, parts: dict) -> None:
    with pytest.raises(
        TransferlabError, match=r"tokenizer\.json: the rules of its .* can make a text .* times as long"
    ):
        read_tokenizer(tokenizer(tmp_path, **parts), 16)


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": rules({"Regex": " {2,}"}, " ", 40)},
        {"normalizer": rules({"String": "``"}, '"', 40)},
        {"normalizer": rules({"String": " "}, "▁", 3)},
        {"normalizer": rules({"Regex": r"[^\w\s]+"}, " ", 20)},
        {"decoder": rules({"String": "▁"}, " ", 3, "decoders")},
    ],
)
def test_rules_of_published_tokenizers_are_accepted(tmp_path: Path, parts: dict) -> None:
    assert read_tokenizer(tokenizer(tmp_path, **parts), 16) is not None


def test_a_text_that_the_tokenizer_fails_at_is_named(tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    transform = read_tokenizer(tokenizer(tmp_path / "regex", pre_tokenizer=split), 64)
    assert transform is not None
    with pytest.raises(
        TransferlabError, match=r"The tokenizer cannot read 'aaaaaaaaaaaaaaaaaaaaaaaaaaaa!': .*retry-limit"
    ):
        transform.encode(["b", "a" * 28 + "!", "c"])
    model = {"type": "WordLevel", "vocab": {"a": 1}, "unk_token": "[UNK]"}
    transform = read_tokenizer(tokenizer(tmp_path / "unknown", model=model), 64)
    assert transform is not None and transform.encode(["a"])[0].ids == (1,)
    with pytest.raises(TransferlabError, match=r"The tokenizer cannot read 'b': .*\[UNK\]"):
        transform.encode(["a", "b"])


def test_added_tokens_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<x>": 6, "<y>": 7, "<z>": 8}))
    transform = read_tokenizer(tmp_path, 16)
    assert transform is not None and transform.encode(["a <z><x>"])[0].ids == (2, 5, 8, 6, 3)
    monkeypatch.setattr(limits, "ADDED_TOKENS", 2)
    with pytest.raises(TransferlabError, match="3 tokens are added; at most 2 are read"):
        read_tokenizer(tmp_path, 16)


def test_a_key_is_neither_taken_for_markup_nor_obeyed_by_the_terminal(tmp_path: Path) -> None:
    from rich.console import Console

    entries = {"a[/b]": ONE, "[red]c\\": {**ONE, "data_offsets": [4, 4], "shape": [0]},
               "d\x1b[2J\ud800": {**ONE, "data_offsets": [4, 4], "shape": [0]}}  # fmt: skip
    path = header(tmp_path / "m[i].safetensors", entries)
    out = io.StringIO()
    Console(file=out, width=200).print(tl.inspect_checkpoint(path).table())
    shown = out.getvalue()
    assert (
        all(name in shown for name in ("a[/b]", "[red]c\\", "m[i].safetensors", r"d\x1b[2J\ud800"))
        and "\x1b[2J" not in shown
    )
    with pytest.raises(TransferlabError) as raised:
        tl.load(path)
    str(raised.value).encode()


def test_a_torch_file_with_more_names_than_any_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pth"
    with zipfile.ZipFile(path, "w") as out:
        for i in range(200):
            out.writestr(f"archive/data/{i}", b"")
    monkeypatch.setattr(limits, "ZIP_MEMBERS", 10)
    with pytest.raises(TransferlabError, match=r"m\.pth lists [\d,]+ bytes of names"):
        read_any(path)
