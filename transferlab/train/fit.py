"""``fit_together``: from runs that are set up to results. Resuming is tried first.

A run's directory is absent; set up (``run.json``); being trained (``.lock`` is held); interrupted (checkpoints without
``result.json``), and continued; or ended: ``result.json``, whose ``status`` says whether it finished or diverged. A run that has
ended is read and never trained again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from transferlab import trees
from transferlab.compute.devices import cpu_device
from transferlab.compute.host import interruptible
from transferlab.errors import TransferlabError, check_arguments, shown
from transferlab.files import file_lock, remove_directory, write_json
from transferlab.measure.named import say_undefined
from transferlab.pretrained.network_source import NetworkSource
from transferlab.reading import reading
from transferlab.tasks.base import Predictions
from transferlab.tasks.prediction import all_finite
from transferlab.train.divergence import FINISHED, drop_checkpoints, sentence
from transferlab.train.engines import Engine
from transferlab.train.grouping import engines_for, group_compatible, group_concurrent
from transferlab.train.identity import check_base, text_column, write_or_verify
from transferlab.train.interrupt import Interrupted, StopRequest
from transferlab.train.line import drawn
from transferlab.train.loop import train
from transferlab.train.member import Member, pending_metrics
from transferlab.train.memory import fit_to_memory
from transferlab.train.predictor import predictor_of
from transferlab.train.program import ANCHORS
from transferlab.train.progress import Progress
from transferlab.train.result import Report, Result, raise_diverged, read_result, write_predictions
from transferlab.train.setup import Setup
from transferlab.train.state import State, evaluated, next_phase
from transferlab.train.writers import MetricsWriter

if TYPE_CHECKING:
    from transferlab.train.checkpoints import Checkpoints


@check_arguments
@interruptible()
def fit_together(runs: Sequence[Setup], report: Report | None = None, quiet: bool = False) -> list[Result]:
    """Fit many runs and return their results in order. See :meth:`transferlab.train.Run.fit` for one.

    Example:
        >>> runs = [tl.adapt(source, data, method=tl.methods.Probe(), seed=seed) for seed in range(5)]
        >>> [result.test["accuracy"] for result in tl.fit_together(runs)]

    Runs of one program that read the same cached features (probes with other seeds, budgets or learning rates) are a
    *population* and step together. Runs that each have their own batches (LoRA with other learning rates) step together on
    an accelerator, where timing them shows a gain; on CPU they train in pairs, in two threads, where memory holds two. All
    others train one after another. ``Settings.vectorize`` overrides that.

    A run that diverges ends there, and the others are trained to their ends.

    Args:
        runs: from :func:`transferlab.adapt`; those with directories need one each.
        report: called with (step, steps in all, newest metrics) as training proceeds, in place of the line.
        quiet: whether to show no line, which a terminal or a notebook has while it trains.

    Raises:
        Diverged: at least one run did; all results are in its ``results``, in order.
        TransferlabError, Interrupted: like :meth:`transferlab.train.Run.fit`.
    """
    if not isinstance(runs, Sequence) or not all(isinstance(run, Setup) for run in runs):
        raise TransferlabError(
            f"runs is {shown(runs)}; pass a list of runs: tl.fit_together([tl.adapt(source, data)])."
        )
    if report is not None and not callable(report):
        raise TransferlabError(
            f"report is {shown(report)}; pass a function, as lambda step, steps, metrics: print(step). How long it trains is a setting: "
            "tl.adapt(source, data, settings=tl.train.Settings(epochs=3))."
        )
    progress = Progress(len(runs))
    with nullcontext() if quiet or report is not None else drawn(progress.line):
        results = fit_each(runs, report, progress)
    raise_diverged(
        results,
        {
            i: sentence(result.diverged, runs[i].settings, runs[i].directory)
            for i, result in enumerate(results)
            if result.diverged is not None
        },
    )
    return results


def fit_each(runs: Sequence[Setup], report: Report | None = None, progress: Progress | None = None) -> list[Result]:
    """Like :func:`fit_together`, but runs that diverged have a result too, whose ``status`` says so, and nothing is drawn."""
    progress = progress or Progress(len(runs))
    results: dict[int, Result] = {}
    pending: list[int] = []
    with ExitStack() as locks:
        for i, run in enumerate(runs):
            if run.directory is not None:
                write_or_verify(run, run.directory)
                busy = f"Another process is training the run in {run.directory}."
                locks.enter_context(file_lock(run.directory / ".lock", busy))
                if (run.directory / "result.json").exists():
                    results[i] = read_result(
                        run.directory, run.source if isinstance(run.source, NetworkSource) else None
                    )
                    continue
            pending.append(i)
        results |= _fit_pending(runs, pending, report, progress)
    return [results[i] for i in range(len(runs))]


def _fit_pending(
    runs: Sequence[Setup], pending: Sequence[int], report: Report | None, progress: Progress
) -> dict[int, Result]:
    """Fit the runs with these indices."""
    results: dict[int, Result] = {}
    shared: dict[int, dict[Any, Any]] = {}
    for group in group_concurrent(runs, pending):
        if len(group) == 1:
            # A single run keeps no copy of the base in addition to its state, nor those of earlier groups.
            shared.clear()
        ready = []
        for i in group:
            phase = _begun(runs[i])
            progress.prepares(phase, i)
            ready.append((i, *prepare(phase, _base(shared, runs[i]) if len(group) > 1 else {}, progress)))
        # Once for each phase that is left: a run has one, unless its method has several.
        while ready:
            following = []
            for part in group_compatible(ready):
                for engine, numbers in engines_for(part):
                    progress.trains(engine, numbers)
                    for i, outcome in zip(numbers, _fit(engine, report, progress), strict=True):
                        if isinstance(outcome, Result):
                            results[i] = outcome
                        else:
                            following.append((i, *outcome))
            ready = []
            for i, member, state in following:
                phase, base = _next(member.run), _base(shared, runs[i]) if len(group) > 1 else {}
                progress.prepares(phase, i)
                ready.append((i, *prepare(phase, base, progress, (member, state))))
    return results


def _begun(run: Setup) -> Setup:
    """The phase that a run continues with: that of its newest whole checkpoint, or the first."""
    phases = run.phases
    if len(phases) == 1 or (checkpoints := _checkpoints(run)) is None or (steps := checkpoints.latest()) is None:
        return phases[0]
    with reading(f"{run.directory}/checkpoints"):
        return phases[int(checkpoints.meta(steps[0])["phase"])]


def _next(phase: Setup) -> Setup:
    assert phase.phase is not None
    return phase.whole.phases[phase.phase + 1]


def _base(shared: dict[int, dict[Any, Any]], run: Setup) -> dict[Any, Any]:
    """Leaves of the run's source that are in memory already."""
    return shared.setdefault(id(run.source), {})


