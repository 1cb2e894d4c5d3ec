# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who said what, when: utterances with their texts, from SegLST files, CTM files and manifests of one speaker.

A text has a field: `words` is the transcript, and any other name (`translation`) is a text of its own that the same
utterance has. A SegLST segment holds each under its name; a manifest of one speaker has the transcript under `text`,
as NeMo writes it.

Where nothing says when each word was said, the words of an utterance are spread over it by their letters, the blank
between two words counting as one: a word begins after its share of the letters before it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.functional.serialized import SpokenWord

__all__ = [
    "TRANSCRIPT",
    "SpokenUtterance",
    "WordsError",
    "check_inside",
    "read_ctm",
    "seglst_utterances",
    "spoken_words",
    "spread_words",
    "utterance_segments",
]

TRANSCRIPT = "words"
"""Field of the transcript."""
_SLACK_SECONDS = 0.5
_PAUSE_SECONDS = 1.0
_CTM_SPEAKER = 7


class WordsError(ValueError):
    """Words that cannot be used; the message begins with where they stand."""


class SpokenUtterance(NamedTuple):
    """What one speaker says in one stretch, in seconds from the start of the recording."""

    start: float
    end: float
    speaker: str
    texts: Mapping[str, str] = MappingProxyType({})
    """Text by field; empty or absent where nothing is written down."""
    times: tuple[tuple[float, float], ...] | None = None
    """Start and end of each word of the transcript; None where they are not known."""


class _TimedWord(NamedTuple):
    start: float
    end: float
    speaker: str
    text: str


def utterance_segments(utterances: Iterable[SpokenUtterance]) -> list[Segment]:
    """The stretches of the utterances, sorted by start; those of no length are left out."""
    return sorted(Segment(one.start, one.end, one.speaker) for one in utterances if one.end > one.start)


def spread_words(text: str, start: float, end: float) -> list[tuple[str, float, float]]:
    """Place the words of a text in a stretch by their letters.

    Returns:
        Word, start and end, seconds.

    Example:
        >>> spread_words("go there now", 0.0, 1.2)
        [('go', 0.0, 0.2), ('there', 0.3, 0.8), ('now', 0.9, 1.2)]
    """
    words = text.split()
    letters = max(len(" ".join(words)), 1)
    firsts = accumulate((len(word) + 1 for word in words[:-1]), initial=0)
    pace = (end - start) / letters
    return [
        (word, round(start + first * pace, 8), round(start + (first + len(word)) * pace, 8))
        for word, first in zip(words, firsts, strict=False)
    ]


def spoken_words(
    utterances: Iterable[SpokenUtterance],
    field: str,
    speakers: Sequence[str],
    *,
    offset: float = 0.0,
    seconds: float | None = None,
    known: Collection[str] = (),
    num_slots: int | None = None,
    drop_others: bool = False,
) -> tuple[list[SpokenWord], list[int]]:
    """Give the words of a text by slots.

    Args:
        utterances: of one recording.
        field: which text.
        speakers: who has which slot, in order of arrival.
        offset: start of the stretch that the words are for, in seconds.
        seconds: length of the stretch: words whose middle lies in it are taken. None: all words.
        known: who has labels somewhere in the recording: such a speaker, where too short for a label in this stretch,
            gets the next slot that nobody has.
        num_slots: how many slots there are; None: as many as `speakers`.
        drop_others: leave out the words of known speakers for whom there is no slot.

    Returns:
        The words, in seconds from `offset`, and the number of the utterance of each.

    Raises:
        WordsError: a word of the stretch is of a speaker who has no slot.
    """
    slots = {name: slot for slot, name in enumerate(speakers)}
    words: list[SpokenWord] = []
    numbers: list[int] = []
    for number, one in enumerate(utterances):
        for text, start, end in _timed(one, field):
            middle = (start + end) / 2 - offset
            if seconds is not None and not 0 <= middle < seconds:
                continue
            if one.speaker not in slots and one.speaker in known:
                if len(slots) < (len(speakers) if num_slots is None else num_slots):
                    slots[one.speaker] = len(slots)
                elif drop_others:
                    continue
            if one.speaker not in slots:
                raise WordsError(
                    f"The word {text!r} at {start:.2f} s is of speaker `{one.speaker}`, who has no label in this "
                    f"stretch; those who have are {', '.join(f'`{name}`' for name in speakers) or 'none'}. Words and "
                    "labels must name the speakers alike."
                )
            words.append(SpokenWord(text, start - offset, end - offset, slots[one.speaker]))
            numbers.append(number)
    return words, numbers


def seglst_utterances(
    records: Sequence[Mapping[str, Any]], fields: Sequence[str], source: str | Path
) -> Iterator[tuple[str, SpokenUtterance]]:
    """Take the utterances out of the checked segments of a SegLST file.

    A segment may hold `word_times`, a list of one [start, end] per word of `words`, in seconds.

    Args:
        records: of ``seglst_records``.
        fields: texts to take.
        source: path of the file, for messages.

    Yields:
        `session_id` and utterance.

    Raises:
        WordsError: a field is in no segment at all, a text is no text, or `word_times` do not fit the words.
    """
    for field in fields:
        if records and not any(field in record for record in records):
            raise WordsError(
                f"{source}: no segment has a text `{field}`. An empty text stands for speech without words; their "
                f"keys are {', '.join(f'`{key}`' for key in records[0])}."
            )
    stem = Path(source).name.split(".")[0]
    for number, record in enumerate(records, start=1):
        where = f"{source}: segment {number}"
        texts = {field: _text(record.get(field), field, where) for field in fields}
        start, end = record["start_time"], record["end_time"]
        times = _word_times(record.get("word_times"), str(record.get(TRANSCRIPT) or ""), start, end, where)
        yield str(record.get("session_id", stem)), SpokenUtterance(start, end, str(record["speaker"]), texts, times)


