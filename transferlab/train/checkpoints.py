"""Checkpoints of what trains, with a reference to its base: written in the background, and verified before they are used."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from transferlab import trees
from transferlab.errors import TransferlabError
from transferlab.files import DiskFull, atomic_directory, drop_litter, is_full, remove, remove_directory, write_json
from transferlab.manifest import MANIFEST, Damaged, check_manifest, write_manifest
from transferlab.pretrained.formats.orbax import plain_path, read_tree, write_tree
from transferlab.reading import read_json
from transferlab.train.state import State, evaluated, named_leaves

# Orbax also logs the trace of each error that it raises: a full disk should be one clear error.
logging.getLogger("absl").setLevel(logging.CRITICAL)
_LOG = logging.getLogger(__name__)

META = "meta/metadata"


class Checkpoints:
    """The checkpoints of one run: ``tree`` (params, stats, optimizer, step), which Orbax writes, and ``meta`` (JSON).

    Each is a directory named by its step, with a manifest of its files. It is renamed to that name when all of it is on disk,
    so that a killed writer or a power failure leaves nothing that looks finished. A run keeps its two newest and its two best,
    so that after the loss of any one of them it continues from another as if it had been killed then; a finished run keeps
    its newest and its best.

    Raises:
        TransferlabError: a path that Orbax cannot use.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._metas: dict[int, dict[str, Any]] = {}
        self._damaged: dict[int, str] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._written: Future[None] | None = None
        self._unverified = False
        with plain_path(directory):
            pass

    # -----------------------------------------------------------------------------------------------------------

    def save(self, state: State, meta: dict[str, Any], score: float | None) -> None:
        """Copy the state to the host and write it in the background, after the previous write has finished.

        Raises:
            TransferlabError: a write failed (full disk); earlier checkpoints are untouched.
        """
        # The state is donated to the next step, and on CPU a host view would share its memory: copy.
        tree = jax.tree.map(lambda x: np.array(x, copy=True), to_plain(state))
        step = int(tree["step"])
        self._wait()
        if step in self.steps and self._whole(step):
            return
        meta = {**meta, "score": score}
        scored = self._scores() | ({} if score is None else {step: score})
        # The best step so far is part of the checkpoint: a run continued without it could end differently.
        meta["best"] = max(scored, key=lambda one: scored[one]) if scored else None
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._written = self._threads.submit(self._write, step, tree, meta)

    def _write(self, step: int, tree: trees.Tree, meta: dict[str, Any]) -> None:
        path = self.directory / str(step)
        self._drop_old_litter()
        if path.is_dir():
            remove_directory(path)
        else:
            remove(path)
        with atomic_directory(path) as folder:
            (folder / META).parent.mkdir()
            write_json(folder / META, meta)
            write_tree(folder / "tree", tree)
            write_manifest(folder)
        self._damaged.pop(step, None)
        self._metas[step] = meta
        self._keep(latest=2, best=2)

    def _drop_old_litter(self) -> None:
        """Remove what killed writers left, also those of earlier versions, in which Orbax wrote the whole checkpoint."""
        if self.directory.is_dir():
            drop_litter(self.directory)
            for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
                remove(path)

    def _keep(self, latest: int, best: int) -> None:
        """Remove all but the newest and the best of those that are not known to be damaged."""
        steps = sorted(set(self.steps) - self._damaged.keys(), reverse=True)
        scores = self._scores()
        scored = sorted(scores, key=lambda step: scores[step], reverse=True)
        for step in set(self.steps) - {*steps[:latest], *scored[:best]}:
            remove_directory(self.directory / str(step))
            self._metas.pop(step, None)

    def _scores(self) -> dict[int, float]:
        """Validation scores by step, of those that have one and are not known to be damaged."""
        scores = {}
        for step in set(self.steps) - self._damaged.keys():
            with suppress(Damaged):
                scores[step] = self.meta(step).get("score")
        return {step: score for step, score in scores.items() if score is not None}

    def _wait(self) -> None:
        written, self._written = self._written, None
        if written is not None:
            with _disk_errors(self):
                written.result()

    def close(self) -> None:
        """Wait for the last write.

        Raises:
            TransferlabError: it failed.
        """
        try:
            self._wait()
        finally:
            if self._threads is not None:
                self._threads.shutdown()
                self._threads = None

    def finish(self) -> None:
        """Keep only what a finished run needs: the newest and the best."""
        self._keep(latest=1, best=1)

    # -----------------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> list[int]:
        """Steps that have a directory with part of a checkpoint; other directories are ignored."""
        if not self.directory.is_dir():
            return []
        parts = (META.partition("/")[0], "tree", MANIFEST)
        numbers = [
            path for path in self.directory.iterdir() if path.name.isdecimal() and str(int(path.name)) == path.name
        ]
        return sorted(int(path.name) for path in numbers if any((path / part).exists() for part in parts))

    @property
    def last(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return next((step for step in reversed(self.steps) if self._whole(step)), None)

    def latest(self) -> tuple[int, int | None] | None:
        """Where to continue: the newest step whose checkpoint, and that of the best step until then, are whole; and that best.

        None where there are no checkpoints. Damaged ones are skipped, which is logged.

        Raises:
            TransferlabError: there are checkpoints, but none is whole; each is named.
        """
        whole: dict[int, str] = {}
        for step in reversed(self.steps):
            if not self._whole(step):
                continue
            best = self._best_at(step)
            if best is None or (best in self.steps and self._whole(best)):
                # Checkpoints after the step from which the run continues are written again.
                self._damaged |= whole
                return step, best
            whole[step] = f"{self.directory / str(best)}, the best until then, is lost."
            _LOG.warning(
                "The checkpoint of step %d in %s is not used: that of step %d, the best until then, is lost.",
                step, self.directory, best,
            )  # fmt: skip
        if not self.steps:
            return None
        if not whole:
            raise TransferlabError(
                f"No checkpoint in {self.directory} is whole: {' '.join(map(str, self._damaged.values()))} Restore one from "
                f"a copy, or delete {self.directory} to train from the beginning."
            )
        step = max(whole)
        _LOG.warning(
            "No older checkpoint in %s can be used: the run continues after step %d, and its best state will be a "
            "later one.", self.directory, step,
        )  # fmt: skip
        return step, None

    def chosen(self) -> int | None:
        """Step of a finished run's final state: the best by validation, or else the newest; None without checkpoints.

        Raises:
            TransferlabError: its checkpoint is damaged; any other would be another model.
        """
        if not (steps := self.steps):
            return None
        try:
            last = steps[-1]
            best = self._best_at(last)
            step = last if best is None else best
            if step not in steps:
                raise Damaged(f"{self.directory / str(step)} is missing.")
            self._check(step)
        except Damaged as error:
            raise TransferlabError(
                f"{error} This run's weights are lost, but not its predictions. Restore the file from a copy, or delete "
                f"{self.directory.parent} and train again."
            ) from None
        return step

    def _best_at(self, step: int) -> int | None:
        """The step with the best validation up to this one; None where nothing was scored."""
        meta = self.meta(step)
        if "best" in meta:
            return meta["best"]
        # Earlier versions did not record it: they kept the newest, and the one with the highest score.
        scores = {number: score for number, score in self._scores().items() if number <= step}
        return max(scores, key=lambda number: scores[number]) if scores else None

    def _whole(self, step: int) -> bool:
        """Whether a checkpoint can be used; a damaged one is logged once."""
        if step in self._damaged:
            return False
        try:
            self._check(step)
        except Damaged as error:
            self._damaged[step] = str(error)
            _LOG.warning("The checkpoint of step %d is damaged and not used: %s", step, error)
            return False
        return True

    def _check(self, step: int) -> None:
        """Compare a checkpoint's files with its manifest, once."""
        if step in self._metas:
            return
        place = self.directory / str(step)
        if not check_manifest(place):
            if not self._unverified:
                _LOG.warning("%s has no manifest, so it cannot be checked for damage.", place)
            self._unverified = True
            self._tree(step)
        self._metas[step] = self.meta(step)

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON part alone.

        Raises:
            Damaged: it was changed since it was written, or cannot be read.
        """
        if step in self._metas:
            return self._metas[step]
        place = self.directory / str(step)
        check_manifest(place, lambda name: name == META)
        try:
            meta = read_json(place / META)
        except (TransferlabError, OSError) as error:
            raise Damaged(f"{place / META} cannot be read ({error}).") from None
        if not isinstance(meta, dict):
            raise Damaged(f"{place / META} is damaged: it is not a JSON object.")
        return meta

    def _tree(self, step: int) -> trees.Tree:
        path = self.directory / str(step) / "tree"
        try:
            return read_tree(path)
        except TransferlabError:
            raise
        except Exception as error:
            raise Damaged(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]}).") from None

    def restore(self, step: int, like: State) -> State:
        """Return the state at ``step``.

        Raises:
            TransferlabError: its structure, shapes or dtypes are not those of ``like``; the leaves that differ are named.
            Damaged: it cannot be read.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), to_plain(like))
        self._check(step)
        saved = self._tree(step)
        want, got = trees.flatten(abstract), trees.flatten(saved)
        problems = [f"'{p}' is missing" for p in want.keys() - got.keys()]
        problems += [f"'{p}' is not a leaf of this run" for p in got.keys() - want.keys()]
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
        self._check(step)
        saved = self._tree(step)
        return evaluated(cast(State, saved)), saved.get("stats", {})


