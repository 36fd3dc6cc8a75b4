"""The loop: steps between events (a row of metrics, a validation, a checkpoint, a stop), for one run or many at once.

An *engine* (:mod:`transferlab.train.engines`) advances its members; the loop depends on no particular one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from transferlab.tasks.base import Predictions
from transferlab.tasks.prediction import all_finite
from transferlab.train.engines.engine import Engine
from transferlab.train.interrupt import Interrupted, StopRequest
from transferlab.train.member import Member
from transferlab.train.result import Report
from transferlab.train.state import State


def train(
    engine: Engine, stop: StopRequest, report: Report | None, ended: Callable[[int], None] = lambda member: None
) -> None:
    """Train every member to its last step, to the end of its patience, or to the step at which it diverged: ``ended`` is then
    called with its index.

    A member that diverged or stopped keeps stepping where its steps are computed together with the others', which stay the
    same bit by bit. Every step's metrics are checked before anything is scored or saved.

    Raises:
        Interrupted: a stop was requested; members that keep checkpoints wrote one first.
    """
    members = engine.members
    settings = members[0].run.settings
    program = members[0].run.program
    clock, saved = program.clock(), time.perf_counter()
    while any(member.trains(engine.done) for member in members):
        first = engine.done
        # Including those that diverged, so that the others' calls stay the same.
        unfinished = [i for i, member in enumerate(members) if member.total > first]
        live = [i for i in unfinished if members[i].trains(first)]
        metrics = engine.advance(min(members[i].next_event(first) for i in unfinished), stop, report)
        done = engine.done
        rows = {i: members[i].log(first, members[i].check(first, metrics[i])) for i in live}
        # A stop that was requested before the first of these steps leaves nothing new to score.
        scored = [i for i in unfinished if done > first and members[i].validates(done)]
        if any(members[i].diverged is None for i in scored):
            predictions = engine.predict({i: members[i].run.data.validation for i in scored})
            for i in scored:
                if members[i].diverged is None:
                    _take_score(members[i], rows[i], done, predictions[i], lambda i=i: engine.state(i))
        for i in live:
            for row in rows[i]:
                members[i].writer.write(row)
        total = max(member.planned for member in members)
        if report is not None and live:
            report(done, total, rows[live[0]][-1] if rows[live[0]] else {})
        # The elapsed time is divided among those that still train.
        before, clock = clock, program.clock()
        for i in live:
            members[i].seconds += (clock - before) / len(live)
        every = settings.checkpoint_steps
        due = done % every == 0 if every else time.perf_counter() - saved > settings.checkpoint_seconds
        for i in live:
            member, last = members[i], done == members[i].total
            # The newest step's update is in the state alone: no metric was computed after it.
            if member.diverged is None and done > first and (last or ((due or stop.asked) and member.checkpoints)):
                member.check_state(engine.state(i), done)
            if member.diverged is not None:
                ended(i)
            elif due or stop.asked or (last and member.run.keep_weights):
                member.save(lambda i=i: engine.state(i), done)
        if due:
            saved = time.perf_counter()
        if stop.asked and any(member.trains(done) for member in members):
            raise Interrupted(f"Stopped after step {done} of {total}.")


def _take_score(
    member: Member, rows: list[dict[str, Any]], done: int, predictions: Predictions, state: Callable[[], State]
) -> None:
    """Put a validation's scores in its row, and keep the state if it is the best so far."""
    if not all_finite(predictions):
        member.diverge(done, "the predictions for the validation split are not finite", done)
        return
    scores = member.score(predictions)
    named = {f"validation_{name}": value for name, value in scores.items()}
    better = member.improves(member.run.task.selection(scores, len(member.run.data.validation)), done)
    if member.stopped is not None:
        rows += member.flush(done)
    if rows and rows[-1]["step"] == done:
        rows[-1].update(named)
    else:
        rows.append({"step": done, **named})
    if better and member.run.settings.keep == "best":
        copy = jax.tree.map(lambda x: np.array(x, copy=True), state())
        member.check_state(copy, done)
        if member.diverged is None and member.highest is not None:
            member.best = (member.highest, done, copy, member.meta(done))
