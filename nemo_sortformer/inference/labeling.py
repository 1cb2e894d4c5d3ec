# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The answer for one sequence: which classes are active when, how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nemo_sortformer.data.class_labels import label_matrix
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.functional.segments import active_segments
from nemo_sortformer.inference.results import Diarization

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Labeling(Diarization):
    """Which classes are active when in one sequence. Classes are named `class_0`, ... in order of arrival.

    It is a :class:`Diarization` whose `speaker`s are classes, so it is written in the same formats; where the model
    has several kinds of labels, the classes of each are named after their kind. Times are in the seconds of
    `frame_seconds`, which are frames where that is 1.
    """

    kind: str = ""
    """Kind of label; empty where the model has a single one."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of those that are active, in order of arrival."""
        return self.speakers

    @property
    def num_classes(self) -> int:
        """How many classes were found."""
        return len(self.speakers)

    @property
    def activity(self) -> NDArray[np.bool_]:
        """Whether class k is active in the middle of frame t by the segments, shape (frames, num_classes)."""
        frames = round(self.duration / self.frame_seconds)
        middle = (np.arange(frames) + 0.5) * self.frame_seconds
        active = np.zeros((frames, self.num_classes), dtype=bool)
        columns = {name: k for k, name in enumerate(self.classes)}
        for segment in self.segments:
            active[:, columns[segment.speaker]] |= (middle >= segment.start) & (middle < segment.end)
        return active

    def plot(self, path: str | Path | None = None, reference: Any = None) -> Figure:
        """Draw the timeline; with `reference` the truth stands above and the errors below.

        Args:
            path: where to save the picture, too (PNG, PDF or SVG).
            reference: true segments, or frame labels as :func:`label_matrix` takes them.
        """
        from nemo_sortformer.inference.report import plot_timeline

        truth = reference
        if reference is not None and not _is_segments(reference):
            truth = label_segments(reference, frame_seconds=self.frame_seconds)
        options: dict[str, Any] = {"reference": truth, "path": path, "nobody": "no class is active"}
        if self.frame_seconds == 1:
            options |= {"time_text": _frames, "title": f"{self.recording}   ({self.duration:g} frames)"}
        return plot_timeline(self, **options)


def label_segments(labels: Any, *, frame_seconds: float = 1.0, names: Sequence[str] | None = None) -> list[Segment]:
    """Frame labels as segments.

    Args:
        labels: as :func:`label_matrix` takes them, shape (frames, classes) or (frames,).
        frame_seconds: seconds per frame.
        names: of the columns; `class 0`, `class 1`, ... where None.

    Returns:
        The segments by start.
    """
    matrix = label_matrix(labels)
    columns = active_segments(matrix, frame_seconds=frame_seconds)
    named = zip(names or [f"class {k}" for k in range(matrix.shape[1])], columns, strict=True)
    return sorted(Segment(float(start), float(end), name) for name, spans in named for start, end in spans)


def _is_segments(reference: Any) -> bool:
    return isinstance(reference, Sequence) and all(isinstance(one, tuple) for one in reference)


def _frames(value: float) -> str:
    return f"{value:g}"