class _disk_errors:
    """Turn a failed write into one clear error."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or (
            isinstance(error, TransferlabError) and not isinstance(error, DiskFull)
        ):
            return
        text = str(error)
        full = is_full(error) or any(
            phrase in text for phrase in ("No space left", "Disk quota", "File too large", "RESOURCE_EXHAUSTED")
        )
        if full or isinstance(error, OSError):
            cause = "the disk is full" if full else text.splitlines()[0]
            earlier = "Earlier checkpoints are whole: make" if self.checkpoints.steps else "Make"
            raise TransferlabError(
                f"A checkpoint could not be written to {self.checkpoints.directory}: {cause}. {earlier} room and start the same "
                "command again."
            ) from error


def to_plain(state: State) -> trees.Tree:
    """Return the state as nested dicts of arrays: the optimizer's tuples become readable keys; empty parts are omitted."""
    plain = {**state, "optimizer": trees.unflatten(dict(named_leaves(state["optimizer"])))}
    return {name: part for name, part in plain.items() if not isinstance(part, dict) or part}


def from_plain(plain: trees.Tree, like: State) -> State:
    """Undo :func:`to_plain`, by path."""
    flat = trees.flatten(plain.get("optimizer", {}))
    structure = jax.tree.structure(like["optimizer"])
    leaves = [flat[name] for name, _ in named_leaves(like["optimizer"])]
    out = {**plain, "stats": plain.get("stats", {}), "optimizer": jax.tree.unflatten(structure, leaves)}
    return jax.tree.map(jax.numpy.asarray, out)
