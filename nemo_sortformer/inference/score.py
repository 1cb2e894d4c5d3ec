# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Scores of answers against the truth: DER with its parts, JER, and whether the number of speakers is right.

The counting is pyannote.metrics'. Two conventions meet there, and are settled here:

- **Collar.** `collar` is NIST's: seconds left unscored on *each* side of a boundary of the truth. pyannote's argument
  is the total width, so that 0.25 here is 0.5 there.
- **Scored region.** Without a UEM it runs from the first start to the last end of truth and answer together, so that
  every false alarm counts; a manifest with `offset` and `duration` limits it to those.

Segments of one speaker that overlap each other are merged first, as pyannote would count their time twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from nemo_sortformer.data.segment import Segment, merge_overlaps
from nemo_sortformer.inference.results import annotation_of


class Condition(NamedTuple):
    """What is left unscored."""

    collar: float = 0.25
    """Seconds on each side of every boundary of the truth."""
    skip_overlap: bool = False
    """Leave out the time in which several true speakers talk at once."""

    def __str__(self) -> str:
        return f"collar {self.collar:g} s, overlap {'skipped' if self.skip_overlap else 'scored'}"


CONDITIONS = (Condition(0.25, False), Condition(0.0, False), Condition(0.25, True), Condition(0.0, True))
"""The first is the one that the tables per recording show."""


@dataclass(frozen=True, kw_only=True)
class ErrorCounts:
    """Sums that add over recordings; the rates divide once, at the end. Times in seconds of speaker time."""

    missed: float = 0.0
    false_alarm: float = 0.0
    confusion: float = 0.0
    speech: float = 0.0
    """Scored speech of the truth: the denominator of DER."""
    jaccard: float = 0.0
    """Jaccard errors summed over the true speakers."""
    speakers: float = 0.0
    """Number of those speakers."""

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def der(self) -> float:
        """Diarization error rate; 0 without speech and errors, infinite where there are false alarms alone."""
        return _rate(self.missed + self.false_alarm + self.confusion, self.speech)

    @property
    def jer(self) -> float:
        """Jaccard error rate: the mean over true speakers; 0 where there are none."""
        return self.jaccard / self.speakers if self.speakers else 0.0

    def to_dict(self) -> dict[str, float | None]:
        """Rates and seconds as plain numbers; an infinite rate is None, as JSON has no word for it."""
        rates = {
            "der": self.der,
            "missed": _rate(self.missed, self.speech),
            "false_alarm": _rate(self.false_alarm, self.speech),
            "confusion": _rate(self.confusion, self.speech),
            "jer": self.jer,
        }
        seconds = {
            "missed_seconds": self.missed,
            "false_alarm_seconds": self.false_alarm,
            "confusion_seconds": self.confusion,
            "speech_seconds": self.speech,
        }
        return {k: None if v == float("inf") else round(v, 6) for k, v in {**rates, **seconds}.items()}


@dataclass(frozen=True, kw_only=True)
class RecordingScore:
    """Scores of one recording under each condition."""

    recording: str
    counts: Mapping[Condition, ErrorCounts]
    true_speakers: int
    answered_speakers: int


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """Scores of a set of recordings; totals pool the seconds, so that long recordings weigh more."""

    recordings: tuple[RecordingScore, ...]

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions scored, in the order asked for."""
        return tuple(self.recordings[0].counts) if self.recordings else ()

    def total(self, condition: Condition) -> ErrorCounts:
        """Counts of all recordings together."""
        return sum((score.counts[condition] for score in self.recordings), start=ErrorCounts())

    @property
    def speaker_count_accuracy(self) -> float:
        """Share of the recordings with as many answered as true speakers."""
        right = [score.true_speakers == score.answered_speakers for score in self.recordings]
        return sum(right) / len(right) if right else 0.0

    @property
    def speaker_count_error(self) -> float:
        """Mean absolute difference of the numbers of speakers."""
        gaps = [abs(score.true_speakers - score.answered_speakers) for score in self.recordings]
        return sum(gaps) / len(gaps) if gaps else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as JSON can hold them."""
        return {
            "conditions": [{"collar": c.collar, "skip_overlap": c.skip_overlap} for c in self.conditions],
            "total": [self.total(condition).to_dict() for condition in self.conditions],
            "speaker_count_accuracy": round(self.speaker_count_accuracy, 6),
            "speaker_count_error": round(self.speaker_count_error, 6),
            "recordings": [
                {
                    "recording": score.recording,
                    "true_speakers": score.true_speakers,
                    "answered_speakers": score.answered_speakers,
                    "scores": [counts.to_dict() for counts in score.counts.values()],
                }
                for score in self.recordings
            ],
        }


class Session(NamedTuple):
    """Truth and answer of one recording, and what part of it counts."""

    recording: str
    reference: Sequence[Segment]
    answer: Sequence[Segment]
    uem: Sequence[tuple[float, float]] | None = None
    """Scored stretches, in seconds; None is from the first start to the last end of both."""


def score_sessions(sessions: Sequence[Session], conditions: Sequence[Condition] = CONDITIONS) -> ScoreReport:
    """Score every session under every condition. A session without true speech counts with its false alarms.

    Raises:
        ValueError: a collar is negative.

    Example:
        >>> truth = [Segment(0.0, 8.0, "Ann"), Segment(8.0, 10.0, "Bob")]
        >>> report = score_sessions([Session("a", truth, [Segment(0.0, 9.0, "x")])], [Condition(0.0)])
        >>> report.total(Condition(0.0)).der, report.speaker_count_accuracy
        (0.2, 0.0)
    """
    return ScoreReport(recordings=tuple(_score_one(session, tuple(conditions)) for session in sessions))


def _score_one(session: Session, conditions: tuple[Condition, ...]) -> RecordingScore:
    from pyannote.core import Segment as Span
    from pyannote.core import Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate

    truth = annotation_of(merge_overlaps(list(session.reference)), uri=session.recording)
    answer = annotation_of(merge_overlaps(list(session.answer)), uri=session.recording)
    stretches = session.uem
    if stretches is None:
        times = [time for s in (*session.reference, *session.answer) for time in (s.start, s.end)]
        stretches = [(min(times), max(times))] if times else []
    uem = Timeline([Span(start, end) for start, end in stretches if end > start], uri=session.recording)
    counts = {}
    for condition in conditions:
        if condition.collar < 0:
            raise ValueError(f"`collar` must be at least 0 seconds, but is {condition.collar}.")
        if not uem:
            counts[condition] = ErrorCounts()
            continue
        options = {"collar": 2 * condition.collar, "skip_overlap": condition.skip_overlap}
        der = DiarizationErrorRate(**options).compute_components(truth, answer, uem=uem)
        jer = JaccardErrorRate(**options).compute_components(truth, answer, uem=uem)
        counts[condition] = ErrorCounts(
            missed=der["missed detection"],
            false_alarm=der["false alarm"],
            confusion=der["confusion"],
            speech=der["total"],
            jaccard=jer["speaker error"],
            speakers=jer["speaker count"],
        )
    return RecordingScore(
        recording=session.recording,
        counts=counts,
        true_speakers=len(truth.crop(uem).labels()),
        answered_speakers=len(answer.crop(uem).labels()),
    )


def _rate(errors: float, speech: float) -> float:
    if speech > 0:
        return errors / speech
    return 0.0 if errors <= 0 else float("inf")
