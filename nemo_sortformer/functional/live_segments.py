# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Segments while the probabilities come in: those that nothing can change any more, and those that may still grow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nemo_sortformer.functional.segments import SAME_TIME, join_stretches, speech_stretches


class LiveSegments(NamedTuple):
    """What is known of the segments of a stream: a value."""

    frames: int
    """Frames seen."""
    opened: NDArray[np.float64]
    """When the speech that goes on began, shape (slots,), in seconds; NaN where the slot is silent."""
    stretches: NDArray[np.float64]
    """Speech of which the segments are not settled: slot, start and end in seconds, shape (n, 3), sorted."""


def no_segments(num_slots: int) -> LiveSegments:
    """Before the first frame."""
    return LiveSegments(0, np.full(num_slots, np.nan), np.zeros((0, 3)))


def advance_segments(
    state: LiveSegments,
    probs: NDArray[np.float32],
    *,
    frame_seconds: float,
    onset: float = 0.5,
    offset: float = 0.5,
    pad_onset: float = 0.0,
    pad_offset: float = 0.0,
    min_duration_on: float = 0.0,
    min_duration_off: float = 0.0,
    end_seconds: float | None = None,
) -> tuple[LiveSegments, NDArray[np.float64], NDArray[np.float64]]:
    """Take in the next frames. All finished segments together are what `active_segments` says about all frames.

    Args:
        state: what is known so far; it is not changed.
        probs: speech probabilities of the next frames, shape (frames, slots).
        frame_seconds: seconds per frame.
        onset: and the other options, as in `active_segments`.
        offset: speech ends below this probability.
        pad_onset: seconds added before each segment.
        pad_offset: seconds added after each segment.
        min_duration_on: seconds of the shortest segment that is kept.
        min_duration_off: seconds of the shortest pause that is kept.
        end_seconds: these are the last frames, and the recording ends here; everything is finished then.

    Returns:
        What is known now; the segments that are finished by these frames; and those that are there but may still
        change. Each row of the latter two is slot, start and end in seconds; the rows are sorted by start.

    Raises:
        ValueError: the probabilities have NaN in them.
    """
    if np.isnan(probs).any():
        raise ValueError("`probs` must be numbers, but has NaN in it: the model's weights are not finite.")
    now = (state.frames + len(probs)) * frame_seconds
    speaking = ~np.isnan(state.opened)
    table = np.concatenate([speaking[None].astype(probs.dtype), probs])
    slot, start, end = speech_stretches(table, frame_seconds, onset, offset)
    before = (state.frames - 1) * frame_seconds  # the first row of the table stands for what went before
    goes_on = start < SAME_TIME
    start, end = np.where(goes_on, state.opened[slot], start + before), end + before
    is_open = end > now - SAME_TIME
    opened = np.full_like(state.opened, np.nan)
    opened[slot[is_open]] = start[is_open]

    found = np.column_stack([slot, start, end])
    known = np.concatenate([state.stretches, found])
    known = known[np.lexsort((known[:, 1], known[:, 0]))]
    segments = _join(known, pad_onset, pad_offset, min_duration_on, min_duration_off, end_seconds)
    if end_seconds is not None:
        return LiveSegments(state.frames + len(probs), opened, known[:0]), _by_start(segments), segments[:0]

    # Nothing to come starts before this; a stretch that it may still reach is not settled either, as it may grow.
    next_start = np.where(np.isnan(opened), now, opened) - pad_onset
    groups = _join(known, pad_onset, pad_offset, 0.0, 0.0, None)
    reached = groups[groups[:, 2] > next_start[groups[:, 0].astype(int)] - SAME_TIME]
    np.minimum.at(next_start, reached[:, 0].astype(int), reached[:, 1])
    settled_until = np.minimum(next_start - max(min_duration_off, SAME_TIME), now) + SAME_TIME / 2
    is_final = segments[:, 2] <= settled_until[segments[:, 0].astype(int)]
    changing = segments[~is_final]
    first_changing = np.full(len(opened), np.inf)
    np.minimum.at(first_changing, changing[:, 0].astype(int), changing[:, 1])
    closed = np.concatenate([state.stretches, found[~is_open]])
    closed = closed[np.lexsort((closed[:, 1], closed[:, 0]))]
    own = closed[:, 0].astype(int)
    kept = closed[:, 2] + pad_offset > np.minimum(first_changing, settled_until)[own]
    state = LiveSegments(state.frames + len(probs), opened, closed[kept])
    return state, _by_start(segments[is_final]), _by_start(changing)


def _join(
    stretches: NDArray[np.float64], pad_on: float, pad_off: float, min_on: float, min_off: float, end: float | None
) -> NDArray[np.float64]:
    joined = join_stretches(
        stretches[:, 0].astype(np.int64),
        stretches[:, 1],
        stretches[:, 2],
        pad_onset=pad_on,
        pad_offset=pad_off,
        min_duration_on=min_on,
        min_duration_off=min_off,
        max_seconds=end,
    )
    return np.column_stack(joined).astype(np.float64)


def _by_start(segments: NDArray[np.float64]) -> NDArray[np.float64]:
    return segments[np.lexsort((segments[:, 0], segments[:, 1]))]
