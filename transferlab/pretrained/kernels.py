"""The kernel that reads pixels, for patches of another size or images of other channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from transferlab.errors import TransferlabError, nearest
from transferlab.pretrained.positions import RULES, Resize


def kernel_resize(
    shape: tuple[int, ...], patch_size: int | None, channels: int | None, mode: str | None = None
) -> Resize | None:
    """Return the resize of a kernel (height, width, channels, out) to what is asked for; None if it fits already.

    Args:
        shape: of the kernel in the file.
        patch_size: a side of the new patches; None keeps the file's.
        channels: of the images to be read; None keeps the file's.
        mode: a key of :data:`CHANNEL_MODES`. As timm does it by default: ``sum`` for one channel, else ``repeat``.

    Raises:
        TransferlabError: the mode is unknown, or cannot give that many channels.
    """
    old_side, old_channels = shape[0], shape[2]
    side, count = patch_size or old_side, channels or old_channels
    mode = mode or ("sum" if count == 1 else "repeat")
    if mode not in CHANNEL_MODES:
        raise TransferlabError(f"Unknown channel_mode '{mode}'.{nearest(mode, CHANNEL_MODES)}")
    if mode == "sum" and count not in (1, old_channels):
        raise TransferlabError(f"channel_mode 'sum' gives 1 channel, not {count}. Use channel_mode='repeat'.")
    if mode == "zero" and count < old_channels:
        raise TransferlabError(
            f"channel_mode 'zero' adds channels to the file's {old_channels}, and cannot give {count}. Use channel_mode='repeat'."
        )
    notes = [f"{old_channels} to {count} channels, {mode}"] if count != old_channels else []
    notes += [f"{old_side}×{old_side} to {side}×{side} pixels, FlexiViT's pseudo-inverse"] if side != old_side else []
    if not notes:
        return None

    def apply(kernel: np.ndarray) -> np.ndarray:
        fitting = kernel if count == old_channels else CHANNEL_MODES[mode](kernel, count)
        return fitting if side == old_side else resized_patches(fitting, side)

    return Resize("; ".join(notes), (side, side, count, shape[3]), apply)


def resized_patches(
    kernel: Float[np.ndarray, "old old channels out"], side: int, rule: str = "bilinear antialias"
) -> Float[np.ndarray, "side side channels out"]:
    """Return the kernel for patches of another side, by FlexiViT's PI-resize (Beyer et al. 2023, section 3.4).

    With B the matrix that resizes a patch by ``rule``, the new kernel is the ``w'`` that brings ``⟨w', B x⟩`` nearest to
    ``⟨w, x⟩`` over all patches x. For larger patches they are equal: an enlarged image gives the same tokens.
    The paper's code resizes bilinearly; timm's ``resample_patch_embed`` uses ``bicubic antialias`` by default.
    """
    # B is the same matrix M along both axes, and the pseudo-inverse of a Kronecker product is that of its factors.
    along = np.linalg.pinv(RULES[rule](kernel.shape[0], side).T)
    new = np.einsum("ui,vj,ijco->uvco", along, along, kernel.astype(np.float64), optimize=True)
    return new.astype(kernel.dtype)


def _repeat(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The file's channels in turn, scaled by old / new, so that the sum over channels keeps its scale (timm)."""
    old = kernel.shape[2]
    return (kernel[:, :, np.arange(channels) % old] * (old / channels)).astype(kernel.dtype)


def _sum(kernel: np.ndarray, channels: int) -> np.ndarray:
    """One channel: a gray image gives what it gave as three equal channels (timm)."""
    return kernel.sum(2, keepdims=True, dtype=np.float32).astype(kernel.dtype)


def _zero(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The file's channels as they are, and nothing from the others until they are trained (fastai)."""
    return np.pad(kernel, ((0, 0), (0, 0), (0, channels - kernel.shape[2]), (0, 0)))


CHANNEL_MODES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"repeat": _repeat, "sum": _sum, "zero": _zero}
"""Mode → (kernel, channels) → the kernel for that many channels."""
