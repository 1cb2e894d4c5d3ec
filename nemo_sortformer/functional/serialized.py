# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The words of several speakers as one text in which each change of speaker is marked, and back.

Speakers are slots: numbers in order of arrival, the same as the columns of the sorted label matrix.

The text follows time. Word by word, so that a word of another speaker stands where it was said, or utterance by
utterance, so that sentences stay whole. Two speakers who begin almost together arrive in the same label frame, where
their slots are told apart by amount of speech; there the earlier slot goes first in the text as well, so that the
order of speakers in the text is the order of the label columns.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

__all__ = ["TIE_SECONDS", "Level", "SpokenWord", "Turn", "per_speaker", "serialize", "words_of_turns"]

Level = Literal["word", "segment"]

TIE_SECONDS = 0.5
"""Speakers whose first words start within this time of each other stand in the order of their slots."""
_PAUSE_SECONDS = 1.0


class SpokenWord(NamedTuple):
    """One word of one speaker."""

    text: str
    start: float
    """Seconds."""
    end: float
    """Seconds."""
    speaker: int
    """Slot, in order of arrival."""


class Turn(NamedTuple):
    """What follows one mark of a speaker."""

    speaker: int
    """Slot, in order of arrival."""
    text: str


def serialize(
    words: Sequence[SpokenWord],
    level: Level = "segment",
    *,
    segments: Sequence[int] | None = None,
    tie_seconds: float = TIE_SECONDS,
) -> list[Turn]:
    """Write the words of all speakers one after another.

    Args:
        words: in any order; a speaker's words that start together keep the order given. Blank words are left out.
        level: ``word``: all words by their start, a turn at each change of speaker. ``segment``: whole utterances by
            the start of their first word, a turn each.
        segments: number of the utterance of each word, for ``segment``. None: a speaker's words are one utterance
            until they pause for more than a second.
        tie_seconds: speakers whose first words start within this time of each other stand in the order of slots; the
            words of the later slot that were said before go behind the first word of the earlier one.

    Returns:
        The turns, each with text.

    Raises:
        ValueError: `level` is unknown, `segments` has not one number per word, or a slot is negative.

    Source: word-level and segment-level serialization as in Park et al., "Sortformer" (2024), section 3.

    Example:
        >>> words = [SpokenWord("hello", 0.0, 0.4, 0), SpokenWord("hi", 0.3, 0.5, 1), SpokenWord("there", 0.5, 0.9, 0)]
        >>> serialize(words, "word")
        [Turn(speaker=0, text='hello'), Turn(speaker=1, text='hi'), Turn(speaker=0, text='there')]
        >>> serialize(words, "segment")
        [Turn(speaker=0, text='hello there'), Turn(speaker=1, text='hi')]
    """
    if level not in ("word", "segment"):
        raise ValueError(f"`level` must be `word` or `segment`, but is {level!r}.")
    if segments is not None and len(segments) != len(words):
        raise ValueError(f"`segments` must have one number per word, {len(words)}, but has {len(segments)}.")
    if any(word.speaker < 0 for word in words):
        raise ValueError(f"`speaker` of a word must be a slot >= 0, but is {min(word.speaker for word in words)}.")
    spoken = [index for index, word in enumerate(words) if word.text.strip()]
    spoken.sort(key=lambda index: words[index].start)  # stable: words that start together keep their order
    earliest = _earliest_places([words[index] for index in spoken], tie_seconds)

    def place(index: int) -> tuple[float, int]:
        word = words[index]
        return max(word.start, earliest[word.speaker]), word.speaker

    turns: list[Turn] = []
    if level == "word":
        for index in sorted(spoken, key=place):
            speaker, text = words[index].speaker, _one_line(words[index].text)
            if turns and turns[-1].speaker == speaker:
                turns[-1] = Turn(speaker, f"{turns[-1].text} {text}")
            else:
                turns.append(Turn(speaker, text))
        return turns
    groups = _by_pauses(words, spoken) if segments is None else _by_number(words, spoken, segments)
    for group in sorted(groups, key=lambda group: place(group[0])):
        turns.append(Turn(words[group[0]].speaker, " ".join(_one_line(words[index].text) for index in group)))
    return turns


def words_of_turns(turns: Iterable[Turn]) -> list[tuple[int, str]]:
    """Give each word of the turns with its slot, in the order of the text.

    Example:
        >>> words_of_turns([Turn(0, "good morning"), Turn(1, "hi")])
        [(0, 'good'), (0, 'morning'), (1, 'hi')]
    """
    return [(turn.speaker, word) for turn in turns for word in turn.text.split()]


def per_speaker(turns: Iterable[Turn], num_speakers: int) -> list[str]:
    """Join what each speaker says.

    Args:
        turns: in the order of the text.
        num_speakers: slots of the result.

    Returns:
        The text of each slot, empty where it says nothing.

    Raises:
        ValueError: a turn belongs to no slot.

    Example:
        >>> per_speaker([Turn(0, "good"), Turn(1, "hi"), Turn(0, "morning")], 3)
        ['good morning', 'hi', '']
    """
    texts: list[list[str]] = [[] for _ in range(num_speakers)]
    for speaker, text in turns:
        if not 0 <= speaker < num_speakers:
            raise ValueError(f"`speaker` of a turn must be in [0, {num_speakers}), but is {speaker}.")
        if text:
            texts[speaker].append(text)
    return [" ".join(parts) for parts in texts]


def _earliest_places(words: Sequence[SpokenWord], tie_seconds: float) -> dict[int, float]:
    """The time before which no word of a slot may stand; `words` are sorted by start."""
    first: dict[int, float] = {}
    for word in words:
        first.setdefault(word.speaker, word.start)
    places: dict[int, float] = {}
    for slot in sorted(first):
        near = (place for other, place in places.items() if first[slot] < first[other] <= first[slot] + tie_seconds)
        places[slot] = max(near, default=first[slot])
    return places


def _by_number(words: Sequence[SpokenWord], spoken: list[int], segments: Sequence[int]) -> list[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for index in spoken:
        groups.setdefault((segments[index], words[index].speaker), []).append(index)
    return list(groups.values())


def _by_pauses(words: Sequence[SpokenWord], spoken: list[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    latest: dict[int, tuple[list[int], float]] = {}
    for index in spoken:
        word = words[index]
        group, end = latest.get(word.speaker, ([], 0.0))
        if not group or word.start - end > _PAUSE_SECONDS:
            group, end = [], word.end
            groups.append(group)
        group.append(index)
        latest[word.speaker] = (group, max(end, word.end))
    return groups


def _one_line(text: str) -> str:
    return " ".join(text.split())
