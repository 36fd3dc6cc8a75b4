"""timm's ``config.json``, nested or flat as in old versions: architecture, its arguments, preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from transferlab.data.images import Filter, Fit, ImageTransform
from transferlab.errors import TransferlabError, nearest
from transferlab.pretrained.preprocessing import per_channel

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's channels."""


@dataclass(frozen=True)
class TimmConfig:
    """What a timm directory says of its model.

    Attributes:
        architecture: name of the function that builds it in timm, without the pretraining tag.
        arguments: of that function, besides what the name implies.
        pretrained: ``pretrained_cfg``: how it was trained, which includes its preprocessing.
    """

    architecture: str
    arguments: Mapping[str, Any]
    pretrained: Mapping[str, Any]

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> TimmConfig:
        """Read ``config.json``. In the flat variant, the fields of ``pretrained_cfg`` are next to ``architecture``."""
        pretrained = raw.get("pretrained_cfg")
        arguments = dict(raw.get("model_args") or {})
        if raw.get("global_pool"):
            arguments.setdefault("global_pool", raw["global_pool"])
        return cls(str(raw["architecture"]).partition(".")[0], arguments, raw if pretrained is None else pretrained)

    def checked(self, read: tuple[str, ...]) -> Mapping[str, Any]:
        """Return ``arguments`` of a convolutional network, which averages the last feature map.

        Raises:
            TransferlabError: an argument that is set and not among ``read``, or another ``global_pool``.
        """
        for key, value in self.arguments.items():
            if key not in read and value and (key, value) != ("in_chans", 3):
                raise TransferlabError(f"config.json: model_args.{key} {value!r} is not supported.{nearest(key, read)}")
        pool = self.arguments.get("global_pool")
        # Without a head, nothing reads the output that '' leaves unpooled.
        bare = self.arguments.get("num_classes", self.pretrained.get("num_classes")) == 0
        if pool not in (None, "avg") and not (pool == "" and bare):
            raise TransferlabError(f"config.json: global_pool '{pool}' is not supported; expected 'avg'.")
        return self.arguments

    def config(self, read: Callable[[TimmConfig], Any]) -> Any:
        """Return the config that a family's reader makes of this, for images of ``in_chans`` channels.

        Raises:
            TransferlabError: the reader refuses it, or the family has a fixed number of channels.
        """
        channels = self.arguments.get("in_chans") or 3
        if type(channels) is not int or channels < 1:
            raise TransferlabError(f"config.json: model_args.in_chans is {channels!r}; it must be a positive integer.")
        config = read(replace(self, arguments={k: v for k, v in self.arguments.items() if k != "in_chans"}))
        if getattr(config, "num_channels", 3) == channels:
            return config
        # The reader of a family with a fixed number of channels raises its own error.
        return replace(config, num_channels=channels) if hasattr(config, "num_channels") else read(self)

    @property
    def image_size(self) -> int:
        """Pixels of a side; timm's default of 224 where the config does not say it."""
        size = self.arguments.get("img_size") or (self.pretrained.get("input_size") or (3, 224, 224))[-2:]
        return square(size, "input_size")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels; empty where the directory has none, as is usual."""
        return tuple(self.pretrained.get("label_names") or self.pretrained.get("labels") or ())

    def transform(self, channels: int = 3) -> ImageTransform:
        """Return the preprocessing of timm's evaluation, for images of this many channels.

        Raises:
            TransferlabError: a ``crop_mode``, ``interpolation`` or number of channels that is not supported.
        """
        fields = self.pretrained
        mode, resize = fields.get("crop_mode") or "center", fields.get("interpolation") or "bicubic"
        if mode not in _FITS:
            raise TransferlabError(f"config.json: crop_mode '{mode}' is not supported.{nearest(mode, _FITS)}")
        if resize not in get_args(Filter):
            raise TransferlabError(
                f"config.json: interpolation '{resize}' is not supported.{nearest(resize, get_args(Filter))}"
            )
        mean, std = (
            per_channel(fields.get(name) or default, channels, f"config.json: {name}")
            for name, default in zip(("mean", "std"), IMAGENET, strict=True)
        )
        fraction = float(fields.get("crop_pct") or 0.875)
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
"""timm's ``crop_mode`` → our ``fit``."""


def square(size: Any, field: str) -> int:
    """Return the side of ``size``, a number or a pair of equal ones.

    Raises:
        TransferlabError: it is neither; the field is named.
    """
    sides = list(size) if isinstance(size, (list, tuple)) else [size]
    if not all(isinstance(side, (int, float)) for side in sides):
        raise TransferlabError(f"config.json: {field} is {size!r}; it must be an integer.")
    if len(set(sides)) != 1 or sides[0] != int(sides[0]):
        raise TransferlabError(f"config.json: {field} {list(sides)} is not square; only square images are supported.")
    return int(sides[0])
