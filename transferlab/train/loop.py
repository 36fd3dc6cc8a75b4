"""The loop: steps between events (a row of metrics, a validation, a checkpoint, a stop), for one run or many at once.

An *engine* (:mod:`transferlab.train.engines`) advances its members and answers for them; the loop knows none of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from transferlab.train.engines.engine import Engine
from transferlab.train.interrupt import Interrupted, StopRequest
from transferlab.train.member import Member
from transferlab.train.result import Report
from transferlab.train.state import State


def train(
    engine: Engine, stop: StopRequest, report: Report | None, ended: Callable[[int], None] = lambda member: None
) -> None:
    """Take every member to its last step, or to the one at which it diverged: ``ended`` is then told its number.

    The steps of one that diverged are taken on where they are computed with the others': these stay what they are, bit
    by bit. Every step's metrics are looked at before anything is scored or saved.

    Raises:
        Interrupted: a stop was asked for; members that keep checkpoints wrote one first.
    """
    members = engine.members
    total = max(member.total for member in members)
    settings = members[0].run.settings
    program = members[0].run.program
    clock, saved = program.clock(), time.perf_counter()
    while any(member.trains(engine.done) for member in members):
        first = engine.done
        # Of those that diverged too, so that the others' calls stay what they are.
        taken = [i for i, member in enumerate(members) if member.total > first]
        live = [i for i in taken if members[i].trains(first)]
        metrics = engine.advance(min(members[i].next_event(first) for i in taken), stop, report)
        done = engine.done
        rows = {i: members[i].log(first, members[i].check(first, metrics[i])) for i in live}
        # A stop that was asked for before the first of these steps leaves nothing new to score.
        scored = [i for i in taken if done > first and members[i].validates(done)]
        if any(members[i].diverged is None for i in scored):
            probabilities = engine.predict({i: members[i].run.data.validation for i in scored})
            for i in scored:
                if members[i].diverged is None:
                    _take_score(members[i], rows[i], done, probabilities[i], lambda i=i: engine.state(i))
        for i in live:
            for row in rows[i]:
                members[i].writer.write(row)
        if report is not None and live:
            report(done, total, rows[live[0]][-1] if rows[live[0]] else {})
        # What passed is shared by those that still train.
        before, clock = clock, program.clock()
        for i in live:
            members[i].seconds += (clock - before) / len(live)
        every = settings.checkpoint_steps
        due = done % every == 0 if every else time.perf_counter() - saved > settings.checkpoint_seconds
        for i in live:
            member, last = members[i], done == members[i].total
            # The update of the newest step is in the state alone: no metric has seen it.
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
    member: Member, rows: list[dict[str, Any]], done: int, probabilities: np.ndarray, state: Callable[[], State]
) -> None:
    """Put a validation in its row, and keep the state if it is the best so far."""
    found = member.score(probabilities)
    if rows and rows[-1]["step"] == done:
        rows[-1].update(found)
    else:
        rows.append({"step": done, **found})
    # Accuracy decides; among equals the smaller cross-entropy, which never weighs as much as one example.
    loss = found["validation_cross_entropy"]
    if not math.isfinite(loss):
        member.diverge(done, f"the validation loss is {loss}", done)
        return
    score = round(found["validation_accuracy"] * len(probabilities)) - loss / (1 + loss)
    if member.best is None or score > member.best[0]:
        kept = jax.tree.map(lambda x: np.array(x, copy=True), state())
        member.check_state(kept, done)
        if member.diverged is None:
            member.best = (score, done, kept, member.meta(done))
