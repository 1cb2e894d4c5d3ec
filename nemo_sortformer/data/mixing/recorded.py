# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Real conversations among the mixed ones: excerpts of them, and the sound of their rooms behind mixed voices.

A mixture of clean utterances knows no chairs, papers, breaths and distant murmurs. Even minutes of real meetings hold
many of them, each labelled as not being speech by the silence of its RTTM file. So the labels have to be complete:
speech that they leave out is taught as noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.audio import read_audio
from nemo_sortformer.data.labels import LabelReader
from nemo_sortformer.data.manifest import ManifestEntry, ManifestError, read_manifest
from nemo_sortformer.data.mixing.conversation import draw_factor
from nemo_sortformer.data.mixing.pool import ACTIVE_RMS, SAMPLE_RATE, PoolError, measure
from nemo_sortformer.data.segment import Segment

_SHORTEST_RECORDING = 1.0  # seconds
_SPEECH_FOR_LEVEL = 2.0  # seconds: the level of less speech says little of the recording
_SILENCE = 1e-5  # root mean square below which there is nothing to hear, as in the pool of voices
_MARGIN_SECONDS = 0.15  # labels are not exact: so much beside a segment is not taken for background
_SHORTEST_SECONDS = 0.4  # of a stretch of background; half of it must be longer than two fades
_FADE = 320  # samples over which one stretch of background gives way to the next
_END_FADE = 80  # samples over which a recording that is shorter than a conversation ends


class RecordedConversation(NamedTuple):
    """A labelled recording in memory, 64 kB per second."""

    samples: np.ndarray
    """float32 at 16 kHz, shape (samples,)."""
    segments: tuple[Segment, ...]
    """Who speaks when, seconds from the first sample, none beyond the last."""
    source: str = "a recorded conversation"
    """What error messages call it: ``file:line`` of its manifest."""


