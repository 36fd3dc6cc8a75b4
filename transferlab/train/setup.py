"""What a run is: source, data, method, settings and seeds; and what follows from them before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Int

from transferlab import trees
from transferlab.data.batches import Batch, BatchSampler, batch_sampler
from transferlab.data.dataset import Dataset
from transferlab.data.inputs import Inputs
from transferlab.errors import TransferlabError, check_arguments
from transferlab.fields import check_fields
from transferlab.methods import LoRA, Method
from transferlab.methods.editing import edit
from transferlab.models.foreign import ForeignNetwork
from transferlab.models.heads import HeadConfig
from transferlab.models.network import sequence_entries
from transferlab.pretrained.export_formats import Export, exports, exports_sentence
from transferlab.pretrained.network_source import NetworkSource
from transferlab.pretrained.source import Source
from transferlab.tasks import Classification, Task
from transferlab.tasks.heads import classifier
from transferlab.train.program import Execution, Program, program_for
from transferlab.train.settings import Settings
from transferlab.train.state import HParams
from transferlab.transfer.cache import FrontierCache, shared_cache
from transferlab.transfer.features import Batches, feature_batches, keep_features
from transferlab.transfer.frontier import CacheDecision, cache_key, decide_caching
from transferlab.transfer.phases import last_steps
from transferlab.transfer.plan import Plan
from transferlab.transfer.planning import plan


@check_arguments
@dataclass(frozen=True)
class Seeds:
    """A run's two seeds, from 0 to 2³² − 1.

    Example:
        >>> tl.adapt(source, data, seed=tl.train.Seeds(initialisation=0, order=3))

    Attributes:
        initialisation: of the leaves that the plan initialises.
        order: of the order of examples, and of dropout.

    Raises:
        TransferlabError: a seed out of that range.
    """

    initialisation: int = 0
    order: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, seed in asdict(self).items():
            if not 0 <= seed < 2**32:
                raise TransferlabError(f"The seed of the {name} is {seed}; it must be from 0 to 2³² − 1.")


def plan_for(source: Source, head: HeadConfig | Sequence[str], method: Method, initialise: str | None = None) -> Plan:
    """Return the plan for this head; label names stand for the classifier that source and method want. Nothing is
    allocated. Equal arguments return the same object.
    """
    config = classifier(source, head, method) if isinstance(head, Sequence) else head
    key = (config, method, initialise)
    if key not in source.plans:
        source.plans[key] = plan(source, config, method, initialise=initialise, edit=edited)
    return source.plans[key]


def edited(network: ForeignNetwork, method: Method) -> ForeignNetwork:
    """Return a network of somebody else's module as the method edits it.

    Raises:
        TransferlabError: a method whose edit is of modules of ours.
    """
    if type(method).edit is Method.edit:
        return network
    if isinstance(method, LoRA) and type(method).edit is LoRA.edit:
        return edit(network, method)
    raise TransferlabError(
        f"The method '{method.name}' edits models of transferlab, and this is a network of your own. Put low-rank adapters on it: "
        "method=tl.methods.LoRA(targets='**/kernel'); or train some of its leaves: method=tl.methods.LastLayers(2)."
    )


SETTABLE = ("execution", "memory_note", "cache")
"""What of a run may be set once it is made: nothing follows from it before it starts."""


@dataclass(eq=False, repr=False)
class Setup:
    """One arm at one budget and one seed: what a run is, and how it is computed. :func:`transferlab.train.adapt` returns it
    as a :class:`transferlab.train.Run`, which can be started.

    Only :data:`SETTABLE` may be set afterwards.

    Attributes:
        source: where the weights come from.
        data: what it trains on, is validated on and is tested on.
        method: how it adapts the source.
        settings: how it trains.
        seeds: of the initialisation, and of the order of examples.
        directory: where plan, metrics, checkpoints and predictions are written; None keeps everything in memory.
        keep_weights: whether checkpoints are kept when the run is finished.
        initialise: selector of backbone leaves that may be initialised where the source lacks them.
        feed: the data set as model inputs.
        task: what is optimised.
        steps: updates of the whole run.
        execution: how a step is computed; :func:`transferlab.train.memory.fit_to_memory` changes it where a step would not fit.
        memory_note: what the record says about such a change; empty where there was none.
        cache: where the carries at the frontier are stored.
    """

    source: Source
    data: Dataset
    method: Method
    settings: Settings
    seeds: Seeds
    directory: Path | None = None
    keep_weights: bool = True
    initialise: str | None = None
    task: Task = field(default_factory=Classification)
    feed: Inputs = field(init=False, repr=False)
    steps: int = field(init=False)
    execution: Execution = field(init=False)
    memory_note: str = field(init=False, default="")
    cache: FrontierCache = field(init=False, repr=False)

    def __post_init__(self) -> None:
        data, settings = self.data, self.settings
        assert self.source.transform is not None
        self.task.check(data, self.source)
        self.task = self.task.resolved(data)
        self.feed = self.task.inputs(
            data.records, self.source.transform, content=data.content, ids=data.ids, sha256=data.sha256, name=data.name
        )
        if settings.accumulate > 1 and not self.task.additive:
            raise TransferlabError(
                f"settings.accumulate is {settings.accumulate}, but the loss of {type(self.task).__name__} compares the examples of "
                "a batch with each other: in parts it would be another. Leave it out, and lower batch_size if memory is short."
            )
        if settings.patience is not None and not len(data.validation):
            raise TransferlabError(
                f"settings.patience is {settings.patience}, and '{data.name}' has no validation split, by which a run would stop. Set a "
                "part of the labels aside: data.hold_out(0.2, seed=0)."
            )
        if settings.batch_size < 2 and not self.task.additive:
            raise TransferlabError(
                f"settings.batch_size is {settings.batch_size}, but {type(self.task).__name__} compares the examples of a batch with "
                "each other: it needs at least 2, and learns more from 32: tl.train.Settings(batch_size=32)."
            )
        self.steps = settings.total_steps(len(self.feed.rows_of(data.train)))
        self.execution = Execution(self.settings.remat, self.settings.accumulate)
        self.cache = shared_cache()
        self._phase: int | None = None
        self._whole: Setup = self
        self._programs: dict[Execution, Program] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if "_programs" in vars(self) and name in {one.name for one in fields(self)}.difference(SETTABLE):
            raise TransferlabError(
                f"run.{name} cannot be set: plan, steps and inputs already follow from what it was. Make another run: tl.adapt(…)."
            )
        super().__setattr__(name, value)

    @property
    def phases(self) -> tuple[Setup, ...]:
        """The run's phases, in order, each a view of the run with plan, settings, program and last step of its own; the run
        itself where it has one.
        """
        planned = self.transfer.phases
        if len(planned) == 1 and not planned[0].settings:
            return (self,)
        return tuple(self._at(number) for number in range(len(planned)))

    def _at(self, number: int) -> Setup:
        """The view of one phase. Only the last one ends early or chooses the state that is tested."""
        planned = self.transfer.phases
        _ = self.order, self._targets  # shared by all views
        view = copy(self)
        own = {"transfer": self.transfer.at(number), "_phase": number, "_programs": {}}
        last = {} if number == len(planned) - 1 else {"patience": None, "keep": "last"}
        own["settings"] = replace(self.settings, **{**planned[number].settings, **last})
        for name in ("decision", "plan", "_sequence_entries"):
            vars(view).pop(name, None)
        vars(view).update(own)
        return view

    @property
    def whole(self) -> Setup:
        """The run that this is a phase of, or itself."""
        return self._whole

    @property
    def phase(self) -> int | None:
        """Index of the phase that this is a view of; None of a whole run."""
        return self._phase

    @property
    def span(self) -> tuple[int, int]:
        """(updates before this phase, updates after it); those of the whole run where it is no phase."""
        if self._phase is None:
            return 0, self.steps
        planned = self._whole.transfer.phases
        ends = last_steps([one.fraction for one in planned], [one.name for one in planned], self.steps)
        return (0, *ends)[self._phase], ends[self._phase]

    @property
    def settled(self) -> frozenset[str]:
        """Paths of the leaves that an earlier phase trained and this one does not."""
        earlier = self._whole.transfer.phases[: self._phase or 0]
        return frozenset(path for one in earlier for path in one.leaf_settings).difference(self.transfer.leaf_settings)

    @cached_property
    def transfer(self) -> Plan:
        """The plan before the frontier's cache is decided on; runs of one source, task and method share it.

        Raises:
            TransferlabError: the source has no place for such a head, or leaves and keys cannot be accounted for.
        """
        head = self.task.head(self.source, self.outputs, self.method)
        plan = plan_for(self.source, head, self.method, self.initialise)
        self.task.check_plan(plan, self.data)
        last_steps([one.fraction for one in plan.phases], [one.name for one in plan.phases], self.steps)
        return plan

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the head puts out: labels, or targets."""
        return self.task.outputs(self.data)

    @cached_property
    def fitted(self) -> dict[str, Any]:
        """What the task learned of the training targets before the first step, as plain data."""
        return self.task.fit(self.data)

    @cached_property
    def _targets(self) -> dict[str, np.ndarray]:
        return self.task.targets(self.data, self.fitted)

    def batch_targets(self, batch: Batch, rows: int) -> dict[str, np.ndarray]:
        """What the task compares a batch with, by name, each padded to (rows, …)."""
        return self.task.collate(self._targets, self.feed, batch, rows)

    def targets(self, indices: Int[np.ndarray, "..."]) -> dict[str, np.ndarray]:
        """What the task compares with, of these examples: by name, each with the shape of ``indices`` first."""
        return {name: values[indices] for name, values in self._targets.items()}

    @cached_property
    def decision(self) -> CacheDecision:
        """Whether the frozen prefix is cached."""
        if not self.task.fixed_inputs:
            return CacheDecision(
                False, f"{self.task.name} changes its inputs in each step, so that nothing frozen is kept"
            )
        first = self._rows[:1]
        inputs = self.feed.inputs(first, int(self.feed.buckets(first)[0]), 1)
        n = len(self._rows)
        settings = self.settings
        plan = self.transfer
        splits_at = getattr(plan.network, "splits_at", None)
        if splits_at is not None and plan.frontier and not splits_at(plan.frontier):
            return CacheDecision(
                False, "not all stages of the network say how they are run, so that it runs as a whole in each step"
            )
        return decide_caching(plan.network, plan.frontier, inputs, settings.cache_bytes, n, settings.precision)

    @cached_property
    def plan(self) -> Plan:
        """The plan, with notes on whether the frozen prefix is cached, which tokens the last layer computes, and what the result can
        be exported as.
        """
        plan = self.transfer
        notes, query = [*plan.notes, self.decision.sentence], getattr(plan.network, "single_query", None)
        if query is not None:
            notes.append(f"'{query[0]}' is computed for the {query[1]} alone, the only one that the head reads")
        if self.exports:
            notes.append(exports_sentence(self.exports))
        return replace(plan, notes=tuple(notes))

    @property
    def exports(self) -> tuple[Export, ...]:
        """What the result can be written as, and for the other formats why not; nothing of a network of somebody's own."""
        if isinstance(self.source, NetworkSource):
            return ()
        leaves = (leaf.path.partition("/lora/") for leaf in self.transfer.leaves)
        adapted = dict.fromkeys(f"{layer}/kernel" for layer, found, _ in leaves if found)
        return exports(self.source, self.transfer.head, tuple(adapted))

    @property
    def program(self) -> Program:
        """The compiled functions, shared with every run of the same kind; of a run with several phases, those of the last."""
        if self._phase is None and len(phases := self.phases) > 1:
            return phases[-1].program
        execution = self.execution
        if execution not in self._programs:
            self._programs[execution] = program_for(
                self.plan, self.task, self.settings, self.decision.cached, execution,
                phased=len(self._whole.transfer.phases) > 1,
            )  # fmt: skip
        return self._programs[execution]

    @property
    def features_on_device(self) -> bool:
        """Whether all carries are vectors that are put on the device, so that many such runs can step as one program.

        Not where an example is several rows or views, which that program does not put together.
        """
        examples = np.concatenate([self.data.train, self.data.validation, self.data.test])
        vectors = self.decision.cached and not self.decision.has_sequences and self.settings.vectorize != "never"
        return vectors and np.array_equal(self._views, examples)

    @property
    def runs_concurrently(self) -> bool:
        """Whether such runs, each on its own batches, train in concurrent threads and not as one program.

        They do on CPU, unless ``Settings.vectorize`` says otherwise: one program gains nothing there, where arithmetic takes
        the time, but a single run leaves cores partly idle. It is not timed first: where the gain is small, no loss was
        measured.
        """
        return self.settings.vectorize == "auto" and jax.default_backend() == "cpu" and not self.features_on_device

    @cached_property
    def order(self) -> BatchSampler:
        """Which examples each step takes."""
        rows, settings = self.feed.rows_of(self.data.train), self.settings
        buckets = self.feed.buckets(rows)
        return batch_sampler(rows, buckets, settings.batch_size, self.steps, self.seeds.order, settings.group_by_length)

    def hparams(self) -> HParams:
        """The compiled step's arguments that differ between runs, so that it is not compiled again for them."""
        settings, (first, last) = self.settings, self.span
        hparams = {
            "learning_rate": np.float32(settings.learning_rate),
            "weight_decay": np.float32(settings.weight_decay),
            "first": np.float32(first),
            "total": np.float32(last - first),
            "warmup": np.float32(round(settings.warmup * (last - first))),
            "seed": np.uint32(self.seeds.order),
        }
        if penalties := self.transfer.phases[-1].penalties:
            hparams["penalties"] = np.array([each.weight for each in penalties], np.float32)
        return cast(HParams, hparams)

    def carry(self, batch: Batch, rows: int, key: str | None) -> dict[str, np.ndarray]:
        """A batch's carry at the program's first stage: inputs, or rows of the frontier cache under ``key``."""
        if key is None:
            return self.feed.inputs(batch.indices, batch.bucket, rows)
        views = self.feed.views_of(batch.indices)
        return self.cache.rows(key, views, batch.bucket, rows * self.feed.views, self._sequence_entries)

    def meta(self, step: int, pending: list[dict[str, Any]], seconds: float, flops: float) -> dict[str, Any]:
        """What a checkpoint records in addition to its arrays."""
        return {
            "step": step,
            "seeds": asdict(self.seeds),
            "phase": self._phase or 0,
            "trainable": list(self.plan.trainable),
            "base": {"source": self.source.recorded, "sha256": self.source.sha256, "weights": self.method.weights},
            "pending": list(pending),
            "seconds": seconds,
            "flops": flops,
        }

    # -----------------------------------------------------------------------------------------------------------

    @cached_property
    def _sequence_entries(self) -> tuple[str, ...]:
        return sequence_entries(self.plan.network)

    def cached_features_key(self) -> str | None:
        """The key of this run's carries, where the cache has them all and no frozen leaf depends on a seed."""
        if self._frozen_leaves_changed or len(self.cache.missing(key := self._key({}, {}), self._views)):
            return None
        return key

    def compute_features(
        self, params: trees.Tree, stats: trees.Tree, counted: Callable[[int, int], None] = lambda done, total: None
    ) -> str:
        """Compute the carries at the frontier that are not in the cache yet; return their key.

        ``counted`` is called with how many of the missing ones are done, and how many there are.
        """
        key, network, program = self._key(params, stats), self.plan.network, self.program

        def compute(missing: Int[np.ndarray, " m"]) -> Batches:
            return feature_batches(
                self.feed.single, missing, self.settings.batch_size,
                lambda inputs: program.prefix(params, stats, inputs),
                lambda inputs: program.packed_prefix(params, stats, inputs),
                getattr(network, "first_position", None),
            )  # fmt: skip

        keep_features(self.cache, {key: ()}, self._views, compute, self._sequence_entries, counted)
        return key

    @cached_property
    def _rows(self) -> Int[np.ndarray, " n"]:
        """All rows: of the training split, the validation split and the test split."""
        return np.concatenate(
            [self.feed.rows_of(part) for part in (self.data.train, self.data.validation, self.data.test)]
        )

    @property
    def _views(self) -> Int[np.ndarray, " n"]:
        """The rows whose features are computed: those of all views."""
        return self.feed.views_of(self._rows)

    @property
    def _frozen_leaves_changed(self) -> bool:
        """Whether a frozen leaf is not copied from the source, or was trained in an earlier phase, so that the source's hash says
        too little about it.
        """
        earlier = self._whole.transfer.phases[: self._phase or 0]
        if self.settled or any(one.moving - self.transfer.phases[-1].moving for one in earlier):
            return True
        return any(leaf.action != "copied" for leaf in self.plan.leaves if not leaf.trains)

    def _key(self, params: trees.Tree, stats: trees.Tree) -> str:
        return cache_key(
            params, stats, self.plan.network, self.plan.frontier, self.source.transform, self.data.sha256 + self.feed.key,
            self.settings.precision, None if self._frozen_leaves_changed else self.source.sha256,
        )  # fmt: skip
