# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What a step of a stream says: the probabilities of its frames, and segments that are finished or still change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.functional.live_segments import advance_segments
from nemo_sortformer.inference.online_clustering import Heard, assign_speakers
from nemo_sortformer.inference.stream_state import StreamState

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer


@dataclass(frozen=True, kw_only=True)
class StreamUpdate:
    """What one step of a stream brings."""

    first_frame: int
    """Number of the first new frame."""
    probs: np.ndarray
    """Speech probabilities of the new frames, shape (frames, speakers), float32; column k is `speaker_k`."""
    frame_seconds: float
    """Seconds from one frame to the next."""
    finished: tuple[Segment, ...]
    """Segments that nothing can change any more and that were in no `finished` before, by start."""
    changed: tuple[Segment, ...]
    """All segments that are there but may still grow, join others or vanish, as they are now, by start."""
    seconds: float
    """Time of the stream up to which this says who speaks."""
    is_last: bool = False
    """The stream is over; everything is finished."""

    @property
    def start(self) -> float:
        """Time of the first new frame, in seconds."""
        return self.first_frame * self.frame_seconds

    @property
    def speaking(self) -> tuple[str, ...]:
        """Who speaks at `seconds`."""
        return tuple(segment.speaker for segment in self.changed if segment.end >= self.seconds - self.frame_seconds)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and lists, for JSON; segments are [start, end, speaker], probabilities have 4 digits."""
        return {
            "start": round(self.start, 3),
            "seconds": round(self.seconds, 3),
            "frame_seconds": self.frame_seconds,
            "probs": [[round(float(value), 4) for value in row] for row in self.probs],
            "finished": [list(segment) for segment in self.finished],
            "changed": [list(segment) for segment in self.changed],
            "speaking": list(self.speaking),
            "is_last": self.is_last,
        }


def answer(
    state: StreamState, probs: np.ndarray, window: Heard | None, model: SortformerDiarizer, *, is_last: bool
) -> tuple[StreamState, StreamUpdate]:
    """The stream after new frames, and what they bring.

    Args:
        state: the stream before; not changed.
        probs: of the label heads, shape (frames, slots).
        window: what it takes to know speakers by their voices; None where the heads' columns are the speakers.
        model: whose stream it is.
        is_last: no more frames come.
    """
    first, seconds_per_frame = state.num_frames, model.frame_seconds
    state = replace(state, num_frames=first + len(probs))
    duration = state.num_samples / model.config.sample_rate
    settled, unsettled = np.concatenate([state.unsettled, probs]), probs[:0]
    if state.speakers is not None and window is not None:
        settled, unsettled, speakers = assign_speakers(
            state.speakers,
            window,
            state.inference.clustering,
            most_speakers=state.recent.shape[1],
            last=is_last,
        )
        state = replace(state, speakers=speakers)
        probs = np.concatenate([settled, unsettled])[len(settled) + len(unsettled) - len(probs) :]
    options = {"frame_seconds": seconds_per_frame, **state.inference.segment_options()}
    rows = np.concatenate([state.recent, settled, unsettled])
    half = state.inference.median_frames // 2
    smooth = rows
    if half and len(rows):
        from scipy.ndimage import median_filter

        smooth = median_filter(rows, size=(2 * half + 1, 1), mode="nearest")
    waiting = smooth[len(rows) - (state.num_frames - state.segments.frames) :]
    ready = len(waiting) if is_last else max(len(waiting) - len(unsettled) - half, 0)
    segments, finished, changed = advance_segments(
        state.segments, waiting[:ready], end_seconds=duration if is_last else None, **options
    )
    if ready < len(waiting):
        _, soon, later = advance_segments(segments, waiting[ready:], **options)
        changed = np.concatenate([soon, later])
        changed = changed[np.lexsort((changed[:, 0], changed[:, 1]))]
    past = rows[: len(rows) - len(unsettled)]
    state = replace(state, segments=segments, recent=past[max(len(past) - 2 * half, 0) :], unsettled=unsettled)
    return state, StreamUpdate(
        first_frame=first,
        probs=probs,
        frame_seconds=seconds_per_frame,
        finished=_named(finished),
        changed=_named(changed),
        seconds=duration if is_last else state.num_frames * seconds_per_frame,
        is_last=is_last,
    )


def _named(segments: np.ndarray) -> tuple[Segment, ...]:
    found = [Segment(round(start, 3), round(end, 3), f"speaker_{int(slot)}") for slot, start, end in segments.tolist()]
    return tuple(segment for segment in found if segment.end > segment.start)
