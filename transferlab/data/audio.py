"""Audio preprocessing: log-mel spectrograms as Whisper computes them (Radford et al. 2022, section 2.2)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from transferlab.bounds import Count, Positive
from transferlab.data.sounds import checked_samples
from transferlab.errors import TransferlabError
from transferlab.fields import check_fields


def resampled(waveform: Float[np.ndarray, " samples"], rate: int, to: int) -> Float[np.ndarray, " samples_after"]:
    """Return a waveform at another number of samples per second, by SciPy's polyphase filter; as it is where they are equal."""
    if rate == to:
        return waveform
    # It takes a third of a second to import.
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, to)
    return resample_poly(waveform, to // divisor, rate // divisor).astype(np.float32)


@dataclass(frozen=True)
class AudioTransform:
    """Turns a waveform, cut or padded to a fixed length, into a log-mel spectrogram.

    Attributes:
        bands: number of mel bands.
        rate: sampling rate that the model was trained with, in samples per second.
        window, hop: samples of one frame, and from one frame to the next.
        seconds: length of the audio that the model reads.

    Example:
        >>> tl.data.AudioTransform()(np.zeros(16000, np.float32), rate=16000).shape
        (3000, 80)
    """

    bands: Count = 80
    rate: Count = 16000
    window: Count = 400
    hop: Count = 160
    seconds: Positive = 30.0

    def __post_init__(self) -> None:
        check_fields(self, "AudioTransform")

    @property
    def frames(self) -> int:
        """Number of frames of a spectrogram."""
        return self._samples // self.hop

    def __call__(
        self, waveform: Float[np.ndarray, " samples"], rate: int | None = None
    ) -> Float[np.ndarray, "frames bands"]:
        """Return float32 (frames, bands).

        Args:
            waveform: one channel, from -1 to 1.
            rate: its samples per second; by default the model's.

        Raises:
            TransferlabError: another sampling rate, several channels, no samples, or values that are not finite floats from -1 to 1.
        """
        if rate is not None and rate != self.rate:
            raise TransferlabError(
                f"The audio has {rate} samples per second; this model reads {self.rate}. Resample it:\n"
                f"  >>> waveform = scipy.signal.resample_poly(waveform, {self.rate}, {rate})"
            )
        if np.ndim(waveform) != 1:
            raise TransferlabError(
                f"The audio has shape {np.shape(waveform)}; this model reads one channel, (samples,): waveform.mean(axis=1)."
            )
        waveform = checked_samples(waveform, "audio")
        audio = np.zeros(self._samples)
        audio[: len(waveform)] = waveform[: self._samples]
        padded = np.pad(audio, self.window // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.window)[:: self.hop][: self.frames]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        power = np.square(np.abs(np.fft.rfft(frames * hann, axis=1)))
        logs = np.log10(np.maximum(power @ self._filters, 1e-10))
        # The loudest 80 decibels, to about [-1, 1].
        return ((np.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0).astype(np.float32)

    def describe(self) -> dict[str, object]:
        """Return the fields that identify this preprocessing, as plain data."""
        return {"kind": "audio", **asdict(self)}

    @property
    def _samples(self) -> int:
        return round(self.seconds * self.rate)

    @cached_property
    def _filters(self) -> Float[np.ndarray, "bins bands"]:
        return mel_filters(self.bands, self.window // 2 + 1, self.rate)


def mel_filters(bands: int, bins: int, rate: int, highest: float = 8000.0) -> Float[np.ndarray, "bins bands"]:
    """Return triangles of equal area, evenly spaced in mel from 0 Hz to ``highest`` (Slaney 1998)."""
    edges = _hertz(np.linspace(0.0, _mel(highest), bands + 2))
    frequencies = np.linspace(0.0, rate / 2, bins)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))


_STEP, _KNEE = np.log(6.4) / 27.0, 15.0
"""Slaney's scale: 3 mel for 200 Hz up to 1000 Hz (15 mel), then 27 mel for a factor of 6.4."""


def _mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < 1000 else float(_KNEE + np.log(hertz / 1000) / _STEP)


def _hertz(mel: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.where(mel < _KNEE, 200 * mel / 3, 1000 * np.exp(_STEP * (mel - _KNEE)))
