# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Kinds of anomaly in time series: which stretches are not normal, and which of them are of one kind.

All made. A series has a season, a drift and noise of its own; being normal is void. A kind of anomaly is something
done to a stretch of the series, stronger or weaker each time. Training kinds and unseen ones are of different
families: they differ in what is done, not in a number. Where two overlap, one is done to the result of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from nemo_sortformer.data.tasks.sequences import LabelTask, SequenceConfig, Split, Turn

FRAME_SAMPLES = 32
_LAGS = 8
_QUIET = 1e-3
Signal = NDArray[np.float64]
Change = Callable[[Signal, float, np.random.Generator], Signal]
"""(stretch of a series of unit spread, strength in [0.8, 1.25], random numbers) -> the changed stretch."""


def _bursts(x: Signal, rng: np.random.Generator, every: int, width: int) -> Signal:
    """1 in a burst of `width` samples every `every` samples, else 0."""
    return ((np.arange(len(x)) + int(rng.integers(every))) % every < width).astype(np.float64)


def _phase(x: Signal, rng: np.random.Generator, period: float) -> Signal:
    """Phase in [0, 1) of an oscillation that starts anywhere."""
    return (np.arange(len(x)) / period + rng.random()) % 1


def _hum(period: float) -> Change:
    return lambda x, s, rng: x + 1.5 * s * np.sin(2 * np.pi * _phase(x, rng, period))


def _spikes(height: float, every: int) -> Change:
    return lambda x, s, rng: x + height * s * _bursts(x, rng, every, 1)


def _level(shift: float) -> Change:
    return lambda x, s, rng: x + shift * s


def _noise(sigma: float) -> Change:
    return lambda x, s, rng: x + sigma * s * rng.standard_normal(len(x))


def _scale(factor: float) -> Change:
    return lambda x, s, rng: x * factor * s


def _square(period: float) -> Change:
    return lambda x, s, rng: x + 2 * s * np.sign(_phase(x, rng, period) - 0.5)


def _echo(lag: int) -> Change:
    return lambda x, s, rng: lfilter([1], [1, *[0] * (lag - 1), -0.8], x + 0.6 * s * rng.standard_normal(len(x)))


TRAIN_KINDS: dict[str, Change] = {
    **{f"hum of period {period}": _hum(period) for period in (3, 4.5, 7, 10)},
    **{f"spikes of {height} every {every}": _spikes(height, every) for height in (-5, 5) for every in (7, 15)},
    **{f"level {shift:+}": _level(shift) for shift in (-5, -2.5, 2.5, 5)},
    **{f"noise of {sigma}": _noise(sigma) for sigma in (0.8, 2.5)},
    **{f"scale {factor}": _scale(factor) for factor in (0.15, 3)},
    **{f"square wave of period {period}": _square(period) for period in (14, 26)},
    **{f"echo after {lag}": _echo(lag) for lag in (2, 5)},
    "random walk": lambda x, s, rng: x + 0.6 * s * np.cumsum(rng.standard_normal(len(x))),
    "coarse steps": lambda x, s, rng: np.round(x / (1.2 * s)) * 1.2 * s,
    "cut off above": lambda x, s, rng: np.minimum(x, -0.5 * s),
    "doublets": lambda x, s, rng: x + 4 * s * np.sign(_phase(x, rng, 16) - 0.125) * (_phase(x, rng, 16) < 0.25),
}
UNSEEN_KINDS: dict[str, Change] = {
    "stuck": lambda x, s, rng: np.full_like(x, x[0]),
    "drop-outs": lambda x, s, rng: np.where(_bursts(x, rng, 12, 5) > 0, -2.5 * s, x),
    "sawtooth": lambda x, s, rng: x + 2.5 * s * (2 * _phase(x, rng, 11) - 1),
    "chirps": lambda x, s, rng: x + 2 * s * np.sin(2 * np.pi * (np.arange(len(x)) % 32) ** 2 / 140),
    "mirrored and doubled": lambda x, s, rng: -2 * s * x,
    "held samples": lambda x, s, rng: np.repeat(x[::8], 8)[: len(x)] * 1.5 * s,
    "rectified": lambda x, s, rng: np.abs(x) * 2 * s,
    "alternating": lambda x, s, rng: x + 1.5 * s * (-1.0) ** np.arange(len(x)),
    "outliers to both sides": lambda x, s, rng: (
        x + 4 * s * np.sign(rng.standard_normal(len(x))) * (rng.random(len(x)) < 0.15)
    ),
}
KINDS = {**TRAIN_KINDS, **UNSEEN_KINDS}