def read_ctm(path: str | Path) -> dict[str, list[SpokenUtterance]]:
    """Read the words of a CTM file by recording; a speaker's words are one utterance until a pause of over a second.

    A line is ``recording channel start duration word [confidence [type [speaker]]]``, as NIST and NeMo write it; here
    the speaker is required. Blank lines and comments (``;;``) are skipped, and so is all whose type is not a word
    (``lex``, ``<NA>`` or ``-``).

    Raises:
        WordsError: the file is missing, or a line has too few fields, a time that is no number or negative, or no
            speaker.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise WordsError(f"{path}: there is no such file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise WordsError(f"{path}: cannot be read as text: {error}") from error
    found: dict[str, list[_TimedWord]] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0].startswith(";;"):
            continue
        try:
            word = _ctm_word(fields)
        except ValueError as error:
            raise WordsError(f"{path}:{number}: {error}") from error
        if word is not None:
            found.setdefault(fields[0], []).append(word)
    return {name: _joined(words) for name, words in found.items()}


def check_inside(utterances: Iterable[SpokenUtterance], seconds: float, source: str | Path) -> None:
    """Check that no words lie beyond the end of the audio; half a second counts as rounding.

    Args:
        utterances: of one recording.
        seconds: length of the audio file.
        source: path of the words, for the message.

    Raises:
        WordsError: an utterance with text ends more than half a second after the audio.
    """
    for one in utterances:
        if one.end > seconds + _SLACK_SECONDS and any(one.texts.values()):
            text = next(text for text in one.texts.values() if text)
            raise WordsError(
                f"{source}: {text[:40]!r} of `{one.speaker}` ends at {one.end:.2f} s, but the audio at {seconds:.2f} "
                "s. Correct the times, or the path of the audio."
            )


def _timed(one: SpokenUtterance, field: str) -> Iterable[tuple[str, float, float]]:
    text = one.texts.get(field, "")
    if one.times is None or field != TRANSCRIPT:
        return spread_words(text, one.start, one.end)
    return [(word, start, end) for word, (start, end) in zip(text.split(), one.times, strict=True)]


def _text(value: Any, field: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise WordsError(f"{where}: `{field}` must be a text in quotes, but is {value!r}.")
    return value


def _word_times(value: Any, text: str, start: float, end: float, where: str) -> tuple[tuple[float, float], ...] | None:
    if value is None:
        return None
    count = len(text.split())
    if not isinstance(value, list) or len(value) != count:
        found = f"{len(value)}" if isinstance(value, list) else f"a {type(value).__name__}"
        raise WordsError(
            f"{where}: `word_times` must be a list of one [start, end] per word, {count}, but is {found}."
        )
    times = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not all(_is_number(each) for each in pair):
            raise WordsError(f"{where}: `word_times` must be pairs [start, end] of seconds, but one is {pair!r}.")
        first, last = float(pair[0]), float(pair[1])
        if last < first:
            raise WordsError(f"{where}: a word must not end before it starts, but one of `word_times` is {pair!r}.")
        if first < start - _SLACK_SECONDS or last > end + _SLACK_SECONDS:
            raise WordsError(
                f"{where}: `word_times` are seconds of the recording, so they lie within the segment, "
                f"{start:.2f}-{end:.2f} s, but one is {pair!r}."
            )
        times.append((first, last))
    return tuple(times)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ctm_word(fields: list[str]) -> _TimedWord | None:
    if len(fields) < 5:
        raise ValueError(f"a line of a CTM file must have 5 fields or more, but has {len(fields)}.")
    start, duration = _seconds("start", fields[2]), _seconds("duration", fields[3])
    kind = fields[_CTM_SPEAKER - 1] if len(fields) > _CTM_SPEAKER - 1 else "lex"
    if kind not in ("lex", "<NA>", "-"):
        return None
    speaker = fields[_CTM_SPEAKER] if len(fields) > _CTM_SPEAKER else "<NA>"
    if speaker in ("<NA>", "-"):
        raise ValueError(
            f"the word {fields[4]!r} has no speaker. A line is `recording channel start duration word confidence type "
            "speaker`: write the speaker of the RTTM file as its eighth field."
        )
    return _TimedWord(start, round(start + duration, 8), speaker, fields[4])


def _joined(words: Iterable[_TimedWord]) -> list[SpokenUtterance]:
    groups: list[list[_TimedWord]] = []
    latest: dict[str, list[_TimedWord]] = {}
    for word in sorted(words, key=lambda word: word.start):
        group = latest.get(word.speaker)
        if group is None or word.start - group[-1].end > _PAUSE_SECONDS:
            group = latest[word.speaker] = []
            groups.append(group)
        group.append(word)
    return [
        SpokenUtterance(
            group[0].start,
            max(word.end for word in group),
            group[0].speaker,
            {TRANSCRIPT: " ".join(word.text for word in group)},
            tuple((word.start, word.end) for word in group),
        )
        for group in groups
    ]


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"`{name}` must be 0 or more seconds, but is `{text}`.")
    return value
