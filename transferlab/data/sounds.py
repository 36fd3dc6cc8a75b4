"""Sounds from files: one channel of samples from -1 to 1, at the rate of the file."""

from __future__ import annotations

import importlib
import io
import warnings
from pathlib import Path

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
