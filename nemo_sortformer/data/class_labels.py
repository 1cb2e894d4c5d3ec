# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Labels of any classes over frames, as they are stored, turned into targets in order of arrival."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nemo_sortformer.data.embedding_files import EmbeddingError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.targets import covered_units
from nemo_sortformer.functional.arrival import sort_by_arrival

__all__ = ["TooManyClassesError", "class_targets", "label_matrix", "segment_labels"]


class TooManyClassesError(EmbeddingError):
    """A sequence in which more classes are active than the model has slots."""


def label_matrix(labels: Any) -> NDArray[np.float32]:
    """Bring stored labels into one form.

    Args:
        labels: activity in [0, 1], shape (frames, classes), any number of columns in any order, none or several active
            in a frame; or the number of the one active class, shape (frames,), whole, negative for none.

    Returns:
        Activity, shape (frames, classes), float32.

    Raises:
        EmbeddingError: another shape, another type, NaN, or a value outside [0, 1].

    Example:
        >>> label_matrix(np.array([2, -1, 0])).tolist()
        [[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    """
    array = np.asarray(labels)
    if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
        classes = np.unique(array[array >= 0])
        return (array[:, None] == classes[None, :]).astype(np.float32)
    if array.ndim != 2 or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise EmbeddingError(
            f"labels must be activity (frames, classes), or whole numbers (frames,), but are of type {array.dtype} "
            f"and shape {array.shape}."
        )
    matrix: NDArray[np.float32] = np.asarray(array, dtype=np.float32)
    wrong = ~((matrix >= 0) & (matrix <= 1))  # true for NaN, too
    if wrong.any():
        frame, column = (int(i) for i in np.argwhere(wrong)[0])
        raise EmbeddingError(
            f"labels must be in [0, 1], but are {matrix[frame, column]:g} at frame {frame}, column {column}."
        )
    return matrix


def segment_labels(
    segments: Sequence[Segment], *, num_frames: int, frame_seconds: float, threshold: float = 0.5
) -> NDArray[np.float32]:
    """Turn segments into frame labels: a class is active where its segments fill `threshold` of a frame.

    Args:
        segments: in seconds; frame t lasts from t to t + 1 times `frame_seconds`. What lies past the end is cut off.
        num_frames: frames of the sequence.
        frame_seconds: seconds per frame.
        threshold: share of the frame, in (0, 1].

    Returns:
        0/1 labels, shape (num_frames, classes), a column per name, sorted by name.
    """
    edges = np.arange(num_frames + 1, dtype=np.float64) * frame_seconds
    windows = np.stack([edges[:-1], edges[1:]])
    names = sorted({segment.speaker for segment in segments})
    labels = np.zeros((num_frames, len(names)), dtype=np.float32)
    for column, name in enumerate(names):
        spans = np.array([(s.start, s.end) for s in segments if s.speaker == name and s.end > s.start]).reshape(-1, 2)
        covered = covered_units(spans[:, 0], spans[:, 1], windows) if len(spans) else np.zeros(num_frames)
        labels[:, column] = covered >= threshold * frame_seconds - 1e-9
    return labels


def class_targets(labels: NDArray[np.float32], num_slots: int, *, keep_earliest: bool = False) -> NDArray[np.float32]:
    """Put the active columns of some labels in order of arrival into as many slots as a model has.

    Args:
        labels: activity in [0, 1], shape (frames, classes); columns that are never active do not count.
        num_slots: columns of the result; those that are left over are zero.
        keep_earliest: where more classes are active than there are slots, keep those that arrive first.

    Raises:
        TooManyClassesError: more classes are active than there are slots, and `keep_earliest` is False.
    """
    active = labels[:, (labels > 0).any(axis=0)]
    if active.shape[1] > num_slots and not keep_earliest:
        raise TooManyClassesError(
            f"{active.shape[1]} classes are active within {len(labels)} frames, but the model has {num_slots} slots. "
            f"Give the model {active.shape[1]} or more, shorten `max_frames`, or set `keep_earliest_classes: true` to "
            f"drop which arrives last."
        )
    targets = np.zeros((len(labels), num_slots), dtype=np.float32)
    ordered = sort_by_arrival(torch.from_numpy(np.ascontiguousarray(active))[None])[0].numpy()
    kept = min(active.shape[1], num_slots)
    targets[:, :kept] = ordered[:, :kept]
    return targets
