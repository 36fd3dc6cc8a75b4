"""What a method is: an edit of the module, groups that train, and the weights it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from transferlab.bounds import Rate
from transferlab.fields import check_fields
from transferlab.models.heads import Pooling
from transferlab.transfer.groups import Group
from transferlab.transfer.plan import Weights


@dataclass(frozen=True)
class Method:
    """Base of all methods: frozen dataclasses whose fields a config may set.

    Subclasses: :class:`transferlab.methods.Full`, :class:`transferlab.methods.LoRA`, :class:`transferlab.methods.Probe`,
    :class:`transferlab.methods.Scratch`.

    Attributes:
        weights: ``pretrained``, or ``random`` for the same network untrained.
        pooling: how the features that the head sees are pooled; None follows the source.
        head_dropout: rate on the pooled features, while the head trains.

    Raises:
        TransferlabError: a field with a value that it cannot have.
    """

    weights: Weights = "pretrained"
    pooling: Pooling | None = None
    head_dropout: Rate = 0.0

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    defaults: ClassVar[dict[str, Any]] = {}
    """Training settings where a caller gives none. Learning rates are those of ``configs/tweets.py``, where they were measured
    with MiniLM-L6 on 16 to 1024 labels; they are not those of the method's paper."""
    linear_head: ClassVar[bool] = False
    """Whether its head is linear by definition. Others take the head of the family's classifier in transformers where they
    pool as it does."""

    def __post_init__(self) -> None:
        check_fields(self)

    def edit(self, module: Any) -> None:
        """Change the new, abstract module in place; by default nothing. Paths that it has may not be renamed."""

    def groups(self) -> tuple[Group, ...]:
        """The groups of leaves that train; all others are frozen."""
        raise NotImplementedError
