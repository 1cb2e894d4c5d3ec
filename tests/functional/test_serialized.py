# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Words of several speakers as one text: nothing is lost at any overlap, and the order is that of the labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.spoken_words import SpokenUtterance, spoken_words
from nemo_sortformer.data.targets import named_targets
from nemo_sortformer.functional.serialized import SpokenWord, Turn, per_speaker, serialize, words_of_turns

TIMES = st.integers(0, 40).map(lambda tenths: tenths / 10)
WORDS = st.lists(
    st.builds(
        lambda text, start, length, speaker: SpokenWord(text, start, start + length, speaker),
        st.sampled_from(["a", "go", "stop", "nine", "é"]),
        TIMES,
        TIMES,
        st.integers(0, 3),
    ),
    max_size=14,
)
LEVELS = st.sampled_from(["word", "segment"])


def spoken_by(words, speaker):
    """What a speaker says, by the start of the words."""
    return " ".join(w.text for w in sorted((w for w in words if w.speaker == speaker), key=lambda w: w.start))


def first_seen(turns):
    return list(dict.fromkeys(turn.speaker for turn in turns))


# --- Nothing is lost


@given(words=WORDS)
def test_word_by_word_each_speaker_gets_back_what_they_said_at_any_overlap(words):
    assert per_speaker(serialize(words, "word"), 4) == [spoken_by(words, speaker) for speaker in range(4)]


@given(words=WORDS)
def test_utterances_that_a_speaker_does_not_overlap_themselves_give_the_same(words):
    alone = {}
    for word in sorted(words, key=lambda w: w.start):  # one speaker cannot say two words at a time
        if word.start >= alone.get(word.speaker, [SpokenWord("", -1, -1, 0)])[-1].end:
            alone.setdefault(word.speaker, []).append(word)
    words = [word for rows in alone.values() for word in rows]
    turns = serialize(words, "segment")
    assert per_speaker(turns, 4) == per_speaker(serialize(words, "word"), 4)


@given(words=WORDS, data=st.data())
def test_whole_utterances_stay_whole(words, data):
    numbers = [data.draw(st.integers(0, 4)) * 4 + word.speaker for word in words]
    turns = serialize(words, "segment", segments=numbers)
    expected = sorted(
        " ".join(
            w.text for w in sorted((w for w, m in zip(words, numbers, strict=True) if m == n), key=lambda w: w.start)
        )
        for n in set(numbers)
    )
    assert sorted(turn.text for turn in turns) == expected


@given(words=WORDS, level=LEVELS)
def test_words_of_turns_are_all_words_with_their_slots(words, level):
    assert sorted(words_of_turns(serialize(words, level))) == sorted((w.speaker, w.text) for w in words)


# --- Order


@given(words=WORDS, level=LEVELS, data=st.data())
def test_the_order_in_which_words_are_given_changes_nothing_unless_one_speaker_starts_two_at_once(words, level, data):
    unique = list({(word.speaker, word.start): word for word in words}.values())
    assert serialize(unique, level) == serialize(data.draw(st.permutations(unique)), level)


NAMED = st.lists(
    st.builds(
        lambda text, start, length, name: SpokenUtterance(start, start + length, name, {"words": text}),
        st.sampled_from(["one two", "go", "s p e l l"]),
        st.integers(0, 600).map(lambda hundredths: hundredths / 100),
        st.integers(20, 200).map(lambda hundredths: hundredths / 100),
        st.sampled_from(["ann", "bob", "cem"]),
    ),
    min_size=1,
    max_size=7,
)


def turns_of(utterances, level):
    segments = [Segment(one.start, one.end, one.speaker) for one in utterances]
    targets, names = named_targets(segments, num_samples=9 * 16_000, num_slots=4)
    words, numbers = spoken_words(utterances, "words", names)
    return targets, names, serialize(words, level, segments=numbers)


@given(utterances=NAMED, level=LEVELS)
def test_new_speakers_come_in_the_order_of_the_label_columns(utterances, level):
    targets, names, turns = turns_of(utterances, level)
    assert first_seen(turns) == list(range(len(names)))
    arrival = [targets[:, slot].argmax() for slot in range(len(names))]
    assert arrival == sorted(arrival)


@given(utterances=NAMED, level=LEVELS)
def test_renaming_speakers_changes_nothing(utterances, level):
    # Names decide between two speakers who speak in exactly the same frames and nowhere else.
    targets, _, turns = turns_of(utterances, level)
    columns = [tuple(column) for column in targets.T if column.any()]
    if len(set(columns)) < len(columns):
        return
    new = {"ann": "zoe", "bob": "xan", "cem": "abe"}
    renamed, _, other = turns_of([one._replace(speaker=new[one.speaker]) for one in utterances], level)
    assert other == turns
    assert (renamed == targets).all()


# --- By hand

A, B = 0, 1


def test_word_by_word_a_turn_is_opened_at_each_change():
    words = [SpokenWord("good", 0, 1, A), SpokenWord("yes", 0.9, 1.2, B), SpokenWord("day", 1, 2, A)]
    assert serialize(words, "word") == [Turn(A, "good"), Turn(B, "yes"), Turn(A, "day")]
    assert serialize(words, "segment") == [Turn(A, "good day"), Turn(B, "yes")]


def test_utterances_of_one_speaker_keep_a_tag_each_and_a_pause_of_a_second_parts_them():
    words = [SpokenWord("go", 0, 1, A), SpokenWord("on", 1.9, 2.5, A), SpokenWord("stop", 3.6, 4, A)]
    assert serialize(words, "segment") == [Turn(A, "go on"), Turn(A, "stop")]
    assert serialize(words, "segment", segments=[0, 1, 1]) == [Turn(A, "go"), Turn(A, "on stop")]
    assert serialize(words, "word") == [Turn(A, "go on stop")]


def test_ties_go_to_the_earlier_slot_within_half_a_second_only():
    near = [SpokenWord("late", 0.4, 1, A), SpokenWord("early", 0.0, 0.3, B), SpokenWord("more", 0.5, 1, B)]
    assert serialize(near, "word") == [Turn(A, "late"), Turn(B, "early more")]
    far = [SpokenWord("late", 5.0, 6, A), SpokenWord("early", 0.0, 0.3, B)]  # slot A laughed before
    assert serialize(far, "word") == [Turn(B, "early"), Turn(A, "late")]
    assert serialize(near, "word", tie_seconds=0.0) == [Turn(B, "early"), Turn(A, "late"), Turn(B, "more")]


def test_blank_words_and_blanks_inside_words_are_no_text():
    words = [SpokenWord(" ", 0, 1, B), SpokenWord("two\n words", 1, 2, A)]
    assert serialize(words, "segment") == [Turn(A, "two words")]
    assert serialize([], "word") == []
    assert per_speaker([], 2) == ["", ""]


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: serialize([], "letter"), "`level` must be `word` or `segment`"),
        (lambda: serialize([SpokenWord("a", 0, 1, 0)], segments=[]), "one number per word, 1, but has 0"),
        (lambda: serialize([SpokenWord("a", 0, 1, -1)]), "slot >= 0, but is -1"),
        (lambda: per_speaker([Turn(2, "a")], 2), r"must be in \[0, 2\), but is 2"),
    ],
)
def test_what_cannot_be_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
