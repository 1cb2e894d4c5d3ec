# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The answer for one recording, as segments, and in the formats that other tools read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_sortformer.data.rttm import format_rttm
from nemo_sortformer.data.segment import Segment

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pyannote.core import Annotation


@dataclass(frozen=True, kw_only=True)
class Diarization:
    """Who spoke when in one recording. Speakers are named `speaker_0`, `speaker_1`, ... in order of arrival."""

    recording: str
    """Name of the recording, unique within one run; the id in RTTM and SegLST."""
    segments: tuple[Segment, ...]
    """Turns in seconds of the audio file, sorted by start; one speaker's turns do not overlap each other."""
    duration: float
    """Length of the diarized part in seconds."""
    offset: float = 0.0
    """Where the diarized part starts in its file, in seconds; the segments' times include it."""
    frame_seconds: float = 0.08
    """Seconds from one row of `probs` to the next."""
    probs: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Speech probability, shape (frames, slots), float32; column k is `speaker_k`, silent slots come last."""
    slots: tuple[int, ...] = ()
    """The model's output column behind each column of `probs`; the identity where the model kept its order."""
    source: Path | None = None
    """The audio file; none where the audio came as samples."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of those who speak, in order of arrival."""
        return tuple(dict.fromkeys(segment.speaker for segment in self.segments))

    def to_annotation(self) -> Annotation:
        """The segments as a `pyannote.core.Annotation`, whose `uri` is the recording's name."""
        return annotation_of(self.segments, uri=self.recording)

    def to_rttm(self, path: str | Path | None = None) -> str:
        """RTTM lines; white space in the recording's name becomes `_`, as it would split the fields."""
        return _write(format_rttm(self.segments, self.recording), path)

    def to_seglst(self, path: str | Path | None = None) -> str:
        """SegLST: a JSON list of `session_id, speaker, start_time, end_time, words` (words are empty)."""
        rows: list[dict[str, Any]] = [
            {
                "session_id": self.recording,
                "speaker": segment.speaker,
                "start_time": round(segment.start, 3),
                "end_time": round(segment.end, 3),
                "words": "",
            }
            for segment in self.segments
        ]
        return _write(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", path)

    def to_audacity(self, path: str | Path | None = None) -> str:
        """An Audacity label track: `start<TAB>end<TAB>speaker` per line."""
        lines = (f"{segment.start:.6f}\t{segment.end:.6f}\t{segment.speaker}\n" for segment in self.segments)
        return _write("".join(lines), path)

    def to_strings(self) -> list[str]:
        """NeMo's lines, `"start end speaker_k"`: rounded to 10 ms, written with 3 decimals, grouped by speaker."""
        ordered = sorted(self.segments, key=lambda segment: (_index(segment.speaker), segment.start))
        return [f"{round(s.start, 2):.3f} {round(s.end, 2):.3f} {s.speaker}" for s in ordered]

    def plot(self, path: str | Path | None = None, reference: Sequence[Segment] | None = None) -> Figure:
        """Draw the timeline; with `reference` the truth stands above and the errors below.

        Returns:
            The matplotlib figure, which pyplot does not know of; `path` (PNG, PDF or SVG) also saves it.
        """
        from nemo_sortformer.inference.report import plot_timeline

        return plot_timeline(self, reference=reference, path=path)


def annotation_of(segments: Sequence[Segment], *, uri: str | None = None) -> Annotation:
    """Segments as a `pyannote.core.Annotation`; segments without length are left out."""
    from pyannote.core import Annotation
    from pyannote.core import Segment as Span

    annotation = Annotation(uri=uri)
    for track, segment in enumerate(segments):
        if segment.end > segment.start:
            annotation[Span(segment.start, segment.end), track] = segment.speaker
    return annotation


def _index(speaker: str) -> tuple[int, str]:
    number = speaker.rpartition("_")[2]
    return (int(number), speaker) if number.isdigit() else (1 << 30, speaker)


def _write(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    return text
