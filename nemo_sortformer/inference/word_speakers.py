# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Give words to speakers: to the active speaker that fits best, words in silence to the nearest in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.transcript import TranscribedWord

if TYPE_CHECKING:
    from nemo_sortformer.inference.results import Diarization

SHORTEST_WORD = 0.01
"""A word that is shorter is taken to last so many seconds."""
UNKNOWN = "unknown"
"""Who says words where the diarization hears nobody at all."""


def assign_speakers(
    words: Sequence[tuple[str, float, float]],
    diarization: Diarization,
    *,
    confidences: Sequence[float | None] | None = None,
) -> list[TranscribedWord]:
    """Give each word, (text, start, end) in seconds of the audio file, to a speaker of a diarization.

    A word goes to the speaker, of those active during it, whose mean probability over it is highest; where the
    diarization holds no probabilities, to the one who is active longest during it. A word during which nobody is
    active goes to the speaker who is nearest in time. Ties go to the speaker who arrived first. Words outside the
    audio are in silence. Where nobody speaks at all the speaker is `unknown`.

    Raises:
        ValueError: a word ends before it starts, or its times are not finite.
    """
    speakers = _in_order(diarization.speakers)
    spans = np.asarray([(start, end) for _, start, end in words], dtype=np.float64).reshape(-1, 2)
    columns = [int(name.rpartition("_")[2]) if name.startswith("speaker_") else -1 for name in speakers]
    probs = diarization.probs
    usable = probs is not None and all(0 <= column < probs.shape[1] for column in columns)
    found = speakers_of_spans(
        spans,
        [s._replace(speaker=str(speakers.index(s.speaker))) for s in diarization.segments],
        num_speakers=len(speakers),
        probs=probs[:, columns] if usable and probs is not None else None,
        offset=diarization.offset,
        frame_seconds=diarization.frame_seconds,
    )
    sure = confidences if confidences is not None else [None] * len(words)
    return [
        TranscribedWord(text, start, end, UNKNOWN if k < 0 else speakers[k], confidence)
        for (text, start, end), k, confidence in zip(words, found.tolist(), sure, strict=True)
    ]


def speakers_of_spans(
    spans: np.ndarray,
    segments: Sequence[Segment],
    *,
    num_speakers: int,
    probs: np.ndarray | None = None,
    offset: float = 0.0,
    frame_seconds: float = 0.08,
) -> np.ndarray:
    """The rule of :func:`assign_speakers` on numbers.

    Args:
        spans: start and end of each word in seconds, shape (words, 2).
        segments: whose `speaker` is a number, "0" for the first to arrive, below `num_speakers`.
        num_speakers: how many there are.
        probs: speech probabilities, shape (frames, num_speakers); None where they are not known.
        offset: time of the first frame, in seconds.
        frame_seconds: from one frame to the next.

    Returns:
        The number of each word's speaker, shape (words,); -1 where there are no segments.

    Raises:
        ValueError: a word ends before it starts, or its times are not finite.
    """
    if not np.isfinite(spans).all() or (spans[:, 1] < spans[:, 0]).any():
        wrong = spans[~(np.isfinite(spans).all(axis=1) & (spans[:, 1] >= spans[:, 0]))][0]
        raise ValueError(f"A word must not end before it starts, but one is from {wrong[0]} to {wrong[1]} s.")
    if not len(spans) or not segments:
        return np.full(len(spans), -1)
    starts, ends = spans[:, 0], np.maximum(spans[:, 1], spans[:, 0] + SHORTEST_WORD)
    rows = np.array([(s.start, s.end, int(s.speaker)) for s in segments])
    edges = np.unique(rows[:, :2])
    switches = np.zeros((len(edges), num_speakers))
    np.add.at(switches, (np.searchsorted(edges, rows[:, 0]), rows[:, 2].astype(int)), 1)
    np.add.at(switches, (np.searchsorted(edges, rows[:, 1]), rows[:, 2].astype(int)), -1)
    active = np.cumsum(switches, axis=0)[:-1] > 0.5  # between one edge and the next
    seconds = integral(active, edges, ends) - integral(active, edges, starts)
    score = seconds
    if probs is not None and len(probs):
        times = offset + frame_seconds * np.arange(len(probs) + 1)
        score = (integral(probs, times, ends) - integral(probs, times, starts)) / (ends - starts)[:, None]
    heard = seconds > 1e-9
    best = np.where(heard, score, -np.inf)
    best = np.where(heard.any(axis=1), _first_largest(best), -1)
    silent = np.flatnonzero(best < 0)
    best[silent] = _nearest(starts[silent], ends[silent], rows)
    return best


def integral(values: np.ndarray, times: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The area under a staircase from its first step to each of some points.

    Args:
        values: height of each step, shape (steps, columns); 0 outside of them.
        times: the edges of the steps, ascending, shape (steps + 1,).
        points: shape (points,).

    Returns:
        Shape (points, columns), float64.
    """
    heights = np.asarray(values, dtype=np.float64)
    areas = np.concatenate((np.zeros((1, heights.shape[1])), np.cumsum(heights * np.diff(times)[:, None], axis=0)))
    inside = np.clip(points, times[0], times[-1])
    step = np.clip(np.searchsorted(times, inside, side="right") - 1, 0, len(heights) - 1)
    return areas[step] + heights[step] * (inside - times[step])[:, None]


def _first_largest(scores: np.ndarray) -> np.ndarray:
    """The first column whose value is the largest but for the rounding of sums, shape (rows,)."""
    largest = scores.max(axis=1, keepdims=True)
    return np.argmax(scores >= np.where(np.isfinite(largest), largest - 1e-9, largest), axis=1)


def _nearest(starts: np.ndarray, ends: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The speaker of the segment nearest in time to each of some spans that no segment overlaps."""
    before = rows[np.lexsort((-rows[:, 2], rows[:, 1]))]  # by end; of those that end together the first to arrive last
    after = rows[np.lexsort((rows[:, 2], rows[:, 0]))]
    last = np.searchsorted(before[:, 1], starts + 1e-9, side="right") - 1
    first = np.searchsorted(after[:, 0], ends - 1e-9, side="left")
    ago = np.where(last >= 0, starts - before[np.maximum(last, 0), 1], np.inf)
    ahead = np.where(first < len(after), after[np.minimum(first, len(after) - 1), 0] - ends, np.inf)
    past, coming = before[np.maximum(last, 0), 2], after[np.minimum(first, len(after) - 1), 2]
    tied = np.abs(ago - ahead) < 1e-9
    return np.where(tied, np.minimum(past, coming), np.where(ago < ahead, past, coming)).astype(int)


def _in_order(speakers: Sequence[str]) -> list[str]:
    """Speakers by their number, which is their order of arrival; others behind, as they come."""

    def number(name: str) -> int:
        tail = name.rpartition("_")[2]
        return int(tail) if tail.isdigit() else 1 << 30

    return sorted(speakers, key=number)
