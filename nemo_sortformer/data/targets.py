# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Segments to frame targets, in NeMo's convention and in order of arrival, without a loop over frames."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.functional.arrival import arrival_order
from nemo_sortformer.functional.frames import label_windows, num_label_frames, seconds_to_hops

__all__ = ["TooManySpeakersError", "covered_units", "frame_targets", "named_targets"]

_HOPS_PER_SECOND = 100


class TooManySpeakersError(ValueError):
    """A stretch of a recording in which more speakers are active than the model has slots."""


def frame_targets(
    segments: Iterable[Segment],
    *,
    num_samples: int,
    num_slots: int,
    offset: float = 0.0,
    speakers: Sequence[str] | None = None,
    subsampling: int = 8,
    threshold: float | None = 0.5,
    sample_rate: int = 16000,
    keep_earliest: bool = False,
) -> NDArray[np.float32]:
    """Turn the segments of a recording into one column of frame labels per speaker.

    A time is cut off to the 10 ms hop that it falls in. Label i is the mean over the hops [8i - 5, 8i + 4) (at a
    subsampling of 8; the first window starts at hop 0, the last one runs to the end), and is 1 where that mean reaches
    `threshold`. So a label is centred about 5 ms before 80i ms.

    Args:
        segments: who speaks when, in seconds of the recording; overlaps of one speaker with itself count once.
        num_samples: length of the stretch that the targets are for.
        num_slots: columns of the result.
        offset: start of the stretch in the recording, in seconds.
        speakers: the order of the columns. None: order of arrival, by the labels themselves, so that
            ``sort_by_arrival`` changes nothing; ties go to who speaks more. Speakers without one active frame go last.
        subsampling: hops per label frame, the encoder's reduction in time.
        threshold: share of the window that makes a label 1, in (0, 1]; None gives the share itself.
        sample_rate: samples per second of the stretch.
        keep_earliest: where more speakers are active than there are slots, keep those who arrive first.

    Returns:
        Shape (frames, num_slots), with ``ceil(ceil(num_samples / 160) / 8)`` frames at 16 kHz.

    Raises:
        TooManySpeakersError: more than `num_slots` speakers are active and `keep_earliest` is False.
        ValueError: `num_samples` is below 1, or `speakers` lacks a speaker or is longer than `num_slots`.

    Source: NeMo's ``speaker_to_target`` (which asks for more than half a window) and its
        ``AudioToSpeechE2ESpkDiarDataset`` (for half or more, as here); equal to both wherever they agree.
    """
    targets, _ = named_targets(
        segments,
        num_samples=num_samples,
        num_slots=num_slots,
        offset=offset,
        speakers=speakers,
        subsampling=subsampling,
        threshold=threshold,
        sample_rate=sample_rate,
        keep_earliest=keep_earliest,
    )
    return targets


def named_targets(
    segments: Iterable[Segment],
    *,
    num_samples: int,
    num_slots: int,
    offset: float = 0.0,
    speakers: Sequence[str] | None = None,
    subsampling: int = 8,
    threshold: float | None = 0.5,
    sample_rate: int = 16000,
    keep_earliest: bool = False,
) -> tuple[NDArray[np.float32], list[str]]:
    """Give the targets of :func:`frame_targets`, and whose column each is.

    Returns:
        Targets of shape (frames, num_slots), and the speakers heard in the stretch in the order of their columns: one
        name for each of the first columns, and none for those that stay empty. Given `speakers` are returned as given.

    Raises:
        TooManySpeakersError, ValueError: as :func:`frame_targets`, which says what the arguments mean.
    """
    if num_samples < 1:
        raise ValueError(f"`num_samples` must be 1 or more, but is {num_samples}.")
    hop_samples = sample_rate // _HOPS_PER_SECOND
    num_frames = num_label_frames(num_samples, hop_samples=hop_samples, subsampling=subsampling)
    seconds = num_samples / sample_rate
    num_hops = max(round(seconds * _HOPS_PER_SECOND), 1)
    names, hops = _hops_by_speaker(segments, offset, seconds)
    edges = label_windows(num_frames, num_hops, subsampling)
    counts = np.maximum(edges[1] - edges[0], 1).astype(np.float32)
    shares = np.zeros((num_frames, len(names)), dtype=np.float32)
    for column, (starts, ends) in enumerate(hops):
        shares[:, column] = covered_units(starts, ends, edges) / counts
    labels = shares if threshold is None else (shares >= np.float32(threshold)).astype(np.float32)
    span = f"{offset:.2f}-{offset + seconds:.2f} s"
    order = _column_order(labels, names, speakers, num_slots=num_slots, span=span, keep_earliest=keep_earliest)
    targets = np.zeros((num_frames, num_slots), dtype=np.float32)
    filled = [(slot, column) for slot, column in enumerate(order) if column is not None]
    if filled:
        slots, columns = zip(*filled, strict=True)
        targets[:, list(slots)] = labels[:, list(columns)]
    names = list(speakers) if speakers is not None else [names[column] for column in order if column is not None]
    return targets, names


