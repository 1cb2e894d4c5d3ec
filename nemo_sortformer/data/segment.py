# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The smallest unit of a diarization: who spoke from when to when."""

from typing import NamedTuple

__all__ = ["Segment", "merge_overlaps"]


class Segment(NamedTuple):
    """Speech of one speaker, in seconds from the start of the recording."""

    start: float
    end: float
    speaker: str

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.end - self.start


def merge_overlaps(segments: list[Segment]) -> list[Segment]:
    """Join the segments of one speaker that overlap each other; return all sorted by start, end and speaker.

    Segments that only touch stay apart, so that turns that follow each other are still counted as turns.

    Example:
        >>> merge_overlaps([Segment(0.0, 2.0, "a"), Segment(1.0, 3.0, "a"), Segment(1.0, 4.0, "b")])
        [Segment(start=0.0, end=3.0, speaker='a'), Segment(start=1.0, end=4.0, speaker='b')]
    """
    merged: list[Segment] = []
    last_of: dict[str, int] = {}
    for segment in sorted(segments):
        place = last_of.get(segment.speaker)
        if place is not None and segment.start < merged[place].end:
            merged[place] = merged[place]._replace(end=max(merged[place].end, segment.end))
        else:
            last_of[segment.speaker] = len(merged)
            merged.append(segment)
    return sorted(merged)
