"""``inspect``: any checkpoint's tree, by readable paths where the family is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import transferlab as tl
from transferlab.errors import TransferlabError
from transferlab.pretrained.inspection import inspect_checkpoint
from transferlab.train import Settings


def test_a_known_family_is_shown_by_our_paths(bert_folder: Path) -> None:
    seen = {path: (shape, key) for path, shape, _, key in inspect_checkpoint(bert_folder).rows}
    assert seen["layers/1/mlp/up/kernel"] == ((16, 24), "encoder.layer.1.intermediate.dense.weight")


def test_a_bare_file_and_an_unknown_family_can_be_seen(bert_folder: Path, tmp_path: Path) -> None:
    want = "encoder.layer.1.intermediate.dense.weight"
    assert want in {row[0] for row in inspect_checkpoint(bert_folder / "model.safetensors").rows}
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "model.safetensors").write_bytes((bert_folder / "model.safetensors").read_bytes())
    (stranger / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    assert want in {row[0] for row in inspect_checkpoint(stranger).rows}


def test_a_run_is_shown_with_what_it_trained(source, films, tmp_path: Path) -> None:
    settings = Settings(steps=2, batch_size=8, learning_rate=1e-2)
    tl.adapt(
        source, films.subset(16, 0), method=tl.methods.Probe(), settings=settings, directory=tmp_path / "run"
    ).fit()
    rows = {path: shape for path, shape, _, _ in inspect_checkpoint(tmp_path / "run").rows}
    assert rows["params/head/kernel"] == (16, 2)
    assert not any("layers" in path for path in rows)


def test_anything_but_a_checkpoint_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(TransferlabError, match="Unknown model 'nothing'"):
        inspect_checkpoint("nothing")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(TransferlabError, match="holds no finished checkpoint"):
        inspect_checkpoint(tmp_path)


def test_the_table_counts_what_the_file_holds(bert_folder: Path) -> None:
    seen = inspect_checkpoint(bert_folder)
    total = sum(int(np.prod(shape)) for _, shape, _, _ in seen.rows)
    assert f"{len(seen.rows)} tensors, {total:,} elements" in str(seen.table().caption)
    assert len(seen.to_dict()["tensors"]) == len(seen.rows)


def test_an_orbax_tree_with_lists_is_shown(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as writer:
        writer.save(
            tmp_path / "tree", {"layers": [{"kernel": np.ones((2, 3), np.float32)}, {"kernel": np.zeros((4,))}]}
        )
    rows = {path: shape for path, shape, _, _ in inspect_checkpoint(tmp_path / "tree").rows}
    assert rows == {"layers/0/kernel": (2, 3), "layers/1/kernel": (4,)}
