"""One vector per example, without parameters: what a sentence encoder is trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from transferlab.fields import check_fields
from transferlab.models.backbone import Carry, Head, Stage, Token
from transferlab.models.heads.pooling import Pooling, pool, unit_length

if TYPE_CHECKING:
    from transferlab.models.backbone import Model


@dataclass(frozen=True)
class EmbeddingConfig:
    """The pooled features themselves, as sentence-transformers' ``Pooling`` and ``Normalize``.

    Attributes:
        pooling: see :class:`transferlab.models.ClassifierConfig`; not ``stages``.
        normalise: scale the pooled vector to unit length.

    Example:
        >>> model = tl.models.BertConfig.minilm_l6().build(tl.models.EmbeddingConfig("mean", normalise=True))
    """

    pooling: Pooling = "mean"
    normalise: bool = False

    labels: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_fields(self, "EmbeddingConfig")

    def build(self, features: int, *, vocabulary: int = 0, feature_stages: tuple[str, ...] = ()) -> Embedding:
        """The head; it has no parameters."""
        return Embedding(self)


class Embedding(Head):
    """Adds ``embedding`` (batch, features) to the carry."""

    def __init__(self, config: EmbeddingConfig):
        self.config = config

    def stages(self, model: Model) -> tuple[Stage, ...]:
        """``pool``."""
        return (Stage("pool", lambda carry, key: self.pool(model, carry)),)

    def reads(self, model: Model) -> Token | None:
        """The token that it pools, where it pools only one."""
        return model.pooled_token(self.config.pooling)

    def pool(self, model: Model, carry: Carry) -> Carry:
        """One vector per example."""
        pooled = pool(model, carry, self.config.pooling)
        return {**carry, "embedding": unit_length(pooled) if self.config.normalise else pooled}
