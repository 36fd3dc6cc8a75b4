"""Named sizes of a model's config, a line each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

Config = TypeVar("Config")


class Size:
    """A named size of a config dataclass, as a constructor: ``l16 = Size("…", 1024, 24)`` in the class of ``ViTConfig``
    makes ``ViTConfig.l16()`` give ``ViTConfig(1024, 24)``.

    Args:
        summary: one sentence, which ``transferlab models FAMILY`` prints.
        args: values of the config's first fields.
        fields: values of others, by name.

    Example:
        >>> tl.models.ViTConfig.l16().num_hidden_layers
        24
    """

    def __init__(self, summary: str, /, *args: Any, **fields: Any):
        self.summary, self.args, self.fields = summary, args, fields

    def but(self, summary: str, /, *args: Any, **fields: Any) -> Size:
        """Return this size with other values of these fields; ``args`` take the place of all of its own."""
        return Size(summary, *(args or self.args), **{**self.fields, **fields})

    def __get__(self, config: object, owner: type[Config]) -> Callable[[], Config]:
        make = partial(owner, *self.args, **self.fields)
        make.__doc__ = self.summary
        return make


def sizes_of(config: type[Config]) -> dict[str, Callable[[], Config]]:
    """Return the named sizes of a config, in the order of its file."""
    return {name: size.__get__(None, config) for name, size in vars(config).items() if isinstance(size, Size)}
