# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Transcripts as text that other programs read: SegLST, STM, CTM, SRT, WebVTT, and a plain dialogue."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nemo_sortformer.inference.transcript import TranscribedWord, Transcript

Names = Mapping[str, str] | None
"""What a speaker is called instead; who is not in it keeps the name."""
CUE_SECONDS = 7.0
"""A subtitle stands no longer."""
CUE_LETTERS = 84
"""Two lines of a subtitle."""
LINE_LETTERS = 42
"""One line of a subtitle."""
_SHORTEST_CUE = 0.001


class _Cue(NamedTuple):
    start: int
    """Milliseconds."""
    end: int
    speaker: str
    words: list[str]


def write(text: str, path: str | Path | None) -> str:
    """Give the text, and write it to `path` where there is one; its folder is made."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    return text


def seglst(transcript: Transcript, names: Names = None) -> str:
    """See :meth:`Transcript.to_seglst`."""
    records = [
        {
            "session_id": transcript.recording,
            "speaker": _name(utterance.speaker, names),
            "start_time": round(utterance.start, 3),
            "end_time": round(utterance.end, 3),
            "words": utterance.text,
            "word_times": [[round(word.start, 3), round(word.end, 3)] for word in utterance.words],
        }
        for utterance in transcript.segments
    ]
    return json.dumps(records, indent=1, ensure_ascii=False) + "\n"


def stm(transcript: Transcript, names: Names = None) -> str:
    """See :meth:`Transcript.to_stm`."""
    recording = one_word(transcript.recording)
    return "".join(
        f"{recording} 1 {one_word(_name(u.speaker, names))} {u.start:.3f} {u.end:.3f} {u.text}\n"
        for u in transcript.segments
    )


def ctm(transcript: Transcript, names: Names = None) -> str:
    """See :meth:`Transcript.to_ctm`. A confidence that is not known is `NA`."""
    recording = one_word(transcript.recording)
    lines = []
    for word in transcript.words:
        start, end = round(word.start, 3), round(word.end, 3)
        confidence = "NA" if word.confidence is None else f"{word.confidence:.4f}"
        speaker = one_word(_name(word.speaker, names))
        lines.append(f"{recording} 1 {start:.3f} {end - start:.3f} {word.text} {confidence} lex {speaker}\n")
    return "".join(lines)


def srt(transcript: Transcript, names: Names = None) -> str:
    """See :meth:`Transcript.to_srt`. Speakers who talk at once have cues that overlap in time."""
    blocks = []
    for number, cue in enumerate(_cues(transcript), start=1):
        text = _two_lines([f"{_name(cue.speaker, names)}:", *cue.words]).replace("-->", "->")
        blocks.append(f"{number}\n{_stamp(cue.start, ',')} --> {_stamp(cue.end, ',')}\n{text}\n\n")
    return "".join(blocks)


def vtt(transcript: Transcript, names: Names = None) -> str:
    """See :meth:`Transcript.to_vtt`."""
    blocks = ["WEBVTT\n\n"]
    for cue in _cues(transcript):
        voice = _escaped(re.sub(r"\s+", " ", _name(cue.speaker, names)))
        text = _two_lines([_escaped(word) for word in cue.words])
        blocks.append(f"{_stamp(cue.start, '.')} --> {_stamp(cue.end, '.')}\n<v {voice}>{text}</v>\n\n")
    return "".join(blocks)


def dialogue(transcript: Transcript, names: Names = None, *, times: bool = False) -> str:
    """See :meth:`Transcript.to_text`."""
    from nemo_sortformer.inference.report import clock

    return "".join(
        f"{f'[{clock(u.start, tenths=True)}] ' if times else ''}{_name(u.speaker, names)}: {u.text}\n"
        for u in transcript.segments
    )


def one_word(name: str) -> str:
    """A name without white space, which would split the fields of a line."""
    return re.sub(r"\s", "_", name.strip()) or "unknown"


def _name(speaker: str, names: Names) -> str:
    return speaker if names is None else names.get(speaker, speaker)


def _cues(transcript: Transcript) -> list[_Cue]:
    cues = [
        _Cue(round(part[0].start * 1000), _end_of(part), utterance.speaker, [word.text for word in part])
        for utterance in transcript.segments
        for part in _parts(utterance.words)
    ]
    return sorted(cues, key=lambda cue: cue.start)


def _end_of(part: list[TranscribedWord]) -> int:
    """In milliseconds, and after its start: a cue of no time is never shown."""
    return max(round(max(word.end for word in part) * 1000), round((part[0].start + _SHORTEST_CUE) * 1000))


def _parts(words: tuple[TranscribedWord, ...]) -> Iterator[list[TranscribedWord]]:
    """The words of an utterance in parts short enough for a cue."""
    part: list[TranscribedWord] = []
    for word in words:
        letters = sum(len(w.text) + 1 for w in part) + len(word.text)
        if part and (letters > CUE_LETTERS or word.end - part[0].start > CUE_SECONDS):
            yield part
            part = []
        part.append(word)
    if part:
        yield part


def _two_lines(words: list[str]) -> str:
    """The words in one line, or in two of about equal length."""
    text = " ".join(words)
    if len(text) <= LINE_LETTERS or len(words) < 2:
        return text
    places = [match.start() for match in re.finditer(" ", text)]
    middle = min(places, key=lambda place: abs(place - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"


def _stamp(milliseconds: int, mark: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{rest:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
