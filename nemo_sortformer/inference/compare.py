# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Two answers to the same recording, side by side: whose name matches whose, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nemo_sortformer.data.segment import Segment


class ErrorInterval(NamedTuple):
    """A stretch of time in which nobody starts or stops, and how many speakers are wrong in it."""

    start: float
    end: float
    missed: int
    false_alarm: int
    confusion: int


def match_speakers(reference: Sequence[Segment], answer: Sequence[Segment]) -> dict[str, str]:
    """Map names of the answer to names of the reference so that the time they share is largest.

    One to one; a name that shares no time with its match stays out of the mapping.

    Example:
        >>> truth = [Segment(0.0, 2.0, "Ann"), Segment(2.0, 3.0, "Bob")]
        >>> match_speakers(truth, [Segment(0.0, 1.5, "x"), Segment(2.0, 3.0, "y")])
        {'x': 'Ann', 'y': 'Bob'}
    """
    from scipy.optimize import linear_sum_assignment

    grid, ref_active, ref_names = _activity(reference, extra=answer)
    _, answer_active, answer_names = _activity(answer, extra=reference)
    if not ref_names or not answer_names:
        return {}
    shared_AR = (answer_active * np.diff(grid)) @ ref_active.T
    rows, columns = linear_sum_assignment(-shared_AR)
    return {answer_names[a]: ref_names[r] for a, r in zip(rows, columns, strict=True) if shared_AR[a, r] > 0}


def error_intervals(reference: Sequence[Segment], answer: Sequence[Segment]) -> list[ErrorInterval]:
    """The intervals in which the answer is wrong after :func:`match_speakers`, in order of time, without collar.

    With r true and a answered speakers of whom c match, `missed` is max(r-a, 0), `false_alarm` is max(a-r, 0)
    and `confusion` is min(r, a) - c: the sums over time are the parts of the diarization error rate.
    """
    mapping = match_speakers(reference, answer)
    renamed = [Segment(s.start, s.end, mapping.get(s.speaker, f"\0{s.speaker}")) for s in answer]
    grid, ref_active, ref_names = _activity(reference, extra=renamed)
    _, answer_active, answer_names = _activity(renamed, extra=reference)
    true_I, answered_I = ref_active.sum(0).astype(int), answer_active.sum(0).astype(int)
    correct_I = np.zeros_like(true_I)
    for row, name in enumerate(answer_names):
        if name in ref_names:
            correct_I += (answer_active[row] * ref_active[ref_names.index(name)]).astype(int)
    missed_I = np.maximum(true_I - answered_I, 0)
    false_I = np.maximum(answered_I - true_I, 0)
    confused_I = np.minimum(true_I, answered_I) - correct_I
    return [
        ErrorInterval(float(grid[i]), float(grid[i + 1]), int(missed_I[i]), int(false_I[i]), int(confused_I[i]))
        for i in np.flatnonzero(missed_I + false_I + confused_I)
    ]


def _activity(segments: Sequence[Segment], *, extra: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Edges (I+1,) of both lists, 0/1 activity (names, I) of the first list, and its names by first appearance."""
    edges = np.unique([time for s in (*segments, *extra) for time in (s.start, s.end)])
    names = list(dict.fromkeys(s.speaker for s in segments))
    active = np.zeros((len(names), max(len(edges) - 1, 0)))
    for segment in segments:
        first, last = np.searchsorted(edges, [segment.start, segment.end])
        active[names.index(segment.speaker), first:last] = 1
    return edges, active, names
