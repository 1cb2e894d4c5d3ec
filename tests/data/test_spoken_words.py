# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Words with times and speakers, from SegLST and CTM, and every way in which they can be wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.spoken_words import (
    SpokenUtterance,
    WordsError,
    check_inside,
    read_ctm,
    seglst_utterances,
    spoken_words,
    spread_words,
    utterance_segments,
)
from nemo_sortformer.functional.serialized import SpokenWord


def record(words="good day", start=0.0, end=1.0, speaker="ann", **more):
    return {"session_id": "a", "speaker": speaker, "start_time": start, "end_time": end, "words": words, **more}


def utterance(text, start=0.0, end=1.0, speaker="ann", times=None):
    return SpokenUtterance(start, end, speaker, {"words": text}, times)


# --- Times


@given(
    text=st.lists(st.text("abc", min_size=1, max_size=9), max_size=8).map(" ".join),
    start=st.floats(0, 100),
    length=st.floats(0.01, 30),
)
def test_spread_words_fill_the_utterance_without_overlap(text, start, length):
    words = spread_words(text, start, start + length)
    assert [word for word, _, _ in words] == text.split()
    times = [time for _, first, last in words for time in (first, last)]
    assert times == sorted(times)
    if words:
        assert times[0] == pytest.approx(start, abs=1e-6)
        assert times[-1] == pytest.approx(start + length, abs=1e-6)
        pace = (times[-1] - times[0]) / len(text)
        assert times[1] - times[0] == pytest.approx(len(words[0][0]) * pace, abs=1e-6)


def test_words_are_taken_by_their_middle_and_count_from_the_stretch():
    told = [utterance("aa bb", 1.0, 2.0, times=((1.0, 1.4), (1.6, 2.0))), utterance("c", 3.0, 4.0, "bob")]
    words, numbers = spoken_words(told, "words", ["bob", "ann"], offset=1.5, seconds=2.5)
    assert [(word.text, word.speaker) for word in words] == [("bb", 1), ("c", 0)]
    assert numbers == [0, 1]
    assert words[0] == SpokenWord("bb", pytest.approx(0.1), pytest.approx(0.5), 1)
    windows = [spoken_words(told, "words", ["bob", "ann"], offset=k, seconds=1.0)[0] for k in range(4)]
    assert sum(map(len, windows)) == 3  # each word is in one window


def test_word_times_are_those_of_the_transcript_only():
    one = SpokenUtterance(0.0, 1.0, "ann", {"words": "b c", "translation": "d e f"}, ((0.0, 0.1), (0.1, 0.2)))
    assert [word.end for word in spoken_words([one], "words", ["ann"])[0]] == [0.1, 0.2]
    assert [word.end for word in spoken_words([one], "translation", ["ann"])[0]] == [0.2, 0.6, 1.0]


# --- Speakers


def test_words_of_speakers_without_labels_are_named():
    with pytest.raises(WordsError, match="'go' at 0.00 s is of speaker `bob`, who has no label.* are `ann`"):
        spoken_words([utterance("go", speaker="bob")], "words", ["ann"])


def test_speakers_without_words_and_empty_transcripts_are_no_words():
    told = [utterance(""), utterance("  ", speaker="bob"), SpokenUtterance(0, 1, "cem")]
    assert spoken_words(told, "words", []) == ([], [])
    assert utterance_segments(told) == [Segment(0, 1, "ann"), Segment(0, 1, "bob"), Segment(0, 1, "cem")]


def test_a_known_speaker_too_short_for_a_label_gets_the_next_free_slot_or_none():
    told = [utterance("go", speaker="bob"), utterance("on", speaker="cem")]
    words, _ = spoken_words(told, "words", ["ann"], known={"ann", "bob", "cem"}, num_slots=3)
    assert [word.speaker for word in words] == [1, 2]
    with pytest.raises(WordsError, match="'on' .* of speaker `cem`"):
        spoken_words(told, "words", ["ann"], known={"bob", "cem"}, num_slots=2)
    words, _ = spoken_words(told, "words", ["ann"], known={"bob", "cem"}, num_slots=2, drop_others=True)
    assert [word.text for word in words] == ["go"]
    with pytest.raises(WordsError):  # whom nobody knows is an error all the same
        spoken_words(told, "words", ["ann"], known={"bob"}, num_slots=2, drop_others=True)


# --- SegLST


