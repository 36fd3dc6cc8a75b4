"""Loading a checkpoint of 1 B parameters in bfloat16: time and memory, against transformers' ``from_pretrained``.

    python experiments/benchmarks/loading.py [PARAMETERS]

Writes a random Llama of about that many parameters (1e9 by default) as Hugging Face does, in a temporary directory, and
loads it in turn with each side, every time in a process of its own. The file's pages are in the system's cache before the
first measurement. Four sides:

- ours, mapped: ``tl.load(dir, dtype="bfloat16")``, which checks every key and shape and reads no weight, then each leaf
  read once where it lies in the file: ``leaf.read()`` looks it through for NaN, two leaves at a time, as torch's maximum
  has two threads;
- ours, in memory: ``tl.load(dir, dtype="bfloat16").arrays``, every kernel in memory of its own, transposed to its layout,
  and looked through for NaN;
- peer, mapped: ``AutoModel.from_pretrained(dir, dtype=torch.bfloat16)``, whose parameters stay in the mapped file, with
  each read once (a maximum), since pages are fetched at the first touch;
- peer, in memory: the same, then each parameter copied out of the file, as ours are: what a file that may change, or a
  device, asks for.

Two peaks are printed. VmHWM is all that was resident, pages of the mapped file among them, which the system takes back at
will; RssAnon at its highest is what the process itself allocated. Both are beyond what the process had before it loaded.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transferlab.compute.host import large_pages

REPEATS, THREADS = 5, 2


def shape_for(parameters: float) -> dict:
    """A Llama of about this many parameters, in the proportions of Llama 3.2 1B."""
    width = max(64, round((parameters / 300) ** 0.5 / 64) * 64)
    return {
        "model_type": "llama", "architectures": ["LlamaModel"], "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": 16, "num_attention_heads": width // 64, "num_key_value_heads": max(1, width // 64),
        "head_dim": 64, "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "dtype": "bfloat16",
    }  # fmt: skip


def write(folder: Path, parameters: float) -> int:
    """Write config and weights; return the weights' bytes."""
    import ml_dtypes
    import numpy as np

    from transferlab.pretrained.formats.safetensors import write_weights
    from transferlab.pretrained.formats.tensors import LazyTensor

    c = shape_for(parameters)
    width, inner, keys = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"] * 64
    shapes = {"embed_tokens.weight": (c["vocab_size"], width), "norm.weight": (width,)}
    for i in range(c["num_hidden_layers"]):
        layer = f"layers.{i}."
        for name, rows in (("q", width), ("k", keys), ("v", keys)):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, width)
        shapes[f"{layer}self_attn.o_proj.weight"] = (width, width)
        shapes[f"{layer}mlp.gate_proj.weight"] = shapes[f"{layer}mlp.up_proj.weight"] = (inner, width)
        shapes[f"{layer}mlp.down_proj.weight"] = (width, inner)
        shapes[f"{layer}input_layernorm.weight"] = shapes[f"{layer}post_attention_layernorm.weight"] = (width,)
    rng = np.random.default_rng(0)
    block = (0.02 * rng.standard_normal(1 << 20, np.float32)).astype(ml_dtypes.bfloat16)

    def lazy(shape: tuple[int, ...]) -> LazyTensor:
        return LazyTensor(shape, block.dtype, lambda: np.resize(block, shape))

    tensors = {f"model.{key}": lazy(shape) for key, shape in shapes.items()}
    write_weights(folder, tensors, 1 << 62, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(c))
    return sum(tensor.nbytes for tensor in tensors.values())


def status(field: str) -> int:
    """Bytes of one field of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


class Anonymous(threading.Thread):
    """Watches what this process itself has allocated, 200 times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = status("RssAnon"), threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.005):
            self.peak = max(self.peak, status("RssAnon"))


def worker(name: str, folder: str, size: int) -> None:
    """Import, load once, and print seconds and peaks as JSON."""
    if name.startswith("ours"):
        import jax

        import transferlab as tl
        from transferlab.pretrained.leaves import LazyLeaf

        jax.block_until_ready(jax.numpy.zeros(1))

        # A name of the face is imported when it is first asked for: before the clock runs.
        open_source = tl.load

        def load() -> object:
            source = open_source(folder, dtype="bfloat16")
            if name == "ours, mapped":
                with ThreadPoolExecutor(THREADS) as threads:
                    return source, list(threads.map(LazyLeaf.read, source.leaves.values()))
            return jax.block_until_ready(source.arrays)

    else:
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        llama = transformers.LlamaModel

        def load() -> object:
            model = llama.from_pretrained(folder, dtype=torch.bfloat16)
            assert all(p.dtype == torch.bfloat16 for p in model.parameters())
            if name == "peer, in memory":
                for p in model.parameters():
                    p.data = p.data.clone()
            return model, sum(float(p.view(torch.int16).max()) for p in model.parameters())

    # A virtual machine that gives free memory back to its host pays for each page at its first touch; who runs after the
    # other had much of it would not. So each side finds as much as it needs just freed.
    subprocess.run([sys.executable, "-c", f"b'1' * {2 * size}"], check=True)
    before, anonymous = status("VmRSS"), status("RssAnon")
    watch = Anonymous()
    watch.start()
    started = time.perf_counter()
    kept = load()
    seconds = time.perf_counter() - started
    watch.done.set()
    watch.join()
    del kept
    print(json.dumps({"seconds": seconds, "peak": status("VmHWM") - before, "anonymous": watch.peak - anonymous}))


def main() -> None:
    """Measure both sides in turn and print a Markdown table."""
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parameters = float(sys.argv[1]) if len(sys.argv) > 1 else 1e9
    folder = Path(tempfile.mkdtemp(prefix="loading."))
    try:
        size = write(folder, parameters)
        rows: dict[str, list[dict]] = {
            "ours, mapped": [],
            "peer, mapped": [],
            "ours, in memory": [],
            "peer, in memory": [],
        }
        for _ in range(REPEATS):
            for name in rows:
                command = [sys.executable, __file__, "--worker", name, str(folder), str(size)]
                # As in pairs.py, what is ours gets the large pages that `transferlab run` gives itself.
                environment = {**os.environ, **(large_pages(os.environ) if name.startswith("ours") else {})}
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
                if done.returncode:
                    raise SystemExit(done.stderr)
                rows[name].append(json.loads(done.stdout.splitlines()[-1]))
    finally:
        shutil.rmtree(folder)
    print(f"{size / 2e6:,.0f} M parameters, {size / 1e9:.2f} GB in bfloat16; medians of {REPEATS}\n")
    print("| side | seconds | VmHWM, of the weights | RssAnon, of the weights |\n|---|---:|---:|---:|")
    for name, found in rows.items():
        middle = {field: statistics.median(row[field] for row in found) for field in found[0]}
        low, high = min(row["seconds"] for row in found), max(row["seconds"] for row in found)
        print(f"| {name} | {middle['seconds']:.2f} ({low:.2f}–{high:.2f}) | {middle['peak'] / size:.2f} | "
              f"{middle['anonymous'] / size:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
