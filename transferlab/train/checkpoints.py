"""Checkpoints with Orbax: asynchronous, the best and the last; what trains, and a reference to the base it stands on."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.files import reading
from transferlab.train.program import State, evaluated

# Orbax logs the trace of each error that it also raises: a full disk is one clear error.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class Checkpoints:
    """The checkpoints of one run.

    Each is a directory named by its step that Orbax commits by renaming, so that a killed writer leaves nothing that
    looks finished. It holds ``tree`` (params, stats, optimizer, step) and ``meta`` (JSON).
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._manager = ocp.CheckpointManager(
            directory.resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(
                    [
                        managers.LatestN(1),
                        managers.BestN(get_metric_fn=lambda m: m["score"], n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                best_fn=lambda m: m["score"],
                enable_async_checkpointing=True,
            ),
        )

    def save(self, state: State, meta: dict[str, Any], score: float | None) -> None:
        """Copy the state to the host and write it in the background; waits for the write before it, if one is going on.

        Raises:
            TransferlabError: a write failed (full disk); earlier checkpoints are untouched.
        """
        # The state is donated to the next step, and on CPU a host view would share its memory: copy.
        tree = jax.tree.map(lambda x: np.array(x, copy=True), to_plain(state))
        args = ocp.args.Composite(tree=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
        step = int(tree["step"])
        with _disk_errors(self.directory):
            self._manager.wait_until_finished()
            if step in self._manager.all_steps():
                return
            self._manager.save(step, args=args, metrics=None if score is None else {"score": float(score)}, force=True)

    def close(self) -> None:
        """Wait, and let go of Orbax' threads."""
        with _disk_errors(self.directory):
            self._manager.wait_until_finished()
        self._manager.close()

    @property
    def last(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the one with the highest score, or the newest where none has a score."""
        step = self._manager.best_step()
        return self.last if step is None else step

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON part alone."""
        with reading(self.directory / str(step), "meta"):
            return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(self, step: int, like: State) -> State:
        """Return the state at ``step`` with the structure, shapes and dtypes of ``like``; a difference is an error."""
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), to_plain(like))
        with reading(self.directory / str(step), "tree"):
            saved = self._manager.restore(step, args=ocp.args.Composite(tree=ocp.args.StandardRestore()))["tree"]
        want, got = trees.flatten(abstract), trees.flatten(saved)
        problems = [f"'{p}' is missing" for p in want.keys() - got.keys()]
        problems += [f"'{p}' is unknown" for p in got.keys() - want.keys()]
        problems += [
            f"'{p}' is {got[p].shape} {got[p].dtype}, expected {want[p].shape} {want[p].dtype}"
            for p in want.keys() & got.keys()
            if tuple(got[p].shape) != tuple(want[p].shape) or got[p].dtype != want[p].dtype
        ]
        if problems:
            raise TransferlabError(f"{self.directory}/{step} does not fit this run: " + "; ".join(sorted(problems)[:8]))
        return from_plain(saved, like)

    def weights(self, step: int) -> tuple[trees.Tree, trees.Tree]:
        """Return (trained params or their moving average, batch statistics) as they were saved."""
        with reading(self.directory / str(step), "tree"):
            saved = self._manager.restore(step, args=ocp.args.Composite(tree=ocp.args.StandardRestore()))["tree"]
        return evaluated(saved), saved.get("stats", {})


class _disk_errors:
    """Turn a failed write into one clear error."""

    def __init__(self, directory: Path):
        self.directory = directory

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, TransferlabError) or not isinstance(error, Exception):
            return
        text = str(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
            words in text for words in ("No space left", "Disk quota", "File too large", "RESOURCE_EXHAUSTED")
        )
        if full or isinstance(error, OSError):
            why = "the disk is full" if full else text.splitlines()[0]
            raise TransferlabError(
                f"A checkpoint could not be written to {self.directory}: {why}. Earlier checkpoints are whole: "
                "make room and start the same command again."
            ) from error


def to_plain(state: State) -> trees.Tree:
    """Return the state as nested dicts of arrays: the optimizer's tuples become readable keys; empty parts are left out."""
    plain = {**state, "optimizer": trees.unflatten(dict(_named(state["optimizer"])))}
    return {name: part for name, part in plain.items() if not isinstance(part, dict) or part}


def from_plain(plain: trees.Tree, like: State) -> State:
    """Undo :func:`to_plain`, by path."""
    flat = trees.flatten(plain.get("optimizer", {}))
    structure = jax.tree.structure(like["optimizer"])
    leaves = [flat[name] for name, _ in _named(like["optimizer"])]
    out = {**plain, "stats": plain.get("stats", {}), "optimizer": jax.tree.unflatten(structure, leaves)}
    return jax.tree.map(jax.numpy.asarray, out)


def _named(tree: Any) -> list[tuple[str, Any]]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return [("/".join(_part(key) for key in path), leaf) for path, leaf in pairs]


def _part(key: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)
