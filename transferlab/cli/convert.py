"""``transferlab convert`` and ``export``: from any format that can be read to any that can be written."""

from __future__ import annotations

import re
from pathlib import Path

from transferlab.cli.predict import best_run
from transferlab.errors import TransferlabError, nearest
from transferlab.methods.adapted import Adapted, load_adapter
from transferlab.pretrained.export_formats import FORMATS, READERS, default_format
from transferlab.pretrained.loading import load
from transferlab.pretrained.writing import save

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def open_any(name: str) -> Adapted:
    """Open a run, a study (its best run), a PEFT adapter on its base, or anything that ``tl.load`` takes."""
    path = Path(name).expanduser()
    if (path / "run.json").exists() or (path / "runs").is_dir():
        from transferlab.train.predictor import open_run

        return open_run(best_run(path)).adapted
    if (path / "adapter_config.json").exists():
        return load_adapter(path)
    return Adapted(load(name))


def convert(name: str, target: str, form: str | None, dtype: str | None, shard_size: str, overwrite: bool) -> str:
    """Write ``name`` to ``target``; return a sentence on what was written."""
    choices = (*FORMATS, "peft")
    if form is not None and form not in choices:
        raise TransferlabError(f"The format '{form}' cannot be written.{nearest(form, choices)}")
    adapted = open_any(name)
    if form == "peft":
        if not adapted.pairs:
            raise TransferlabError(f"{name} has no adapters; a PEFT directory holds nothing else.")
        adapted.save_adapter(target, overwrite=overwrite)
        return f"{len(adapted.pairs)} adapters for {adapted.source.name} are in {target}."
    source = adapted.merged()
    form = default_format(source) if form is None else form
    save(source, target, format=form, dtype=dtype, shard_bytes=size_in_bytes(shard_size), overwrite=overwrite)
    merged = f", {len(adapted.pairs)} adapters merged" if adapted.pairs else ""
    return f"{source.family}, {len(source.leaves)} tensors{merged}, for {READERS[form]}: {target}."


def size_in_bytes(text: str) -> int:
    """Return the number of bytes in ``5GB`` or ``200MiB``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match.group(2).upper() not in _UNITS:
        raise TransferlabError(f"'{text}' is not a size; write it as 5GB or 200MiB.")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])
