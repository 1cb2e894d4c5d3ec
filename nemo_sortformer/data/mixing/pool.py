# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The voices that conversations are mixed from: single-speaker utterances held in memory at one level.

All utterances lie in one int16 array (32 kB per second), which forked workers share. A voice is perturbed by
resampling the piece that is used: at 3 ms per conversation that is cheaper than the memory of a cache of variants, and
the factor can be any number, so there is no end of new speakers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import soxr

SAMPLE_RATE = 16_000
ACTIVE_RMS = 0.05  # -26 dB of full scale: leaves 26 dB for the peaks
_FRAME = 160  # 10 ms
_SHORTEST_PAUSE = 8  # frames of silence that separate words well enough to cut there


class PoolError(ValueError):
    """A pool of voices cannot be made from what was given."""


class Utterance(NamedTuple):
    """Where an utterance lies in the samples of its pool, and where one can cut it."""

    start: int
    count: int
    pauses: np.ndarray
    """Silent stretches of 80 ms or more inside, samples from the start of the utterance, shape (pauses, 2)."""
    texts: Mapping[str, str] = MappingProxyType({})
    """What is said, by field, where that is known."""
    lead: int = 0
    """Samples before the speech begins."""
    tail: int = 0
    """Samples after the speech has ended."""


class PoolSpeaker(NamedTuple):
    """A recorded or synthetic person."""

    name: str
    source: str
    utterances: tuple[Utterance, ...]


class Recording(NamedTuple):
    """One utterance on its way into a pool: 16 kHz mono samples and whose they are."""

    speaker: str
    source: str
    samples: np.ndarray
    texts: Mapping[str, str] = MappingProxyType({})
    lead: int = 0
    tail: int = 0


class UtterancePool:
    """Utterances of many speakers, each brought to the same level over its active part.

    Args:
        recordings: the utterances in any order; those shorter than `min_seconds` and silent ones are left out.
        min_seconds: shortest utterance to keep, seconds.

    Raises:
        PoolError: nothing is left.
    """

    def __init__(self, recordings: Iterable[Recording], *, min_seconds: float = 0.25) -> None:
        parts: list[np.ndarray] = []
        found: dict[tuple[str, str], list[Utterance]] = {}
        position = 0
        for speaker, source, samples, texts, lead, tail in recordings:
            if len(samples) < max(min_seconds * SAMPLE_RATE, 2 * _FRAME):
                continue
            level, pauses = measure(samples)
            if level <= 1e-5:
                continue
            scaled = samples * np.float32(ACTIVE_RMS / level)
            parts.append(np.clip(scaled * 32767, -32767, 32767).astype(np.int16))
            utterance = Utterance(position, len(samples), pauses, texts, lead, tail)
            found.setdefault((speaker, source), []).append(utterance)
            position += len(samples)
        if not parts:
            raise PoolError(
                f"A pool of voices needs at least one utterance of {min_seconds} s or more that is not silent, but "
                "there is none. Look at the manifest, `split` and `exclude_sources`."
            )
        self.samples = np.concatenate(parts)
        self.speakers = [PoolSpeaker(name, source, tuple(utts)) for (name, source), utts in sorted(found.items())]
        self._by_source = self._group()

    def __len__(self) -> int:
        return len(self.speakers)

    @classmethod
    def from_arrays(
        cls, voices: Mapping[str, Sequence[np.ndarray]], *, source: str = "arrays", min_seconds: float = 0.25
    ) -> UtterancePool:
        """Make a pool of 16 kHz float arrays, a list per speaker."""
        recordings = (Recording(name, source, x) for name, utterances in voices.items() for x in utterances)
        return cls(recordings, min_seconds=min_seconds)

    def merged(self, other: UtterancePool) -> UtterancePool:
        """Return a new pool with the speakers of both."""
        both = object.__new__(UtterancePool)
        both.samples = np.concatenate([self.samples, other.samples])
        shift = len(self.samples)
        moved = [
            speaker._replace(utterances=tuple(u._replace(start=u.start + shift) for u in speaker.utterances))
            for speaker in other.speakers
        ]
        both.speakers = [*self.speakers, *moved]
        both._by_source = both._group()
        return both

    def _group(self) -> dict[str, np.ndarray]:
        groups: dict[str, list[int]] = {}
        for index, speaker in enumerate(self.speakers):
            groups.setdefault(speaker.source, []).append(index)
        return {source: np.array(indices) for source, indices in sorted(groups.items())}

    @property
    def sources(self) -> dict[str, np.ndarray]:
        """Source name -> indices of its speakers."""
        return self._by_source

    @property
    def seconds(self) -> float:
        """How much speech there is, seconds."""
        return len(self.samples) / SAMPLE_RATE

    def piece(self, speaker: int, utterance: int, *, start: int, count: int, factor: float) -> np.ndarray:
        """Cut `count` samples from an utterance and play them `factor` times as fast.

        Returns:
            About `count / factor` float32 samples with faded ends (5 ms).
        """
        where = self.speakers[speaker].utterances[utterance]
        begin = where.start + start
        x = self.samples[begin : begin + count].astype(np.float32)
        x *= np.float32(1 / 32767)
        if factor != 1.0:
            x = soxr.resample(x, SAMPLE_RATE * factor, SAMPLE_RATE, quality="MQ")
        fade = min(80, len(x) // 2)
        if fade:
            x[:fade] *= _RAMP[:fade] if fade == 80 else np.linspace(0, 1, fade, dtype=np.float32)
            x[-fade:] *= _RAMP[::-1] if fade == 80 else np.linspace(1, 0, fade, dtype=np.float32)
        return x


_RAMP = np.linspace(0, 1, 80, dtype=np.float32)


def measure(samples: np.ndarray) -> tuple[float, np.ndarray]:
    """Find the level of the active part of an utterance and the pauses inside it.

    Args:
        samples: one utterance at 16 kHz, at least 20 ms.

    Returns:
        The root mean square over the frames within 30 dB of the loud ones, and the pauses as sample ranges, shape
        (pauses, 2): stretches of 80 ms or more that are over 22 dB below the active level, not at the ends.
    """
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    loud = np.quantile(power, 0.95)
    active = power[power >= loud * 1e-3]
    if loud <= 0 or not len(active):
        return 0.0, np.zeros((0, 2), dtype=np.int64)
    level = float(np.sqrt(active.mean()))
    quiet = np.concatenate([[False], power < level**2 * 10**-2.2, [False]])
    edges = np.flatnonzero(np.diff(quiet.astype(np.int8)))
    runs = edges.reshape(-1, 2)
    keep = (runs[:, 1] - runs[:, 0] >= _SHORTEST_PAUSE) & (runs[:, 0] > 0) & (runs[:, 1] < len(power))
    return level, runs[keep] * _FRAME
