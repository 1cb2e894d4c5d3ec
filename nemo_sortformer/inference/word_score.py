# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Scores of transcripts against the truth: cpWER and tcpWER by meeteval, with DER and the number of speakers beside.

cpWER joins all that a speaker says to one text and pairs the texts of answer and truth so that the errors are fewest.
tcpWER does the same, but a word is right only where it is said, up to a collar in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from nemo_sortformer.data.spoken_words import TRANSCRIPT, SpokenUtterance, utterance_segments
from nemo_sortformer.inference.score import CONDITIONS, Condition, ErrorCounts, Session, score_sessions
from nemo_sortformer.inference.word_score_inputs import WordSession

WORD_COLLAR = 5.0
"""Seconds; what meeteval's authors use."""


@dataclass(frozen=True, kw_only=True)
class WordErrors:
    """Word errors that add over recordings; the rate divides once, at the end."""

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    words: int = 0
    """Of the truth: the denominator."""

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def errors(self) -> int:
        """All of them."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float:
        """Errors over words; 0 where there is neither, infinite where words are inserted into silence."""
        if self.words:
            return self.errors / self.words
        return float("inf") if self.errors else 0.0

    def to_dict(self) -> dict[str, float | int | None]:
        """Rate and counts as plain numbers; an infinite rate is None, as JSON has no word for it."""
        counts = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"rate": None if self.rate == float("inf") else round(self.rate, 6), "errors": self.errors, **counts}


@dataclass(frozen=True, kw_only=True)
class WordScore:
    """Scores of one recording."""

    recording: str
    cpwer: WordErrors
    tcpwer: WordErrors
    diarization: ErrorCounts
    true_speakers: int
    """Who says a word."""
    answered_speakers: int


@dataclass(frozen=True, kw_only=True)
class WordReport:
    """Scores of a set of recordings; totals pool the words and the seconds."""

    recordings: tuple[WordScore, ...]
    collar: float
    """Of tcpWER, in seconds."""
    condition: Condition
    """Of DER."""

    @property
    def cpwer(self) -> WordErrors:
        """Of all recordings together."""
        return sum((score.cpwer for score in self.recordings), start=WordErrors())

    @property
    def tcpwer(self) -> WordErrors:
        """Of all recordings together."""
        return sum((score.tcpwer for score in self.recordings), start=WordErrors())

    @property
    def diarization(self) -> ErrorCounts:
        """Of all recordings together."""
        return sum((score.diarization for score in self.recordings), start=ErrorCounts())

    @property
    def speaker_count_accuracy(self) -> float:
        """Share of the recordings with as many answered as true speakers."""
        right = [score.true_speakers == score.answered_speakers for score in self.recordings]
        return sum(right) / len(right) if right else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as JSON can hold them."""
        return {
            "tcpwer_collar": self.collar,
            "der_collar": self.condition.collar,
            "total": {
                "cpwer": self.cpwer.to_dict(),
                "tcpwer": self.tcpwer.to_dict(),
                "diarization": self.diarization.to_dict(),
                "speaker_count_accuracy": round(self.speaker_count_accuracy, 6),
            },
            "recordings": [
                {
                    "recording": score.recording,
                    "cpwer": score.cpwer.to_dict(),
                    "tcpwer": score.tcpwer.to_dict(),
                    "diarization": score.diarization.to_dict(),
                    "true_speakers": score.true_speakers,
                    "answered_speakers": score.answered_speakers,
                }
                for score in self.recordings
            ],
        }


def score_words(
    sessions: Sequence[WordSession],
    *,
    collar: float = WORD_COLLAR,
    condition: Condition = CONDITIONS[0],
    normalize: bool = False,
) -> WordReport:
    """Score every session.

    Args:
        sessions: truth and answers; see :func:`pair_words`.
        collar: how far from its place a word may be and still be right in tcpWER, in seconds.
        condition: what DER leaves unscored.
        normalize: compare words without case and punctuation.

    Raises:
        ValueError: the collar is negative, or there are more speakers than meeteval takes (20).
        ImportError: meeteval is not installed.
    """
    if not collar >= 0:
        raise ValueError(f"`collar` must be at least 0 seconds, but is {collar}.")
    try:
        import meeteval.wer
    except ImportError as error:
        raise ImportError(
            "Scores of words need meeteval: `pip install nemo_sortformer[words]` (it is built with a C++ compiler)."
        ) from error
    pairs = [_rows(session, normalize=normalize) for session in sessions]
    der = score_sessions(
        [Session(s.recording, utterance_segments(s.reference), utterance_segments(s.answer)) for s in sessions],
        [condition],
    )

    def timed(reference: list[dict[str, Any]], answer: list[dict[str, Any]]) -> Any:
        return meeteval.wer.wer.time_constrained.tcp_word_error_rate(reference, answer, collar=collar)

    return WordReport(
        recordings=tuple(
            WordScore(
                recording=session.recording,
                cpwer=_errors(meeteval.wer.cp_word_error_rate, session.recording, *rows),
                tcpwer=_errors(timed, session.recording, *rows),
                diarization=row.counts[condition],
                true_speakers=len({r["speaker"] for r in rows[0] if r["words"]}),
                answered_speakers=len({r["speaker"] for r in rows[1] if r["words"]}),
            )
            for session, rows, row in zip(sessions, pairs, der.recordings, strict=True)
        ),
        collar=collar,
        condition=condition,
    )


def normalized(text: str) -> str:
    """A text without case and punctuation; apostrophes stay.

    Example:
        >>> normalized("Well -- it's Anna-Lena, isn't it?")
        "well it's anna lena isn't it"
    """
    return " ".join(re.sub(r"[^\w\s']", " ", text.casefold()).split())


def _rows(session: WordSession, *, normalize: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    def row(utterance: SpokenUtterance) -> dict[str, Any]:
        text = utterance.texts.get(TRANSCRIPT, "")
        return {
            "session_id": session.recording,
            "speaker": utterance.speaker,
            "start_time": utterance.start,
            "end_time": utterance.end,
            "words": normalized(text) if normalize else " ".join(text.split()),
        }

    return [row(u) for u in session.reference], [row(u) for u in session.answer]


def _errors(rate: Callable[..., Any], recording: str, reference: list[Any], answer: list[Any]) -> WordErrors:
    try:
        found = rate(reference, answer)
    except RuntimeError as error:
        raise ValueError(f"`{recording}` cannot be scored: {' '.join(str(error).split())}") from error
    return WordErrors(
        insertions=int(found.insertions),
        deletions=int(found.deletions),
        substitutions=int(found.substitutions),
        words=int(found.length),
    )
