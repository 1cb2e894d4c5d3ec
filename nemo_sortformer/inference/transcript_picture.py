# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The timeline of a recording with the words in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_sortformer.inference.report import LEFT, LINE_SECONDS, RIGHT, WIDTH_INCHES, plot_timeline
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.transcript import TranscribedWord, Transcript, utterance_segments

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORD_LINE_SECONDS = 12.0
"""A line of this length has room for words at the pace of speech."""
MOST_LINES = 60
LARGEST, SMALLEST = 8.5, 4.5
"""Size of the letters; a word that fits at no size of these is left out."""
_LETTER_INCHES = 0.0086
"""Mean width of a letter per point of its size."""


def plot_transcript(
    transcript: Transcript, *, path: str | Path | None = None, names: Mapping[str, str] | None = None
) -> Figure:
    """Draw who says what, when: each word stands at its time in its speaker's row.

    Up to twelve minutes a line covers 12 s; longer recordings have 60 longer lines, in which words that have no room
    are left out.

    Args:
        transcript: what is drawn.
        path: where to save the picture, too; the suffix chooses PNG, PDF or SVG.
        names: what speakers are called instead.

    Returns:
        The matplotlib figure, which pyplot does not know of.
    """
    shown = _timeline(transcript)
    seconds = max([shown.duration, *(word.end - shown.offset for word in transcript.words)])
    wished = max(WORD_LINE_SECONDS, seconds / MOST_LINES)
    line_seconds = min(
        wished if wished == WORD_LINE_SECONDS else next((n for n in LINE_SECONDS if n >= wished), wished),
        max(seconds, 1.0),
    )
    figure = plot_timeline(shown, title=None, line_seconds=line_seconds)
    rows = {speaker: y for y, speaker in enumerate(shown.speakers)}
    for axes in figure.axes:
        axes.set_yticklabels([_short((names or {}).get(speaker, speaker)) for speaker in rows])
        for bars in axes.collections:
            bars.set_alpha(0.3 if bars.get_zorder() >= 3 else 0.15)
        _write_words(axes, transcript.words, rows)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    return figure


def _timeline(transcript: Transcript) -> Diarization:
    """The diarization, with the utterances of those it does not hear."""
    words = utterance_segments(transcript.words)
    if transcript.diarization is None:
        return Diarization(recording=transcript.recording, segments=words, duration=transcript.duration)
    heard = set(transcript.diarization.speakers)
    others = [segment for segment in words if segment.speaker not in heard]
    return replace(transcript.diarization, segments=(*transcript.diarization.segments, *others))


def _write_words(axes: Axes, words: tuple[TranscribedWord, ...], rows: Mapping[str, int]) -> None:
    """Write the words that begin in this line, each as large as fits before the speaker's next one."""
    left, right = axes.get_xlim()
    inches = WIDTH_INCHES * (RIGHT - LEFT) / (right - left)
    following: dict[str, float] = {}
    for word in reversed(words):
        room = (min(following.get(word.speaker, right), right) - max(word.start, left)) * inches
        following[word.speaker] = word.start
        if not left <= word.start < right or word.speaker not in rows:
            continue
        size = min(LARGEST, room / (_LETTER_INCHES * (len(word.text) + 0.5)))
        if size >= SMALLEST:
            y = rows[word.speaker]
            axes.text(word.start, y, word.text, fontsize=size, va="center", ha="left", zorder=6, clip_on=True)
            axes.plot([word.start, word.start], [y - 0.36, y + 0.36], color="#666666", linewidth=0.5, zorder=5)


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
