# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The DER of one truth against many answers, without a grid of frames: the numbers of `score`, a hundred times faster.

The truth is cut once into stretches in which nothing of it changes. An answer adds its own boundaries to these, and
all that is left are matrix products over stretches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from nemo_sortformer.data.segment import Segment, merge_overlaps
from nemo_sortformer.inference.score import Condition, ErrorCounts


class Truth:
    """What was said in one recording, ready to be compared.

    Args:
        segments: who speaks when, in seconds.
        condition: what is left unscored.
        uem: the stretches that count, in seconds; None: all.

    Example:
        >>> truth = Truth([Segment(0.0, 8.0, "Ann"), Segment(8.0, 10.0, "Bob")], Condition(0.0))
        >>> truth.compare([np.array([[0.0, 9.0]])]).der
        0.2
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        condition: Condition,
        uem: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        if condition.collar < 0:
            raise ValueError(f"`collar` must be at least 0 seconds, but is {condition.collar}.")
        merged = merge_overlaps([segment for segment in segments if segment.end > segment.start])
        speakers = sorted({segment.speaker for segment in merged})
        spoken = [_table([(s.start, s.end) for s in merged if s.speaker == name]) for name in speakers]
        edges = np.array([time for s in merged for time in (s.start, s.end)])
        collars = np.stack([edges - condition.collar, edges + condition.collar], axis=1)
        counted = _table([(-np.inf, np.inf)] if uem is None else uem)
        self._cuts = _sorted_times([*spoken, collars, counted])
        middles = np.concatenate(([-np.inf], _middles(self._cuts), [np.inf]))  # and before the first, after the last
        self._active = _activity(spoken, middles)
        self._scored = _inside_any(counted, middles) & ~_inside_any(collars, middles)
        if condition.skip_overlap:
            self._scored &= self._active.sum(axis=1) < 2

    def compare(self, answer: Sequence[np.ndarray]) -> ErrorCounts:
        """Count the errors of an answer under the best pairing of speakers, in seconds; the Jaccard part stays empty.

        Args:
            answer: the segments of each speaker, shape (segments, 2), sorted and apart from each other.
        """
        times = _sorted_times([self._cuts[:, None], *answer])
        middles = _middles(times)
        stretch = np.searchsorted(self._cuts, middles)
        scored = self._scored[stretch]
        truth = self._active[stretch[scored]].astype(np.float64)
        heard = _activity(answer, middles[scored]).astype(np.float64)
        seconds = np.diff(times)[scored]
        together = (truth * seconds[:, None]).T @ heard
        rows, columns = linear_sum_assignment(-together)
        num_true, num_heard = truth.sum(axis=1), heard.sum(axis=1)
        paired = float(seconds @ np.minimum(num_true, num_heard))
        return ErrorCounts(
            missed=float(seconds @ np.maximum(num_true - num_heard, 0.0)),
            false_alarm=float(seconds @ np.maximum(num_heard - num_true, 0.0)),
            confusion=max(paired - float(together[rows, columns].sum()), 0.0),
            speech=float(seconds @ num_true),
        )


def _table(spans: Sequence[tuple[float, float]]) -> np.ndarray:
    return np.array(spans, dtype=np.float64).reshape(-1, 2)


def _sorted_times(spans: Sequence[np.ndarray]) -> np.ndarray:
    times = np.unique(np.concatenate([np.empty(0), *(table.ravel() for table in spans)]))
    return times[np.isfinite(times)]


def _middles(times: np.ndarray) -> np.ndarray:
    return (times[1:] + times[:-1]) / 2


def _activity(speakers: Sequence[np.ndarray], middles: np.ndarray) -> np.ndarray:
    """Whether each speaker is active at each time, shape (times, speakers); spans are sorted and apart."""
    columns = [np.searchsorted(spans.ravel(), middles) % 2 == 1 for spans in speakers]
    return np.stack(columns, axis=1) if columns else np.zeros((len(middles), 0), dtype=bool)


def _inside_any(spans: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Whether each time lies within one of the spans, which may overlap."""
    opened = np.searchsorted(np.sort(spans[:, 0]), middles, side="right")
    closed = np.searchsorted(np.sort(spans[:, 1]), middles)
    return opened > closed
