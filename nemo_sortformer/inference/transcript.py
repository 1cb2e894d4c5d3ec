# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who said what, when, in one recording: words with times and speakers, and the utterances that they make."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference import transcript_formats as formats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nemo_sortformer.inference.results import Diarization

PAUSE_SECONDS = 1.0
"""A longer pause of a speaker ends the utterance."""
_TOUCH_SECONDS = 0.05
"""Words of two speakers that overlap by less than this follow each other."""


class TranscribedWord(NamedTuple):
    """One word of one speaker."""

    text: str
    """Without white space."""
    start: float
    """Seconds of the audio file."""
    end: float
    """Seconds of the audio file."""
    speaker: str
    """`speaker_0`, `speaker_1`, ... in order of arrival."""
    confidence: float | None = None
    """From 0 to 1; None where the recognizer does not say."""


class Utterance(NamedTuple):
    """Words of one speaker in a row."""

    start: float
    """Seconds of the audio file."""
    end: float
    """Seconds of the audio file."""
    speaker: str
    words: tuple[TranscribedWord, ...]

    @property
    def text(self) -> str:
        """The words, parted by blanks."""
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """Who said what, when, in one recording. Words are sorted by their start."""

    recording: str
    """Name of the recording, unique within one run; its id in the files."""
    words: tuple[TranscribedWord, ...]
    diarization: Diarization | None = field(default=None, repr=False)
    """Who spoke when; None where only the words are known."""
    duration: float = 0.0
    """Length of the transcribed part in seconds."""

    def __post_init__(self) -> None:
        words = tuple(sorted((TranscribedWord(*word) for word in self.words), key=lambda word: word[1:3]))
        for word in words:
            if not (math.isfinite(word.start) and math.isfinite(word.end) and 0 <= word.start <= word.end):
                raise ValueError(
                    f"The word `{word.text}` must start at 0 s or later and not end before it starts, but is from "
                    f"{word.start} to {word.end} s."
                )
            if len(word.text.split()) != 1 or not word.speaker.strip():
                raise ValueError(f"A word must be one word of a named speaker, but there is {tuple(word)}.")
        object.__setattr__(self, "words", words)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Those who speak: first who is heard in the diarization, in order of arrival, then others who have words."""
        heard = self.diarization.speakers if self.diarization is not None else ()
        return tuple(dict.fromkeys((*heard, *(word.speaker for word in self.words))))

    @cached_property
    def segments(self) -> tuple[Utterance, ...]:
        """The utterances, sorted by start.

        A speaker's utterance ends at a pause of more than a second, or where another speaker says a word between two
        of its words. Words said at the same time as another speaker's do not break it up.
        """
        return tuple(group_words(self.words))

    @property
    def text(self) -> str:
        """All words by their start, without speakers."""
        return " ".join(word.text for word in self.words)

    def texts_by_speaker(self) -> dict[str, str]:
        """All that each speaker says, as cpWER compares it."""
        return {name: " ".join(w.text for w in self.words if w.speaker == name) for name in self.speakers}

    def to_seglst(self, path: str | Path | None = None, *, names: Mapping[str, str] | None = None) -> str:
        """SegLST: a JSON list of utterances, `session_id, speaker, start_time, end_time, words, word_times`."""
        return formats.write(formats.seglst(self, names), path)

    def to_stm(self, path: str | Path | None = None, *, names: Mapping[str, str] | None = None) -> str:
        """STM: `recording 1 speaker start end words` per utterance; blanks inside names become `_`."""
        return formats.write(formats.stm(self, names), path)

    def to_ctm(self, path: str | Path | None = None, *, names: Mapping[str, str] | None = None) -> str:
        """CTM in NIST's long form: `recording 1 start duration word confidence lex speaker` per word."""
        return formats.write(formats.ctm(self, names), path)

    def to_srt(self, path: str | Path | None = None, *, names: Mapping[str, str] | None = None) -> str:
        """SubRip subtitles, `speaker: words` in cues of 7 seconds and 84 letters at most."""
        return formats.write(formats.srt(self, names), path)

    def to_vtt(self, path: str | Path | None = None, *, names: Mapping[str, str] | None = None) -> str:
        """WebVTT subtitles, the speaker as the cue's voice, cut as those of :meth:`to_srt`."""
        return formats.write(formats.vtt(self, names), path)

    def to_text(
        self, path: str | Path | None = None, *, names: Mapping[str, str] | None = None, times: bool = False
    ) -> str:
        """A dialogue, `speaker: words` per utterance; with `times` each line begins with its start, `[0:07.5]`."""
        return formats.write(formats.dialogue(self, names, times=times), path)

    def plot(self, path: str | Path | None = None, *, names: Mapping[str, str] | None = None) -> Figure:
        """Draw the timeline with the words in it; see :func:`plot_transcript`."""
        from nemo_sortformer.inference.transcript_picture import plot_transcript

        return plot_transcript(self, path=path, names=names)


def group_words(words: Sequence[TranscribedWord], *, pause_seconds: float = PAUSE_SECONDS) -> list[Utterance]:
    """Join the words of each speaker, sorted by start, to utterances; see :attr:`Transcript.segments`."""
    starts = [word.start for word in words]
    open_words: dict[str, list[TranscribedWord]] = {}
    groups: list[list[TranscribedWord]] = []
    for word in words:
        group = open_words.get(word.speaker)
        if group is None or word.start - group[-1].end > pause_seconds or _interrupted(words, starts, group[-1], word):
            group = open_words[word.speaker] = []
            groups.append(group)
        group.append(word)
    found = [Utterance(g[0].start, max(word.end for word in g), g[0].speaker, tuple(g)) for g in groups]
    return sorted(found, key=lambda utterance: utterance[:3])


def utterance_segments(words: Sequence[TranscribedWord]) -> tuple[Segment, ...]:
    """When each speaker says words: the stretches of the utterances, those of no length left out."""
    return tuple(Segment(u.start, u.end, u.speaker) for u in group_words(words) if u.end > u.start)


def _interrupted(
    words: Sequence[TranscribedWord], starts: Sequence[float], last: TranscribedWord, word: TranscribedWord
) -> bool:
    """Whether somebody else says a word in the gap between two words of a speaker."""
    first = bisect_left(starts, last.end - _TOUCH_SECONDS)
    after = bisect_left(starts, word.start + _TOUCH_SECONDS)
    return any(w.speaker != word.speaker and w.end <= word.start + _TOUCH_SECONDS for w in words[first:after])