class RecordedConversations:
    """Labelled recordings to take excerpts and backgrounds from.

    Each is brought to the level of the pool of voices by its labelled speech; one with less than 2 s of speech is
    taken to be recorded like the others and gets their median gain.

    Args:
        conversations: at least one, each of 1 s or more.
        max_speakers: largest number of speakers in an excerpt; None: any.

    Raises:
        PoolError: a recording is too short, or silent where its labels say that someone speaks.
    """

    def __init__(self, conversations: Sequence[RecordedConversation], *, max_speakers: int | None = None) -> None:
        if not conversations:
            raise PoolError("There are no recorded conversations. Give at least one.")
        for one in conversations:
            if len(one.samples) < _SHORTEST_RECORDING * SAMPLE_RATE:
                raise PoolError(
                    f"{one.source}: a recorded conversation must have {_SHORTEST_RECORDING:g} s or more, but has "
                    f"{len(one.samples) / SAMPLE_RATE:.3f} s. Leave it out."
                )
        self.conversations = _at_pool_level(conversations)
        self.max_speakers = max_speakers
        self._times = [_speaker_times(one) for one in self.conversations]
        found = [_without_speech(one) for one in self.conversations]
        self._backgrounds = [stretch for stretches in found for stretch in stretches]

    @classmethod
    def from_manifest(
        cls, path: str | Path, *, split: str | None = None, max_speakers: int | None = None
    ) -> RecordedConversations:
        """Read the recordings that a NeMo manifest names, with their RTTM or SegLST files.

        Args:
            path: the manifest.
            split: take only the lines whose `split` is this; None takes all.
            max_speakers: largest number of speakers in an excerpt; None: any.

        Raises:
            ManifestError: a line cannot be read.
            PoolError: a recording or its labels cannot be read or used (the message names the line), or no line is
                left.
        """
        entries = read_manifest(path)
        chosen = [entry for entry in entries if split is None or entry.extra.get("split") == split]
        if not chosen:
            there = sorted({str(entry.extra.get("split")) for entry in entries})
            raise PoolError(f"{path}: `recorded_split` {split!r} leaves no recording; there are {', '.join(there)}.")
        labels = LabelReader()
        return cls([_read(entry, labels) for entry in chosen], max_speakers=max_speakers)

    def check(self, config: MixingConfig) -> None:
        """Make sure before training that each recording has excerpts, at whatever factor.

        Raises:
            PoolError: in each excerpt of a recording speak more than `max_speakers`.
        """
        longest = round(config.session_seconds * SAMPLE_RATE * max(1.0, config.speed_range[1]))
        for index, one in enumerate(self.conversations):
            self._starts(index, min(longest, len(one.samples)))

    def excerpt(self, config: MixingConfig, rng: np.random.Generator) -> tuple[np.ndarray, list[Segment]]:
        """Cut `session_seconds` out of a recording, faster or slower as voices are perturbed.

        Each recording is as likely as any other, and each place in it where at most `max_speakers` speak is as likely
        as any other.

        Returns:
            The track, shape (samples,), float32, silent at the end where the recording is shorter, and its segments.

        Raises:
            PoolError: there is no such place; :meth:`check` finds that beforehand.
        """
        index = int(rng.integers(len(self.conversations)))
        chosen = self.conversations[index]
        factor = draw_factor(config, rng)
        count = round(config.session_seconds * SAMPLE_RATE)
        wanted = min(round(count * factor), len(chosen.samples))
        first, past = self._starts(index, wanted)
        lengths = np.cumsum(past - first)
        place = int(rng.integers(lengths[-1]))
        span = int(np.searchsorted(lengths, place, side="right"))
        begin = int(past[span] - lengths[span]) + place
        piece = chosen.samples[begin : begin + wanted]
        if factor != 1.0:
            piece = soxr.resample(piece, SAMPLE_RATE * factor, SAMPLE_RATE, quality="MQ")
        track = np.zeros(count, dtype=np.float32)
        length = min(count, len(piece))
        track[:length] = piece[:length]
        if wanted < round(count * factor):  # it ends before the conversation does
            track[length - _END_FADE : length] *= np.linspace(1.0, 0.0, _END_FADE, dtype=np.float32)
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
        rising = np.sin(np.linspace(0.0, np.pi / 2, _FADE, dtype=np.float32))  # keeps the power of two noises
        length = num_samples + 3 * _FADE  # what fades at either end is cut off
        track = np.zeros(length, dtype=np.float32)
        position = 0
        while position < num_samples + _FADE:
            stretch = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
            begin = int(rng.integers(max(1, len(stretch) // 2)))
            piece = stretch[begin : begin + length - position].copy()  # never shorter than two fades
            piece[:_FADE] *= rising
            piece[-_FADE:] *= rising[::-1]
            track[position : position + len(piece)] += piece
            position += len(piece) - _FADE
        track = track[_FADE : _FADE + num_samples]
        level = np.sqrt(np.dot(track, track) / num_samples)
        return track * np.float32(ACTIVE_RMS / max(level, 1e-9))

    def _starts(self, index: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """First and past-the-end sample of the spans where an excerpt of `count` samples may begin, each (spans,)."""
        one = self.conversations[index]
        end = len(one.samples) - count + 1
        times = self._times[index]
        if self.max_speakers is None or len(times) <= self.max_speakers:
            return np.array([0]), np.array([end])
        # A segment [first, past) is heard in the excerpts that begin in [first - count + 1, past).
        knots = [knot for first, past in times for knot in (first - count + 1, past)]
        edges = np.unique(np.clip(np.concatenate([[0, end], *knots]), 0, end))
        heard = sum(
            np.searchsorted(first - count + 1, edges[:-1], side="right") > np.searchsorted(past, edges[:-1], "right")
            for first, past in times
        )
        free = heard <= self.max_speakers
        if not free.any():
            raise PoolError(
                f"{one.source}: more than {self.max_speakers} speakers are active within each "
                f"{count / SAMPLE_RATE:g} s of this recording, but the model has {self.max_speakers} slots. Leave it "
                "out, shorten `session_seconds`, or give the model more slots."
            )
        return edges[:-1][free], edges[1:][free]


def _read(entry: ManifestEntry, labels: LabelReader) -> RecordedConversation:
    try:
        samples = read_audio(
            entry.audio_filepath, offset=entry.offset, duration=entry.duration, sample_rate=SAMPLE_RATE
        )
        found = labels.entry(entry)
    except ManifestError:  # names the line already
        raise
    except ValueError as error:
        raise PoolError(f"{entry.source}: {error}") from error
    end = len(samples) / SAMPLE_RATE
    segments = (Segment(max(s.start - entry.offset, 0.0), min(s.end - entry.offset, end), s.speaker) for s in found)
    return RecordedConversation(samples, tuple(s for s in segments if s.end > s.start), entry.source)


def _at_pool_level(conversations: Sequence[RecordedConversation]) -> list[RecordedConversation]:
    """Bring labelled speech to `ACTIVE_RMS`; noise in a recording without speech must not come to that level."""
    gains: list[float | None] = []
    for one in conversations:
        spoken = one.samples[_speech(one)]
        gain = None
        if len(spoken) >= _SPEECH_FOR_LEVEL * SAMPLE_RATE:
            level, _ = measure(spoken)
            if level <= _SILENCE:
                raise PoolError(
                    f"{one.source}: is silent where its labels say that someone speaks. Leave it out, or correct the "
                    "paths of audio and labels."
                )
            gain = ACTIVE_RMS / level
        gains.append(gain)
    known = [gain for gain in gains if gain is not None]
    usual = float(np.median(known)) if known else None
    scaled = []
    for one, gain in zip(conversations, gains, strict=True):
        if gain is None:
            gain = usual if usual is not None else ACTIVE_RMS / max(measure(one.samples)[0], 1e-3)
        scaled.append(one._replace(samples=one.samples * np.float32(gain)))
    return scaled


def _speech(one: RecordedConversation, margin: float = 0.0) -> np.ndarray:
    """Which samples are speech by the labels, or at most `margin` seconds from it, bool, shape (samples,)."""
    speech = np.zeros(len(one.samples), dtype=bool)
    for segment in one.segments:
        begin = max(0, int((segment.start - margin) * SAMPLE_RATE))
        speech[begin : int((segment.end + margin) * SAMPLE_RATE) + 1] = True
    return speech


def _without_speech(one: RecordedConversation) -> list[np.ndarray]:
    """Stretches of a recording in which nobody speaks by its labels, and something is to be heard."""
    silent = ~_speech(one, _MARGIN_SECONDS)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(np.int8)))
    shortest = _SHORTEST_SECONDS * SAMPLE_RATE
    stretches = [one.samples[a:b] for a, b in edges.reshape(-1, 2) if b - a >= shortest]
    return [x for x in stretches if np.dot(x, x) > len(x) * _SILENCE**2]


def _speaker_times(one: RecordedConversation) -> list[tuple[np.ndarray, np.ndarray]]:
    """First and past-the-end samples of the segments of each speaker, each sorted, shape (segments,)."""
    times: dict[str, list[tuple[float, float]]] = {}
    for start, end, speaker in one.segments:
        times.setdefault(speaker, []).append((start * SAMPLE_RATE, end * SAMPLE_RATE))
    return [
        (np.sort(np.floor(rows[:, 0]).astype(np.int64)), np.sort(np.ceil(rows[:, 1]).astype(np.int64)))
        for rows in map(np.array, times.values())
    ]
