# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Real conversations among the mixed ones: excerpts as they are, and the sound of their rooms behind mixed voices.

A mixture of clean utterances knows no chairs, papers, breaths and distant murmurs. Even minutes of real meetings hold
many of them, each labelled as not being speech by the silence of its RTTM file.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.audio import read_audio
from nemo_sortformer.data.labels import LabelReader
from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.data.mixing.pool import ACTIVE_RMS, SAMPLE_RATE, PoolError, measure
from nemo_sortformer.data.segment import Segment

_MARGIN_SECONDS = 0.15  # labels are not exact: so much beside a segment is not taken for background
_SHORTEST_SECONDS = 0.4  # of a stretch of background
_FADE = 320  # samples over which one stretch of background gives way to the next


class RecordedConversation(NamedTuple):
    """A labelled recording in memory."""

    samples: np.ndarray
    """float32 at the level of the pool, shape (samples,)."""
    segments: tuple[Segment, ...]


class RecordedConversations:
    """Labelled recordings to take excerpts and backgrounds from.

    Args:
        conversations: at least one, each at 16 kHz.
    """

    def __init__(self, conversations: list[RecordedConversation]) -> None:
        self.conversations = conversations
        found = [_without_speech(one) for one in conversations]
        self._backgrounds = [stretch for stretches in found for stretch in stretches]

    @classmethod
    def from_manifest(cls, path: str | Path, *, split: str | None = None) -> RecordedConversations:
        """Read the recordings that a NeMo manifest names, with their RTTM or SegLST files.

        Args:
            path: the manifest.
            split: take only the lines whose `split` is this; None takes all.

        Raises:
            ManifestError, AudioError, RttmError: a line, a recording or its labels cannot be read.
            PoolError: no line is left.
        """
        labels, conversations = LabelReader(), []
        for entry in read_manifest(path):
            if split is not None and entry.extra.get("split") != split:
                continue
            samples = read_audio(
                entry.audio_filepath, offset=entry.offset, duration=entry.duration, sample_rate=SAMPLE_RATE
            )
            end = len(samples) / SAMPLE_RATE
            segments = [
                Segment(max(s.start - entry.offset, 0.0), min(s.end - entry.offset, end), s.speaker)
                for s in labels.entry(entry)
            ]
            conversations.append(
                RecordedConversation(_at_pool_level(samples), tuple(s for s in segments if s.end > s.start))
            )
        if not conversations:
            raise PoolError(f"{path}: `recorded_split` {split!r} leaves no recording.")
        return cls(conversations)

    def excerpt(self, config: MixingConfig, rng: np.random.Generator) -> tuple[np.ndarray, list[Segment]]:
        """Cut `session_seconds` out of a recording, faster or slower as voices are perturbed.

        Returns:
            The track, shape (samples,), float32, silent at the end where the recording is shorter, and its segments.
        """
        chosen = self.conversations[int(rng.integers(len(self.conversations)))]
        factor = (
            float(np.exp(rng.uniform(*np.log(config.speed_range)))) if rng.random() < config.speed_probability else 1.0
        )
        count = round(config.session_seconds * SAMPLE_RATE)
        wanted = min(round(count * factor), len(chosen.samples))
        begin = int(rng.integers(len(chosen.samples) - wanted + 1))
        piece = chosen.samples[begin : begin + wanted]
        if factor != 1.0:
            piece = soxr.resample(piece, SAMPLE_RATE * factor, SAMPLE_RATE, quality="MQ")
        track = np.zeros(count, dtype=np.float32)
        track[: min(count, len(piece))] = piece[:count]
        start, end = begin / SAMPLE_RATE, (begin + wanted) / SAMPLE_RATE
        segments = [
            Segment(
                (max(s.start, start) - start) / factor,
                min((min(s.end, end) - start) / factor, count / SAMPLE_RATE),
                s.speaker,
            )
            for s in chosen.segments
            if s.start < end and s.end > start
        ]
        return track, sorted(s for s in segments if s.end > s.start)

    def background(self, num_samples: int, rng: np.random.Generator) -> np.ndarray | None:
        """Lay stretches without speech end to end, at the level of a speaker; None where there are none.

        Returns:
            Shape (num_samples,), float32, of root mean square `ACTIVE_RMS`.
        """
        if not self._backgrounds:
            return None
        ramp = np.linspace(0.0, 1.0, _FADE, dtype=np.float32)
        track = np.zeros(num_samples + _FADE, dtype=np.float32)
        position = 0
        while position < num_samples:
            stretch = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
            begin = int(rng.integers(max(1, len(stretch) // 2)))
            piece = stretch[begin : begin + num_samples + _FADE - position].copy()
            if len(piece) < 2 * _FADE:
                break
            piece[:_FADE] *= ramp
            piece[-_FADE:] *= ramp[::-1]
            track[position : position + len(piece)] += piece
            position += len(piece) - _FADE
        track = track[:num_samples]
        level = np.sqrt(np.dot(track, track) / num_samples)
        return track * np.float32(ACTIVE_RMS / max(level, 1e-9))


def _at_pool_level(samples: np.ndarray) -> np.ndarray:
    level, _ = measure(samples)
    return samples * np.float32(ACTIVE_RMS / max(level, 1e-6))


def _without_speech(one: RecordedConversation) -> list[np.ndarray]:
    """Stretches of a recording in which nobody speaks by its labels."""
    silent = np.ones(len(one.samples), dtype=bool)
    for segment in one.segments:
        begin = max(0, int((segment.start - _MARGIN_SECONDS) * SAMPLE_RATE))
        silent[begin : int((segment.end + _MARGIN_SECONDS) * SAMPLE_RATE)] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(np.int8)))
    shortest = _SHORTEST_SECONDS * SAMPLE_RATE
    return [one.samples[a:b] for a, b in edges.reshape(-1, 2) if b - a >= shortest]
