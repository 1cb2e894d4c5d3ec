# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Where a recognizer should listen: stretches of speech, cut in silence, none longer than it can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nemo_sortformer.data.segment import Segment

MARGIN_SECONDS = 0.3
"""Heard before and behind the speech of a stretch."""
JOIN_SECONDS = 1.0
"""Silences up to this do not part stretches."""
RAMP_SECONDS = 0.02
"""In which the sound of a masked stretch comes and goes."""
MASK_MARGIN_SECONDS = 0.1
"""Before and behind a speaker's segments that a mask lets through."""


class Stretch(NamedTuple):
    """A piece of a recording, in seconds of the audio file."""

    start: float
    end: float


class Level(NamedTuple):
    """How much speech there is at each frame; it is cut where there is least."""

    values: np.ndarray
    """Shape (frames,)."""
    offset: float
    """Time of the first frame, in seconds."""
    frame_seconds: float


def speech_stretches(
    segments: Sequence[Segment],
    *,
    start: float,
    end: float,
    max_seconds: float,
    level: Level | None = None,
    join_seconds: float = JOIN_SECONDS,
    margin_seconds: float = MARGIN_SECONDS,
) -> list[Stretch]:
    """Plan stretches that hold all speech between two times; they do not overlap each other.

    A stretch begins and ends in silence. One that would be longer than `max_seconds` is cut in its second half, at
    the frame with least speech by `level`; where nothing tells the frames apart, as late as can be.

    Args:
        segments: who speaks when; what lies outside of `start` to `end` is left out.
        start: seconds of the audio file.
        end: seconds of the audio file.
        max_seconds: longest stretch.
        level: how much speech there is; None counts the segments.
        join_seconds: silences up to this stay inside; at least twice `margin_seconds`.
        margin_seconds: silence taken along on each side.
    """
    inside = [(max(s.start, start), min(s.end, end)) for s in segments if s.start < end and s.end > start]
    regions: list[tuple[float, float]] = []
    for first, last in sorted(inside):
        if regions and first - regions[-1][1] <= join_seconds:
            regions[-1] = (regions[-1][0], max(last, regions[-1][1]))
        else:
            regions.append((first, last))
    level = level or _segment_count(inside, start, end)
    stretches = []
    for first, last in regions:
        left, right = max(first - margin_seconds, start), min(last + margin_seconds, end)
        while right - left > max_seconds:
            cut = _quietest(level, left + max_seconds / 2, left + max_seconds)
            stretches.append(Stretch(left, cut))
            left = cut
        stretches.append(Stretch(left, right))
    return stretches


def masked(samples: np.ndarray, segments: Sequence[Segment], *, start: float, sample_rate: int) -> np.ndarray:
    """Silence all of a piece of audio but one speaker's segments and a tenth of a second around them.

    Args:
        samples: shape (samples,).
        segments: of the speaker, in seconds of the audio file.
        start: of the piece, in seconds of the audio file.
        sample_rate: in Hz.
    """
    spans: list[tuple[float, float]] = []
    for segment in sorted(segments):
        first, last = segment.start - start - MASK_MARGIN_SECONDS, segment.end - start + MASK_MARGIN_SECONDS
        if spans and first - spans[-1][1] <= 2 * RAMP_SECONDS:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    if not spans:
        return np.zeros_like(samples)
    edges = np.array([(a - RAMP_SECONDS, a, b, b + RAMP_SECONDS) for a, b in spans]).ravel()
    gate = np.interp(np.arange(len(samples)) / sample_rate, edges, np.tile([0.0, 1.0, 1.0, 0.0], len(spans)))
    return (samples * gate).astype(np.float32)


def spread_over_speech(text: str, stretch: Stretch, segments: Sequence[Segment]) -> list[tuple[str, float, float]]:
    """Place the words of a text by their letters in the speech of a stretch, silences left out.

    Returns:
        Word, start and end, in seconds of the audio file.
    """
    from nemo_sortformer.data.spoken_words import spread_words

    inside = sorted((max(s.start, stretch.start), min(s.end, stretch.end)) for s in segments)
    spans: list[list[float]] = []
    for first, last in inside:
        if last <= first:
            continue
        if spans and first <= spans[-1][1]:
            spans[-1][1] = max(last, spans[-1][1])
        else:
            spans.append([first, last])
    table = np.array(spans or [list(stretch)])
    before = np.concatenate(([0.0], np.cumsum(table[:, 1] - table[:, 0])))
    words = spread_words(text, 0.0, float(before[-1]))
    times = np.array([word[1:] for word in words]).reshape(-1, 2)
    row = np.clip(np.searchsorted(before, times + [1e-9, -1e-9], side="right") - 1, 0, len(table) - 1)
    found = table[row, 0] + times - before[row]
    return [(word[0], float(start), float(end)) for word, (start, end) in zip(words, found, strict=True)]


def _segment_count(spans: Sequence[tuple[float, float]], start: float, end: float) -> Level:
    """How many speak, every 20 ms."""
    step = 0.02
    changes = np.zeros(int((end - start) / step) + 2)
    for sign, place in ((1, 0), (-1, 1)):
        np.add.at(changes, [int((span[place] - start) / step) for span in spans], sign)
    return Level(np.cumsum(changes), start, step)


def _quietest(level: Level, first: float, last: float) -> float:
    """The time between two at which there is least speech; of equal ones the last."""
    low = max(int(np.ceil((first - level.offset) / level.frame_seconds)), 0)
    high = int((last - level.offset) / level.frame_seconds)
    values = level.values[low : high + 1]
    if not len(values):
        return last
    place = len(values) - 1 - int(np.argmin(values[::-1]))
    return float(np.clip(level.offset + (low + place) * level.frame_seconds, first, last))
