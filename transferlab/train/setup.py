"""What a run is: source, data, method, settings and seeds; and what follows from them before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Int

from transferlab import trees
from transferlab.compute.prefetch import prefetch_map
from transferlab.data.batches import Batch, BatchSampler, batch_sampler, evaluation_order
from transferlab.data.dataset import Dataset
from transferlab.data.inputs import Inputs, TextInputs
from transferlab.data.packing import Packed
from transferlab.errors import TransferlabError, check_arguments
from transferlab.fields import check_fields
from transferlab.methods import Method
from transferlab.models.backbone import last_layer_single_query
from transferlab.models.heads import HeadConfig
from transferlab.pretrained.export_formats import Export, exports, exports_sentence
from transferlab.pretrained.source import Source
from transferlab.tasks import Classification, Task
from transferlab.tasks.heads import classifier
from transferlab.train.program import Execution, Program, program_for
from transferlab.train.settings import Settings
from transferlab.train.state import HParams
from transferlab.transfer.cache import FrontierCache, shared_cache
from transferlab.transfer.frontier import CacheDecision, cache_key, can_pack, decide_caching
from transferlab.transfer.plan import Plan, plan

PACKED_TOKENS = {"cpu": 1024, "accelerator": 16384}
"""Tokens in a batch of packed texts in a feature pass: on CPU, few enough that a layer's activations stay in the cache."""


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
        source.plans[key] = plan(
            source, config, method=method.name, groups=method.groups(), edit=method.edit, weights=method.weights,
            initialise=initialise,
        )  # fmt: skip
    return source.plans[key]


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
        self._programs: dict[Execution, Program] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if "_programs" in vars(self) and name in {one.name for one in fields(self)}.difference(SETTABLE):
            raise TransferlabError(
                f"run.{name} cannot be set: plan, steps and inputs already follow from what it was. Make another run: tl.adapt(…)."
            )
        super().__setattr__(name, value)

    @cached_property
    def transfer(self) -> Plan:
        """The plan before the frontier's cache is decided on; runs of one source, task and method share it.

        Raises:
            TransferlabError: the source has no place for such a head, or leaves and keys cannot be accounted for.
        """
        head = self.task.head(self.source, self.outputs, self.method)
        plan = plan_for(self.source, head, self.method, self.initialise)
        self.task.check_plan(plan, self.data)
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
        return decide_caching(plan.definition, plan.frontier, inputs, settings.cache_bytes, n, settings.precision)

    @cached_property
    def plan(self) -> Plan:
        """The plan, with notes on whether the frozen prefix is cached, which tokens the last layer computes, and what the result can
        be exported as.
        """
        plan = self.transfer
        notes, query = [*plan.notes, self.decision.sentence], last_layer_single_query(plan.definition.module)
        if query is not None:
            notes.append(f"'{query[0].name}' is computed for the {query[1]} alone, the only one that the head reads")
        return replace(plan, notes=(*notes, exports_sentence(self.exports)))

    @property
    def exports(self) -> tuple[Export, ...]:
        """What the result can be written as, and for the other formats why not."""
        leaves = (leaf.path.partition("/lora/") for leaf in self.transfer.leaves)
        adapted = dict.fromkeys(f"{layer}/kernel" for layer, found, _ in leaves if found)
        return exports(self.source, self.transfer.head, tuple(adapted))

    @property
    def program(self) -> Program:
        """The compiled functions, shared with every run of the same kind."""
        execution = self.execution
        if execution not in self._programs:
            self._programs[execution] = program_for(
                self.plan, self.task, self.settings, self.decision.cached, execution
            )
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
        settings = self.settings
        hparams = {
            "learning_rate": np.float32(settings.learning_rate),
            "weight_decay": np.float32(settings.weight_decay),
            "total": np.float32(self.steps),
            "warmup": np.float32(round(settings.warmup * self.steps)),
            "seed": np.uint32(self.seeds.order),
        }
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
            "trainable": list(self.plan.trainable),
            "base": {"source": self.source.recorded, "sha256": self.source.sha256, "weights": self.method.weights},
            "pending": list(pending),
            "seconds": seconds,
            "flops": flops,
        }

    # -----------------------------------------------------------------------------------------------------------

    @cached_property
    def _sequence_entries(self) -> tuple[str, ...]:
        return self.plan.definition.module.sequence_entries

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
        key = self._key(params, stats)
        missing = self.cache.missing(key, self._views)
        done = 0
        try:
            for indices, carry, spans in self.iterate_features(params, stats, missing):
                counted(done := done + len(indices), len(missing))
                sequences = [name for name in carry if name in self._sequence_entries]
                self.cache.add(key, indices, carry, sequences, spans)
        finally:
            # Whatever was computed before a Ctrl-C is not computed again.
            self.cache.flush(key, self._sequence_entries)
        return key

    def iterate_features(
        self, params: trees.Tree, stats: trees.Tree, indices: Int[np.ndarray, " n"]
    ) -> Iterator[tuple[list[int], dict[str, np.ndarray], list[slice]]]:
        """Compute carries at the frontier; yield (rows, their carry, each row's span of the axis of length). Rows are those of
        single views.
        """
        rows, feed, program = self.settings.batch_size, self.feed.single, self.program
        if isinstance(feed, TextInputs) and feed.packs and can_pack(self.plan.definition):
            tokens = PACKED_TOKENS["cpu" if jax.default_backend() == "cpu" else "accelerator"]
            packed = feed.packed(indices, tokens, self.plan.definition.module.first_position)

            def shared(batch: Packed) -> tuple[Packed, dict[str, np.ndarray]]:
                return batch, jax.device_get(program.packed_prefix(params, stats, batch.inputs))

            for batch, carry in prefetch_map(shared, packed):
                texts = indices[batch.texts].tolist()
                yield texts, carry, [slice(0, feed.length(text)) for text in texts]
            return
        batches = evaluation_order(indices, feed.buckets(indices), rows)

        def one(batch: Batch) -> dict[str, np.ndarray]:
            return jax.device_get(program.prefix(params, stats, feed.inputs(batch.indices, batch.bucket, rows)))

        for batch, carry in zip(batches, prefetch_map(one, batches), strict=True):
            yield batch.indices.tolist(), carry, [feed.span(int(i), batch.bucket) for i in batch.indices]

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
        """Whether a frozen leaf is not copied from the source, so that the source's hash says too little about it."""
        return any(leaf.action != "copied" for leaf in self.plan.leaves if not leaf.trains)

    def _key(self, params: trees.Tree, stats: trees.Tree) -> str:
        return cache_key(
            params, stats, self.plan.definition, self.plan.frontier, self.source.transform, self.data.sha256 + self.feed.key,
            self.settings.precision, None if self._frozen_leaves_changed else self.source.sha256,
        )  # fmt: skip
