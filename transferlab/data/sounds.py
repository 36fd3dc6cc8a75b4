"""Sounds from files: one channel of samples from -1 to 1, at the rate of the file."""

from __future__ import annotations

import importlib
import io
import warnings
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from transferlab import limits
from transferlab.errors import TransferlabError
from transferlab.reading import check_file

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
"""Suffixes of sounds in folders, in any case. WAV is read with SciPy, the others with ``soundfile``."""


def read_sound(file: Path | bytes, where: str) -> tuple[Float[np.ndarray, "samples channels"], int]:
    """Return a sound's samples, float32 from -1 to 1, and their rate in Hz.

    Args:
        file: path or content.
        where: names it in an error.

    Raises:
        TransferlabError: a file that is damaged, empty, of a kind that is not read, or has samples that are not finite.
    """
    content = check_file(file, limits.IMAGE_BYTES).read_bytes() if isinstance(file, Path) else file
    if (samples := _wav(content)) is None:
        samples = _other(content, where)
    waveform, rate = samples
    if not waveform.size or not np.isfinite(waveform).all():
        raise TransferlabError(f"{where}: the sound has no samples, or samples that are not finite.")
    return waveform.reshape(len(waveform), -1), rate


_LOUDEST = 64.0
"""Floats beyond it are integers by another type: recordings of floats go beyond 1 now and then, and not by so much."""


def samples_in(value: Any, where: str) -> tuple[Float[np.ndarray, "samples channels"], int]:
    """Return the samples of a sound in memory, float32 from -1 to 1, and their rate in Hz.

    Args:
        value: ``{"array": …, "sampling_rate": …}``, as ``datasets`` has it, or a pair (samples, rate), as soundfile returns it; of
            several channels the samples are (samples, channels).
        where: names it in an error.

    Raises:
        TransferlabError: anything else, a rate that is none, or samples that are not (:func:`checked_samples`).
    """
    match value:
        case {"array": array, **others}:
            rate = others.pop("sampling_rate", None)
        case (array, rate) if not isinstance(array, (int, float, np.number)):
            others = {}
        case (int() | np.integer(), _):
            raise TransferlabError(
                f"{where}: the rate comes first, as scipy.io.wavfile.read returns it; expected (samples, rate), and samples of 16 bits "
                "divided by 32768."
            )
        case _:
            bare = isinstance(value, (list, np.ndarray)) and len(value) and isinstance(value[0], (float, np.floating))
            shown = f"{len(value):,} samples without their rate" if bare else f"{str(value)[:60]!r}"
            raise TransferlabError(
                f"{where}: the sound is {shown}; expected {{'array': samples, 'sampling_rate': 16000}} or a pair (samples, 16000), as "
                "soundfile.read(file) returns it."
            )
    if not isinstance(rate, Integral) or isinstance(rate, bool) or rate < 1:
        other = next((name for name in ("rate", "sample_rate", "sr") if rate is None and name in others), None)
        advice = f"It is under '{other}': call it 'sampling_rate'." if other else "Give it, as in (samples, 16000)."
        if isinstance(rate, float) and rate.is_integer():
            advice = f"Pass {int(rate)}."
        raise TransferlabError(
            f"{where}: the sound's rate is {rate!r}; expected samples per second, an integer of at least 1. {advice}"
        )
    samples = checked_samples(array, where)
    return samples.reshape(len(samples), -1), int(rate)


def checked_samples(array: Any, where: str) -> Float[np.ndarray, "samples *channels"]:
    """Return samples, (samples,) or (samples, channels), as float32.

    Raises:
        TransferlabError: samples that are no floats from -1 to 1, are not finite, or are none; another shape. It says what mends it.
    """
    try:
        samples = np.asarray(array)
    except ValueError:
        samples = np.array(None)  # lists of different lengths
    kind, shape = samples.dtype.kind, samples.shape
    if kind not in "fiu" or samples.ndim not in (1, 2):
        raise TransferlabError(
            f"{where}: the samples have type {samples.dtype} and shape {shape}; expected floats, (samples,) or (samples, channels)."
        )
    if not samples.size:
        raise TransferlabError(f"{where}: the sound has no samples. Leave it out.")
    if kind in "iu":
        # As they are, samples of 16 bits would be 32,768 times too loud.
        sixteen = samples.dtype.itemsize == 2 or samples.dtype == np.int64
        scale = 32768 if sixteen else -int(np.iinfo(f"i{samples.dtype.itemsize}").min)
        mended = "(samples - 128.0) / 128" if samples.dtype == np.uint8 else f"samples / {scale}"
        bits = "of 16 bits: " if samples.dtype == np.int64 else ""
        raise TransferlabError(
            f"{where}: it has samples of {samples.dtype}; expected floats from -1 to 1. Divide by the largest that the type holds, "
            f"{bits}{mended}."
        )
    if (bad := np.argwhere(~np.isfinite(samples))).size:
        first = samples[tuple(bad[0])]
        raise TransferlabError(
            f"{where}: {len(bad):,} of {samples.size:,} samples are not finite; sample {bad[0][0]} is {first}. Leave the sound out, or "
            "make them silent: np.nan_to_num(samples, posinf=0, neginf=0)."
        )
    if samples.ndim == 2 and shape[1] > shape[0]:
        raise TransferlabError(
            f"{where}: the samples have shape {shape}; expected (samples, channels): samples.T has it."
        )
    if (largest := float(np.abs(samples).max())) > _LOUDEST:
        raise TransferlabError(
            f"{where}: it has samples up to {largest:,.0f}; expected floats from -1 to 1. Divide by the largest that their type "
            "held, of 16 bits: samples / 32768."
        )
    return samples.astype(np.float32, copy=False)


def mono(waveform: Float[np.ndarray, "samples channels"]) -> Float[np.ndarray, " samples"]:
    """Return the mean of all channels."""
    return waveform[:, 0] if waveform.shape[1] == 1 else waveform.mean(axis=1, dtype=np.float32)


def _wav(content: bytes) -> tuple[np.ndarray, int] | None:
    """A WAV of integers or floats; None for any other file."""
    from scipy.io import wavfile

    if content[:4] not in (b"RIFF", b"RIFX", b"RF64"):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that are not sound
            rate, samples = wavfile.read(io.BytesIO(content))
    except (ValueError, EOFError, OSError, IndexError, KeyError, TypeError, MemoryError, ZeroDivisionError):
        return None
    kind = samples.dtype.kind
    if kind == "u":
        return ((samples.astype(np.float32) - 128) / 128), int(rate)
    # 24 bits fill the upper ones of 32.
    scale = 1.0 if kind == "f" else float(np.iinfo(samples.dtype).max) + 1
    return (samples / scale).astype(np.float32), int(rate)


def _other(content: bytes, where: str) -> tuple[np.ndarray, int]:
    try:
        soundfile = importlib.import_module("soundfile")
    except (ImportError, OSError):
        raise TransferlabError(
            f"{where}: sounds other than WAV of integers or floats are read with soundfile, which is not installed:\n"
            "  pip install 'transferlab[audio]'"
        ) from None
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise TransferlabError(f"{where}: cannot be read as a sound ({' '.join(str(error).split())[:200]}).") from None
    return samples, int(rate)