def _hops_by_speaker(
    segments: Iterable[Segment], offset: float, seconds: float
) -> tuple[list[str], list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """The speakers heard in the stretch, and per speaker the first and the past-the-end hop of each segment."""
    rows = list(segments)
    times = np.array([(row[0], row[1]) for row in rows], dtype=np.float64).reshape(-1, 2)
    times = np.round(times - offset, 8)  # so that a start of 1.29 s at an offset of 1 s is the hop of 0.29 s
    hops = seconds_to_hops(np.clip(times, 0.0, seconds), _HOPS_PER_SECOND)
    inside = np.flatnonzero(hops[:, 1] > hops[:, 0])
    number: dict[str, int] = {}
    speaker = np.array([number.setdefault(rows[k][2], len(number)) for k in inside], dtype=np.int64)
    hops = hops[inside]
    by_speaker = [hops[speaker == index] for index in range(len(number))]
    return list(number), [(pair[:, 0], pair[:, 1]) for pair in by_speaker]


def covered_units(starts: NDArray[Any], ends: NDArray[Any], edges: NDArray[Any]) -> NDArray[np.float64]:
    """How much of each window lies in the union of the segments, in the unit of all three, shape (windows,).

    Args:
        starts: of the segments, in any order, which may overlap.
        ends: of the segments, each after its start.
        edges: starts and ends of the windows, shape (2, windows).
    """
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    # A segment that starts after all before it have ended opens a new stretch of speech.
    first = np.ones(len(starts), dtype=bool)
    first[1:] = starts[1:] > ends[:-1]
    last = np.append(first[1:], True)
    starts, ends = starts[first], ends[last]
    knots = np.stack([starts, ends], axis=1).ravel()
    heights = np.repeat(np.cumsum(ends - starts), 2)
    heights[::2] -= ends - starts
    before = np.interp(edges, knots, heights)  # every slope is 0 or 1
    return np.asarray(before[1] - before[0], dtype=np.float64)


def _column_order(
    labels: NDArray[np.float32],
    names: list[str],
    speakers: Sequence[str] | None,
    *,
    num_slots: int,
    span: str,
    keep_earliest: bool,
) -> list[int | None]:
    """Which column of `labels` each slot takes; None for a slot without a speaker."""
    if speakers is not None:
        if len(speakers) > num_slots:
            raise ValueError(f"`speakers` must name at most {num_slots} speakers, but names {len(speakers)}.")
        unknown = sorted(set(names) - set(speakers))
        if unknown:
            raise ValueError(f"`speakers` must name every speaker of the stretch, but lacks {', '.join(unknown)}.")
        return [names.index(name) if name in names else None for name in speakers]
    if not names:
        return []
    # By name first, so that even an exact tie does not depend on the order of the segments.
    by_name = sorted(range(len(names)), key=names.__getitem__)
    ranks = arrival_order(torch.from_numpy(labels[None, :, by_name]))[0]
    order: list[int | None] = [by_name[rank] for rank in ranks.tolist()]
    num_active = int((labels > 0).any(axis=0).sum())
    if num_active > num_slots and not keep_earliest:
        raise TooManySpeakersError(
            f"{num_active} speakers are active within {span}, but the model has {num_slots} slots. Set "
            f"`max_num_of_spks` to {num_active} or more, shorten `session_len_sec`, or set "
            f"`keep_earliest_speakers: true` to drop who arrives last."
        )
    return order[:num_slots]
