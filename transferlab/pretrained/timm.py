"""timm's ``config.json``, today's and the flat one of old: architecture, its arguments, preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from transferlab.data.images import Filter, Fit, ImageTransform
from transferlab.errors import TransferlabError, nearest
from transferlab.pretrained.preprocessing import per_channel

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's channels."""


@dataclass(frozen=True)
class TimmConfig:
    """What a timm directory says of its model.

    Attributes:
        architecture: name of the function that makes it in timm, without its pretraining tag.
        arguments: those that it was made with, beside what the name says.
        pretrained: ``pretrained_cfg``: how it was trained, and with that its preprocessing.
    """

    architecture: str
    arguments: Mapping[str, Any]
    pretrained: Mapping[str, Any]

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> TimmConfig:
        """Read ``config.json``. In the flat variant all of ``pretrained_cfg`` stands beside ``architecture``."""
        pretrained = raw.get("pretrained_cfg")
        arguments = dict(raw.get("model_args") or {})
        if raw.get("global_pool"):
            arguments.setdefault("global_pool", raw["global_pool"])
        return cls(str(raw["architecture"]).partition(".")[0], arguments, raw if pretrained is None else pretrained)

    def checked(self, read: tuple[str, ...]) -> Mapping[str, Any]:
        """Return ``arguments`` of a convolutional network, which averages the last feature map.

        Raises:
            TransferlabError: an argument that says something and is not among ``read``, or another ``global_pool``.
        """
        for key, value in self.arguments.items():
            if key not in read and value and (key, value) != ("in_chans", 3):
                raise TransferlabError(f"config.json: model_args.{key} {value!r} is not supported.{nearest(key, read)}")
        pool = self.arguments.get("global_pool")
        # Without a head nothing reads what '' leaves unpooled.
        bare = self.arguments.get("num_classes", self.pretrained.get("num_classes")) == 0
        if pool not in (None, "avg") and not (pool == "" and bare):
            raise TransferlabError(f"config.json: global_pool '{pool}' is not supported; only 'avg'.")
        return self.arguments

    def config(self, read: Callable[[TimmConfig], Any]) -> Any:
        """The config that a family's reader makes of this, of pictures of ``in_chans`` channels.

        Raises:
            TransferlabError: what the reader refuses, or channels of a family that has no such size.
        """
        channels = self.arguments.get("in_chans") or 3
        if type(channels) is not int or channels < 1:
            raise TransferlabError(f"config.json: model_args.in_chans is {channels!r}; it must be a positive integer.")
        made = read(replace(self, arguments={k: v for k, v in self.arguments.items() if k != "in_chans"}))
        if getattr(made, "num_channels", 3) == channels:
            return made
        # A family without such a size says so itself.
        return replace(made, num_channels=channels) if hasattr(made, "num_channels") else read(self)

    @property
    def image_size(self) -> int:
        """Pixels of a side; timm's default of 224 where nothing says it."""
        size = self.arguments.get("img_size") or (self.pretrained.get("input_size") or (3, 224, 224))[-2:]
        return square(size, "input_size")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels; empty where the directory has none, as most."""
        return tuple(self.pretrained.get("label_names") or self.pretrained.get("labels") or ())

    def transform(self, channels: int = 3) -> ImageTransform:
        """Preprocessing as timm evaluates, of pictures of so many channels.

        Raises:
            TransferlabError: a ``crop_mode``, ``interpolation`` or number of channels that it does not know.
        """
        given = self.pretrained
        mode, resize = given.get("crop_mode") or "center", given.get("interpolation") or "bicubic"
        if mode not in _FITS:
            raise TransferlabError(f"config.json: crop_mode '{mode}' is not supported.{nearest(mode, _FITS)}")
        if resize not in get_args(Filter):
            raise TransferlabError(
                f"config.json: interpolation '{resize}' is not supported.{nearest(resize, get_args(Filter))}"
            )
        mean, std = (
            per_channel(given.get(name) or default, channels, f"config.json: {name}")
            for name, default in zip(("mean", "std"), IMAGENET, strict=True)
        )
        fraction = float(given.get("crop_pct") or 0.875)
        return ImageTransform(self.image_size, mean, std, resize, fraction, _FITS[mode], channels, crop_rounds=True)

    def written(self, transform: ImageTransform | None, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return ``config.json`` as timm's ``save_for_hf`` lays it out, with this preprocessing and these labels."""
        pretrained: dict[str, Any] = {**self.pretrained, "num_classes": len(labels)}
        if labels:
            pretrained["label_names"] = list(labels)
        if transform is not None:
            mode = next(name for name, fit in _FITS.items() if fit == transform.fit)
            pretrained |= {
                "input_size": [transform.channels, transform.size, transform.size], "interpolation": transform.resize,
                "crop_pct": transform.crop_fraction, "crop_mode": mode,
                "mean": list(transform.per_channel(transform.mean)),
                "std": list(transform.per_channel(transform.std)),
            }  # fmt: skip
        raw = {"architecture": self.architecture, "num_classes": len(labels), "pretrained_cfg": pretrained}
        return raw | ({"model_args": dict(self.arguments)} if self.arguments else {})


_FITS: dict[str, Fit] = {"center": "crop", "squash": "squash"}
"""timm's ``crop_mode`` and what it is here."""


def square(size: Any, field: str) -> int:
    """Return the side of ``size``, a number or a pair of equal ones; otherwise an error that names the field."""
    sides = list(size) if isinstance(size, (list, tuple)) else [size]
    if not all(isinstance(side, (int, float)) for side in sides):
        raise TransferlabError(f"config.json: {field} is {size!r}; it must be an integer.")
    if len(set(sides)) != 1 or sides[0] != int(sides[0]):
        raise TransferlabError(f"config.json: {field} {list(sides)} is no square.")
    return int(sides[0])