class AnomalyTask(LabelTask):
    """Frames are 35 statistics of 32 samples each: moments, extremes, spectrum, correlation of neighbours.

    Args:
        sequences: how kinds of anomaly take turns.
        seed: start of all draws.
    """

    def __init__(self, sequences: SequenceConfig | None = None, *, seed: int = 0) -> None:
        classes = {"train": list(TRAIN_KINDS), "unseen": list(UNSEEN_KINDS)}
        super().__init__(classes, sequences or SequenceConfig(), seed)

    def render(
        self, classes: Sequence[str], turns: Sequence[Turn], split: Split, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Change the stretches of a normal series, then measure each frame."""
        return frame_statistics(self.series(classes, turns, rng))

    def series(self, classes: Sequence[str], turns: Sequence[Turn], rng: np.random.Generator) -> Signal:
        """Make the series itself, shape (num_frames * 32,)."""
        x = normal_series(self.sequences.num_frames * FRAME_SAMPLES, rng)
        for column, start, end in turns:
            inside = slice(start * FRAME_SAMPLES, end * FRAME_SAMPLES)
            x[inside] = KINDS[classes[column]](x[inside], rng.uniform(0.8, 1.25), rng)
        return x


def normal_series(num_samples: int, rng: np.random.Generator) -> Signal:
    """Make a series with a season of two harmonics, a slow drift and noise with memory; mean 0, unit spread."""
    time = np.arange(num_samples)
    period = rng.uniform(40, 120)
    season = np.sin(2 * np.pi * (time / period + rng.random()))
    season += rng.uniform(0, 0.6) * np.sin(4 * np.pi * (time / period + rng.random()))
    drift = rng.uniform(0, 0.4) * np.sin(2 * np.pi * (time / (num_samples * rng.uniform(0.5, 2)) + rng.random()))
    noise = lfilter([1], [1, -rng.uniform(0, 0.6)], rng.standard_normal(num_samples))
    x = season + drift + rng.uniform(0.1, 0.3) * noise
    return (x - x.mean()) / x.std()


def frame_statistics(x: Signal) -> NDArray[np.float64]:
    """Describe each frame of 32 samples by numbers of about unit size, shape (frames, 35).

    Args:
        x: the series, a multiple of 32 samples.
    """
    frames = x.reshape(-1, FRAME_SAMPLES)
    mean, spread = frames.mean(axis=1, keepdims=True), frames.std(axis=1, keepdims=True)
    unit = (frames - mean) / (spread + _QUIET)
    steps = np.diff(frames, axis=1)
    moments = [mean, np.log(spread + 0.03), (unit**3).mean(axis=1, keepdims=True)]
    moments += [np.log((unit**4).mean(axis=1, keepdims=True) + 0.3), frames.max(axis=1, keepdims=True)]
    moments += [frames.min(axis=1, keepdims=True), np.median(frames, axis=1, keepdims=True)]
    moments += [
        (np.abs(steps) < _QUIET).mean(axis=1, keepdims=True) * 2,
        np.log(np.abs(steps).mean(axis=1, keepdims=True) + 0.03),
    ]
    moments += [np.log(np.abs(steps).max(axis=1, keepdims=True) + 0.03)]
    spectrum = np.log(np.abs(np.fft.rfft(frames * np.hanning(FRAME_SAMPLES), axis=1))[:, 1:] + 0.3)
    lags = [(unit[:, lag:] * unit[:, :-lag]).mean(axis=1, keepdims=True) * 2 for lag in range(1, _LAGS + 2)]
    return np.concatenate([*moments, spectrum, *lags], axis=1)