def test_segments_give_utterances_with_all_texts():
    records = [record(translation="guten tag"), record("", 1.0, 2.0, "bob", word_times=[])]
    (name, first), (_, second) = seglst_utterances(records, ["words", "translation"], "a.json")
    assert (name, first.texts) == ("a", {"words": "good day", "translation": "guten tag"})
    assert second.texts == {"words": "", "translation": ""}
    ((_, timed),) = seglst_utterances([record(word_times=[[0, 0.4], [0.5, 1]])], ["words"], "a.json")
    assert timed.times == ((0.0, 0.4), (0.5, 1.0))


@pytest.mark.parametrize(
    "records, match",
    [
        ([{**record(), "words": 3}], "segment 1: `words` must be a text in quotes, but is 3"),
        ([{key: value for key, value in record().items() if key != "words"}], "no segment has a text `words`"),
        ([record(word_times=[[0, 1]])], "one .start, end. per word, 2, but is 1"),
        ([record(word_times="0 1")], "per word, 2, but is a str"),
        ([record(word_times=[[0, 1], 3])], "must be pairs .* but one is 3"),
        ([record(word_times=[[0, 1], [0.9, float("nan")]])], "must be pairs"),
        ([record(word_times=[[0, 0.5], [0.9, 0.6]])], "must not end before it starts"),
        ([record(), record(start=9.0, end=10.0, word_times=[[0, 0.5], [0.6, 1]])], "segment 2: .*within the segment"),
    ],
)
def test_bad_segments_are_named(records, match):
    with pytest.raises(WordsError, match=f"a.json: .*{match}|a.json: {match}"):
        list(seglst_utterances(records, ["words"], "a.json"))


# --- CTM


def test_words_of_a_ctm_file_join_until_a_pause_of_a_second(tmp_path):
    path = tmp_path / "a.ctm"
    path.write_text(
        ";; comment\n\n"
        "a 1 0.00 0.40 good 0.9 lex ann\n"
        "a 1 0.30 0.40 yes 0.9 lex bob\n"
        "a 1 0.50 0.30 day 0.9 <NA> ann\n"
        "a 1 0.80 0.10 uh 0.9 fp ann\n"
        "a 1 2.00 0.50 then 0.9 lex ann\n"
        "b 1 0.00 0.50 other 0.9 lex ann\n"
    )
    found = read_ctm(path)
    assert set(found) == {"a", "b"}
    assert found["a"] == [
        SpokenUtterance(0.0, 0.8, "ann", {"words": "good day"}, ((0.0, 0.4), (0.5, 0.8))),
        SpokenUtterance(0.3, 0.7, "bob", {"words": "yes"}, ((0.3, 0.7),)),
        SpokenUtterance(2.0, 2.5, "ann", {"words": "then"}, ((2.0, 2.5),)),
    ]


@pytest.mark.parametrize(
    "line, match",
    [
        ("a 1 0.0 0.5", "5 fields or more, but has 4"),
        ("a 1 -1 0.5 go 1 lex ann", "`start` must be 0 or more seconds, but is `-1`"),
        ("a 1 0.0 -0.5 go 1 lex ann", "`duration` must be 0 or more seconds, but is `-0.5`"),
        ("a 1 0.0 nan go 1 lex ann", "`duration`"),
        ("a 1 0.0 0.5 go", "the word 'go' has no speaker.* eighth field"),
        ("a 1 0.0 0.5 go 1 lex <NA>", "has no speaker"),
    ],
)
def test_bad_lines_of_a_ctm_file_are_named(tmp_path, line, match):
    path = tmp_path / "a.ctm"
    path.write_text(f";; first\n{line}\n")
    with pytest.raises(WordsError, match=rf"a\.ctm:2: .*{match}"):
        read_ctm(path)


def test_missing_and_unreadable_ctm_files(tmp_path):
    with pytest.raises(WordsError, match="there is no such file"):
        read_ctm(tmp_path / "none.ctm")
    (tmp_path / "bad.ctm").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WordsError, match="cannot be read as text"):
        read_ctm(tmp_path / "bad.ctm")


def test_words_beyond_the_end_of_the_audio_are_named_and_half_a_second_is_rounding():
    told = [utterance("", 0.0, 99.0), utterance("late", 9.0, 10.4)]
    check_inside(told, 10.0, "a.json")
    with pytest.raises(WordsError, match="a.json: 'late' of `ann` ends at 10.40 s, but the audio at 9.00 s"):
        check_inside(told, 9.0, "a.json")