def _fit(engine: Engine, report: Report | None, progress: Progress) -> list[Result | tuple[Member, State]]:
    """Train an engine's members through their phase, and test each once if it is the last; else return (member, its state)."""
    members = engine.members
    going_on = members[0].run.span[1] < members[0].run.steps
    with StopRequest() as stop, ExitStack() as leaving:
        for member in members:
            leaving.callback(_drop_diverged, member)
            # However this ends, each member's last checkpoint is completed.
            if member.checkpoints is not None:
                leaving.callback(member.checkpoints.close)
            rows = member.writer.rows
            member.writer = MetricsWriter(member.run.directory, engine.done)
            if member.run.directory is None:
                member.writer.rows += rows  # of earlier phases
            leaving.callback(member.writer.close)
        ended: dict[int, Result] = {}

        def diverged(i: int) -> None:
            # Recorded at once: whatever happens to the others, this run is not trained again.
            ended[i] = _give_up(members[i], len(members), asdict(engine.memory(i)))

        train(engine, stop, report, diverged)
        if going_on and stop.asked and len(ended) < len(members):
            raise Interrupted(f"Stopped after step {engine.done} of {members[0].planned}.")
    if going_on:
        return [ended.get(i) or (member, engine.state(i)) for i, member in enumerate(members)]
    if len(ended) < len(members):
        progress.tests(engine)
        states = {i: _chosen(member, engine.state(i)) for i, member in enumerate(members)}
        predictions = engine.predict({i: member.run.data.test for i, member in enumerate(members)}, states)
        for i, member in enumerate(members):
            if member.diverged is None and not all_finite(predictions[i]):
                member.diverge(member.total, "the predictions for the test split are not finite", member.total)
                diverged(i)
                _drop_diverged(member)
            if member.diverged is None:
                ended[i] = _finish(member, states[i], predictions[i], len(members), asdict(engine.memory(i)))
    return [ended[i] for i in range(len(members))]


def _chosen(member: Member, last: State) -> State:
    """The state to test: the best on the validation split where there is one, else the last."""
    run = member.run
    undefined = len(run.data.validation) > 0 and member.highest is None and member.diverged is None
    if undefined and run.settings.keep == "best":
        say_undefined(run.task.chooses, "no validation has a value of it to choose by, so that the last state is kept")
    return last if member.best is None else jax.tree.map(jnp.asarray, member.best[2])


