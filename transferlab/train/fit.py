"""``fit_together``: from runs that are set up to results. Resume is the first thing tried."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from transferlab import trees
from transferlab.files import write_json
from transferlab.measure.metrics import scores
from transferlab.train.checkpoints import Checkpoints
from transferlab.train.identity import check_base, claim
from transferlab.train.interrupt import StopRequest
from transferlab.train.loop import Engine, Member, Resident, Streaming, train
from transferlab.train.program import State
from transferlab.train.result import Report, Result, read_result, write_predictions
from transferlab.train.run import Run
from transferlab.train.writers import MetricsWriter


def fit_together(runs: Sequence[Run], report: Report | None = None) -> list[Result]:
    """Fit many runs and return their results in order.

    Runs of one program on the same cached features (probes with other seeds, budgets or learning rates) are a
    *population*: they step together in one program. The others go one by one.

    Raises:
        TransferlabError, Interrupted: as ``Run.fit``.
    """
    results: dict[int, Result] = {}
    left: list[int] = []
    for i, run in enumerate(runs):
        if run.directory is not None:
            claim(run, run.directory)
            if (run.directory / "result.json").exists():
                results[i] = read_result(run.directory)
                continue
        left.append(i)
    shared: dict[int, dict[str, Any]] = {}
    groups: dict[tuple, list[tuple[int, Member, State]]] = {}
    for i in left:
        run = runs[i]
        if not run.resident:
            continue
        member, state = prepare(run, shared.setdefault(id(run.source), {}))
        drawn = {leaf.path for leaf in run.plan.leaves if leaf.action == "initialised"}
        # Members share their frozen leaves, so those may not depend on the seed.
        own = i if drawn & set(trees.flatten(member.frozen)) else -1
        mark = (id(run.program), member.key, run.settings.batch_size, int(state["step"]), own)
        groups.setdefault(mark, []).append((i, member, state))
    for group in groups.values():
        engine = Resident([member for _, member, _ in group], [state for _, _, state in group])
        for (i, _, _), result in zip(group, _fit(engine, report), strict=True):
            results[i] = result
    for i in left:
        if i not in results:
            results[i] = _fit(Streaming(*prepare(runs[i], {})), report)[0]
    return [results[i] for i in range(len(runs))]


def _fit(engine: Engine, report: Report | None) -> list[Result]:
    """Train an engine's members, and test each once."""
    members = engine.members
    program = members[0].run.program
    started, compiling = time.perf_counter(), program.compile_seconds
    with StopRequest() as stop:
        for member in members:
            member.writer = MetricsWriter(member.run.directory, engine.done)
        try:
            train(engine, stop, report)
        finally:
            for member in members:
                member.writer.close()
    states = {i: _chosen(member, engine.state(i)) for i, member in enumerate(members)}
    elapsed = time.perf_counter() - started - (program.compile_seconds - compiling)
    probabilities = engine.predict({i: member.run.data.test for i, member in enumerate(members)}, states)
    out = []
    for i, member in enumerate(members):
        if member.checkpoints is not None:
            member.checkpoints.close()
        run, seconds = member.run, elapsed / len(members) + member.before
        memory = _memory(member, states[i])
        out.append(_finish(run, states[i], probabilities[i], member.writer.rows, seconds, len(members), memory))
    return out


def _chosen(member: Member, last: State) -> State:
    """The state to test: the best on the validation split where there is one, else the last."""
    return last if member.best is None else jax.tree.map(jnp.asarray, member.best[2])


def prepare(run: Run, shared: dict[str, Any]) -> tuple[Member, State]:
    """Place the leaves, compute what the frontier cache lacks, and restore a checkpoint if there is one."""
    started, compiling = time.perf_counter(), run.program.compile_seconds
    run.flops = 0.0
    params, stats = run._plan.place(run.seeds.initialisation, shared)
    trainable, frozen = trees.split_by(params, run.program.paths)
    key = run.features(params, stats) if run.decision.cached else None
    state = run.program.initial(trainable, stats)
    checkpoints = Checkpoints(run.directory / "checkpoints") if run.directory is not None else None
    needed = trees.cast(run.program.needed(frozen), run.settings.precision)
    member = Member(run, needed, key, MetricsWriter(None), checkpoints)
    if checkpoints is not None and (last := checkpoints.last) is not None:
        meta = checkpoints.meta(last)
        check_base(run, meta)
        best, like = checkpoints.best, state
        assert best is not None
        state = checkpoints.restore(last, like)
        member.before, member.pending, run.flops = meta["seconds"], list(meta["pending"]), meta["flops"]
        if (score := checkpoints.meta(best).get("score")) is not None:
            kept = state if best == last else checkpoints.restore(best, like)
            member.best = (score, best, jax.tree.map(np.array, kept), checkpoints.meta(best))
    member.before += time.perf_counter() - started - (run.program.compile_seconds - compiling)
    return member, state


def _memory(member: Member, state: State) -> dict[str, int]:
    """Bytes by what they are for; ``activations`` holds the gradients too, as XLA counts what is temporary."""
    program = member.run.program
    return {
        "frozen": trees.nbytes(member.frozen),
        "trainable": trees.nbytes(state["params"]),
        "optimizer": sum(trees.leaf_bytes(leaf) for leaf in jax.tree.leaves(state["optimizer"])),
        "activations": max(program.step.temporary_bytes, program.population.temporary_bytes),
    }


def _finish(
    run: Run, trained: State, probabilities: Float[np.ndarray, "n labels"], history: list[dict[str, Any]],
    seconds: float, together: int, memory: dict[str, int],
) -> Result:  # fmt: skip
    test = scores(probabilities, run.data.labels[run.data.test])
    program = run.program
    record = {
        "method": run.method.name,
        "examples": len(run.data.train) + len(run.data.validation),
        "test": test,
        "trainable_parameters": run._plan.trainable_parameters,
        "flops": run.flops + run.decision.flops_per_example * len(run.data.train),
        "seconds": seconds,
        "together": together,
        "memory": memory,
        "steps": run.steps,
        "compilations": program.step.compilations + program.population.compilations,
        "truncated": run.feed.truncated(np.concatenate([run.data.train, run.data.test])),
        "settings": asdict(run.settings),
    }
    if run.directory is not None:
        write_predictions(run.directory, run.data, probabilities)
        # Written last: its presence is what says that the run is finished.
        write_json(run.directory / "result.json", record)
        if not run.keep_weights:
            shutil.rmtree(run.directory / "checkpoints", ignore_errors=True)

    def tree() -> trees.Tree:
        params = run._plan.place(run.seeds.initialisation)[0]
        return trees.join(trained["params"], trees.split_by(params, program.paths)[1])

    return Result(test, probabilities, history, record, tree)