def prepare(
    run: Setup, shared: dict[Any, Any], progress: Progress | None = None, before: tuple[Member, State] | None = None
) -> tuple[Member, State]:
    """Return the run as a member, and the state from which it trains.

    A run begins with the first of these that exists:

    1. Its own result, which is read: then :func:`fit_each` does not call this.
    2. Its newest checkpoint, of an interrupted run: what trains, the optimizer's state and the step, on the base of 3.
    3. Its source: leaves that are copied, resized or derived, as the plan says.
    4. Random numbers: leaves that the plan says are initialised; in a scratch arm all of them.

    Args:
        run: what trains; of a run with several phases, one of its ``phases``.
        shared: leaves that are in memory already, of runs that train at the same time; newly placed ones are added.
        progress: of the fit, which is told of features that are computed.
        before: the run after the phase before this one, whose leaves and moments are taken over.
    """
    # A step that would not fit is computed in another way. This comes first, since it decides the program.
    if not run.features_on_device:
        fit_to_memory(run)
    started = run.program.clock()
    key = run.cached_features_key() if run.decision.cached else None
    # Members whose features are known start on the host, where they are stacked: they are small, and many.
    cpu = cpu_device() if run.features_on_device and key is not None and jax.default_backend() != "cpu" else None
    shared = shared if cpu is None else shared.setdefault("host", {})
    member = Member(run, {}, key, MetricsWriter(None), _checkpoints(run))
    with nullcontext() if cpu is None else jax.default_device(cpu):
        # 3 and 4. Parameters and batch statistics; leaves that the cache makes unnecessary are not read.
        params, stats = run.plan.place(
            run.seeds.initialisation, shared, None if key is None else run.program.entering | run.settled
        )
        anchors = {ANCHORS: run.program.anchors(params)} if run.program.penalties else {}
        if before is not None:
            params, stats = _overlaid(params, before[1]), before[1]["stats"]
        # The optimizer's state, for the leaves that train.
        state = _initial(run, params, stats)
        if before is not None:
            state = _go_on(member, next_phase(state, before[1]), before[0])
        else:
            # 2. An interrupted run takes its whole state from its checkpoint.
            state = _resume(member, state)
            if "settled" in state:
                params = _overlaid(params, state)
        _, frozen = trees.split_by(params, {*run.program.paths, *run.settled})
        # Features at the frontier, which need the frozen leaves before it.
        if key is None and run.decision.cached:
            member.key = run.compute_features(params, state["stats"], (progress or Progress()).features(run.program))
    needed = {**_cast(run.program.needed(frozen), run.settings.precision, shared), **anchors}
    member.frozen = needed if cpu is None else jax.device_put(jax.device_get(needed))
    member.seconds += run.program.clock() - started
    return member, state


def _initial(run: Setup, params: trees.Tree, stats: trees.Tree) -> State:
    """The state before a phase, with an optimizer's state that has seen nothing."""
    trainable, _ = trees.split_by(params, run.program.paths)
    state = run.program.initial(trainable, stats)
    if run.settled:
        leaves = trees.flatten(params)
        # Copied, as what trains: the state is donated to the step.
        state["settled"] = trees.unflatten({path: jnp.copy(leaves[path]) for path in sorted(run.settled)})
    return state


def _overlaid(params: trees.Tree, state: State) -> trees.Tree:
    """All parameters, those that a state has with its values: not their averages, from which nothing goes on."""
    own = trees.flatten(trees.join(state["params"], state.get("settled", {})))
    return trees.unflatten({path: own.get(path, leaf) for path, leaf in trees.walk(params)})


def _go_on(member: Member, state: State, before: Member) -> State:
    """Take over from the phase before what a run counts."""
    member.seconds, member.flops = before.seconds, before.flops
    member.writer, member.learning_rate = before.writer, before.learning_rate
    return state


def _checkpoints(run: Setup) -> Checkpoints | None:
    if run.directory is None:
        return None
    # Orbax is imported only where there is something to keep.
    from transferlab.train.checkpoints import Checkpoints

    return Checkpoints(run.directory / "checkpoints")


def _resume(member: Member, state: State) -> State:
    """The state of the newest whole checkpoint, with what the member had by then; ``state`` where there is none."""
    run, checkpoints = member.run, member.checkpoints
    if checkpoints is None or (steps := checkpoints.latest()) is None:
        return state
    last, best = steps
    meta = checkpoints.meta(last)
    check_base(run, meta)
    restored = checkpoints.restore(last, state)
    member.seconds, member.pending, member.flops = (
        meta["seconds"],
        pending_metrics(meta["pending"], run.settings.batch_size),
        meta["flops"],
    )
    if best is not None and checkpoints.meta(best).get("phase", 0) == (run.phase or 0):
        kept, meta = restored if best == last else checkpoints.restore(best, state), checkpoints.meta(best)
        member.best = (meta["score"], best, jax.tree.map(np.array, kept), meta)
    # Earlier versions did not record what follows, and waited for nothing.
    meta = checkpoints.meta(last)
    member.highest = meta.get("highest", None if member.best is None else member.best[0])
    member.waited = meta.get("waited", 0)
    member.wait(last)
    return restored


def _cast(frozen: trees.Tree, precision: str, shared: dict[Any, Any]) -> trees.Tree:
    """The frozen leaves in the dtype that the step computes in; leaves that members share in float32 are shared in it too."""
    # The float32 leaves stay in ``shared``, so no other object gets their ids.
    ids = {id(leaf) for leaf in shared.values()}

    def cast(leaf: Any) -> Any:
        key = (precision, id(leaf))
        if key in shared:
            return shared[key]
        value = trees.cast({"leaf": leaf}, precision)["leaf"]
        if id(leaf) in ids:
            shared[key] = value
        return value

    return jax.tree.map(cast, frozen)


def _record(member: Member, test: dict[str, float], population_size: int, memory: dict[str, int]) -> dict[str, Any]:
    """The content of ``result.json`` for a run that finished or diverged."""
    run, phases = member.run.whole, member.run.whole.phases
    # A phase of the run has the program that was compiled for it.
    functions = [
        f for each in phases for f in (each.program.step, each.program.scanned_steps, each.program.vmapped_step)
    ]
    cached = sum(each.decision.flops_per_example for each in phases)
    return {
        "status": FINISHED if member.diverged is None else member.diverged.status,
        "diverged": None if member.diverged is None else asdict(member.diverged),
        "task": run.task.name,
        "predictions": list(run.task.shapes(run.outputs)),
        "metric": run.task.chooses,
        "method": run.method.name,
        "examples": len(run.data.train) + len(run.data.validation),
        "test": test,
        "trainable_parameters": run.plan.trainable_parameters,
        "flops": member.flops + cached * len(run.feed.rows_of(run.data.train)),
        "seconds": member.seconds,
        "population_size": population_size,
        "memory": memory,
        "memory_note": member.run.memory_note,
        "steps": run.steps,
        "stopped_at": member.stopped,
        "compilations": sum(function.compilations for function in functions),
        "truncated": run.feed.truncated(np.concatenate([run.data.train, run.data.test])),
        "settings": asdict(run.settings),
    }


def _finish(
    member: Member,
    trained: State,
    predictions: Predictions,
    population_size: int,
    memory: dict[str, int],
) -> Result:
    run = member.run.whole
    # Not the whole state: the optimizer's part of it is given back.
    opened = partial(
        predictor_of, run.source, run.plan, evaluated(trained), trained.get("stats", {}), seed=run.seeds.initialisation,
        outputs=run.outputs, task=run.task, fitted=run.fitted, text_column=text_column(run.data),
    )  # fmt: skip
    if run.task.writes:
        texts = opened().written(run.feed.single, run.data.test, run.settings.batch_size)
        predictions = {**predictions, run.task.predicted: np.array(texts, str)}
    test = run.task.scored(predictions, run.data, run.data.test)
    record = _record(member, test, population_size, memory)
    if run.directory is not None:
        write_predictions(run.directory, run.task, run.data, run.outputs, predictions)
        # Written last: its presence says that the run is finished.
        write_json(run.directory / "result.json", record)
        if not run.keep_weights:
            remove_directory(run.directory / "checkpoints")
        elif member.checkpoints is not None:
            member.checkpoints.finish()

    return Result(test, predictions, member.writer.rows, record, run.outputs, opened)


def _give_up(member: Member, population_size: int, memory: dict[str, int]) -> Result:
    """The result of a run that diverged: nothing is tested. A checkpoint may still be in the process of being written."""
    run = member.run
    predictions, test = run.task.failed(run.outputs, len(run.data.test))
    record = _record(member, test, population_size, memory)
    if run.directory is not None:
        write_predictions(run.directory, run.task, run.data, run.outputs, predictions)
        write_json(run.directory / "result.json", record)
    return Result(test, predictions, member.writer.rows, record, run.outputs)


def _drop_diverged(member: Member) -> None:
    """Remove the checkpoints of a run that diverged, unless weights are to be kept."""
    run = member.run
    if member.diverged is not None and run.directory is not None and not run.keep_weights:
        drop_checkpoints(run.directory)
