# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Transcripts: utterances, and each format read back by a parser that is not ours."""

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.spoken_words import read_ctm
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.transcript import TranscribedWord, Transcript, utterance_segments

TEXTS = ["yes", "no", "a<b&c>d", "-->", "über", "it's", "7"]
NO_MEETEVAL = "meeteval is not installed (extra `words`)"
word = st.builds(
    lambda text, start, length, speaker: TranscribedWord(text, start / 100, (start + length) / 100, speaker, None),
    st.sampled_from(TEXTS),
    st.integers(0, 400_000),
    st.integers(0, 150),
    st.sampled_from(["speaker_0", "speaker_1", "Ann Lee"]),
)
transcripts = st.lists(word, max_size=25).map(
    lambda words: Transcript(recording="my talk", words=tuple(words), duration=4100.0)
)


def said(*rows) -> Transcript:
    """A transcript of rows (text, start, end, number of the speaker)."""
    words = tuple(TranscribedWord(text, start, end, f"speaker_{k}") for text, start, end, k in rows)
    return Transcript(recording="talk", words=words, duration=10.0)


def test_an_utterance_ends_at_a_pause_or_at_a_word_in_between():
    turns = said(("a", 0, 0.5, 0), ("b", 0.6, 1, 0), ("yes", 1.1, 1.4, 1), ("c", 1.5, 2, 0), ("d", 3.1, 4, 0))
    assert [(u.speaker, u.text) for u in turns.segments] == [
        ("speaker_0", "a b"),
        ("speaker_1", "yes"),
        ("speaker_0", "c"),
        ("speaker_0", "d"),
    ]


def test_words_said_at_the_same_time_do_not_break_an_utterance():
    both = said(("a", 0, 0.5, 0), ("x", 0.3, 0.8, 1), ("b", 0.55, 1, 0), ("y", 0.85, 1.3, 1), ("c", 1.05, 1.5, 0))
    assert [(u.speaker, u.text) for u in both.segments] == [("speaker_0", "a b c"), ("speaker_1", "x y")]


@given(transcript=transcripts)
def test_utterances_hold_every_word_once_in_order_and_do_not_overlap_themselves(transcript):
    inside = [word for utterance in transcript.segments for word in utterance.words]
    assert sorted(inside, key=lambda w: w[:4]) == sorted(transcript.words, key=lambda w: w[:4])
    for utterance in transcript.segments:
        assert list(utterance.words) == sorted(utterance.words, key=lambda w: w.start)
        assert {word.speaker for word in utterance.words} == {utterance.speaker}
        assert utterance.end == max(word.end for word in utterance.words)


@given(transcript=transcripts)
def test_meeteval_reads_seglst_and_stm_with_the_same_words(transcript):
    meeteval = pytest.importorskip("meeteval", reason=NO_MEETEVAL)
    said = [(u.speaker.replace(" ", "_"), u.text, round(u.start, 3), round(u.end, 3)) for u in transcript.segments]
    records = json.loads(transcript.to_seglst())
    found = meeteval.io.asseglst(records)  # its own reader of JSON needs another package
    rows = [(r["speaker"].replace(" ", "_"), r["words"], float(r["start_time"]), float(r["end_time"])) for r in found]
    assert rows == said
    assert all(len(r["word_times"]) == len(r["words"].split()) for r in records)
    stm = meeteval.io.STM.parse(transcript.to_stm())
    lines = [(line.speaker_id, line.transcript, float(line.begin_time), float(line.end_time)) for line in stm]
    assert lines == said
    assert {line.filename for line in stm} <= {"my_talk"}


@given(transcript=transcripts)
def test_meeteval_and_our_reader_read_ctm(transcript, tmp_path_factory):
    meeteval = pytest.importorskip("meeteval", reason=NO_MEETEVAL)
    lines = transcript.to_ctm().splitlines()
    six = "\n".join(" ".join(line.split()[:6]) for line in lines)  # meeteval knows no speakers in CTM
    expected = [(w.text, round(w.start, 3)) for w in transcript.words]
    assert [(line.word, float(line.begin_time)) for line in meeteval.io.CTM.parse(six).lines] == expected
    path = tmp_path_factory.mktemp("ctm") / "a.ctm"
    transcript.to_ctm(path)
    read = read_ctm(path).get("my_talk", [])
    assert sorted((u.speaker, word) for u in read for word in u.texts["words"].split()) == sorted(
        (w.speaker.replace(" ", "_"), w.text) for w in transcript.words
    )


def srt_cues(text: str) -> list[tuple[float, float, str]]:
    """A strict reader of SubRip: numbers from 1, times with a comma, one blank line between the cues."""
    if not text:
        return []
    assert text.endswith("\n\n")
    cues = []
    for number, block in enumerate(text[:-2].split("\n\n"), start=1):
        first, times, *lines = block.split("\n")
        assert first == str(number)
        match = re.fullmatch(r"(\d\d):([0-5]\d):([0-5]\d),(\d{3}) --> (\d\d):([0-5]\d):([0-5]\d),(\d{3})", times)
        assert match, times
        h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
        assert 1 <= len(lines) <= 2
        assert all(line.strip() for line in lines)
        assert "-->" not in " ".join(lines)
        cues.append((h * 3600 + m * 60 + s + ms / 1000, h2 * 3600 + m2 * 60 + s2 + ms2 / 1000, " ".join(lines)))
    return cues


def vtt_cues(text: str) -> list[tuple[float, float, str, str]]:
    """A strict reader of WebVTT: its header, times with a dot, one voice per cue, escaped text."""
    file = io.StringIO(text)
    assert file.readline() == "WEBVTT\n"
    assert file.readline() == "\n"
    cues = []
    for block in [block for block in file.read().split("\n\n") if block]:
        times, *lines = block.split("\n")
        match = re.fullmatch(r"(\d\d):([0-5]\d):([0-5]\d)\.(\d{3}) --> (\d\d):([0-5]\d):([0-5]\d)\.(\d{3})", times)
        assert match, times
        h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
        voice = re.fullmatch(r"<v ([^<>]+)>([^<>]*)</v>", "\n".join(lines))
        assert voice, lines
        assert not re.search(r"&(?!(amp|lt|gt);)", voice[2])
        words = voice[2].replace("\n", " ").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        cues.append((h * 3600 + m * 60 + s + ms / 1000, h2 * 3600 + m2 * 60 + s2 + ms2 / 1000, voice[1], words))
    return cues


@given(transcript=transcripts)
def test_subtitles_are_well_formed_in_order_short_and_complete(transcript):
    srt, vtt = srt_cues(transcript.to_srt()), vtt_cues(transcript.to_vtt())
    assert [cue[:2] for cue in srt] == [cue[:2] for cue in vtt]
    assert [cue[0] for cue in srt] == sorted(cue[0] for cue in srt)
    assert all(start < end for start, end, _ in srt)
    assert all(len(words) <= 84 for _, _, _, words in vtt)
    assert sorted(f"{voice}: {w}" for _, _, voice, words in vtt for w in words.split()) == sorted(
        f"{w.speaker}: {w.text}" for w in transcript.words
    )
    assert [f"{voice}: {words}".replace("-->", "->") for _, _, voice, words in vtt] == [text for _, _, text in srt]


def test_names_stand_for_speakers_in_every_format():
    transcript = said(("hi", 0, 0.5, 0), ("oh", 1, 1.5, 1))
    names = {"speaker_0": "Ann Lee"}
    assert json.loads(transcript.to_seglst(names=names))[0]["speaker"] == "Ann Lee"
    assert transcript.to_stm(names=names).split()[2] == "Ann_Lee"
    assert transcript.to_ctm(names=names).split()[7] == "Ann_Lee"
    assert "Ann Lee: hi" in transcript.to_srt(names=names)
    assert "<v Ann Lee>hi</v>" in transcript.to_vtt(names=names)
    assert transcript.to_text(names=names) == "Ann Lee: hi\nspeaker_1: oh\n"
    assert transcript.to_text(times=True).splitlines()[1] == "[0:01.0] speaker_1: oh"


def test_an_empty_transcript_is_an_empty_file_of_each_format(tmp_path):
    empty = Transcript(recording="quiet", words=(), duration=3.0)
    assert json.loads(empty.to_seglst()) == []
    assert (empty.to_stm(), empty.to_ctm(), empty.to_srt(), empty.to_text()) == ("", "", "", "")
    assert empty.to_vtt() == "WEBVTT\n\n"
    assert empty.speakers == ()
    empty.plot(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "text, start, end, speaker",
    [("a", -1.0, 1.0, "s"), ("a", 2.0, 1.0, "s"), ("a", float("nan"), 1.0, "s"), ("a b", 0, 1, "s"), ("a", 0, 1, " ")],
)
def test_a_word_that_cannot_be_is_an_error(text, start, end, speaker):
    with pytest.raises(ValueError, match="word"):
        Transcript(recording="r", words=(TranscribedWord(text, start, end, speaker),), duration=1.0)


def test_the_picture_carries_the_words_in_the_row_of_their_speaker(tmp_path):
    words = (TranscribedWord("hello", 1.0, 1.5, "speaker_0"), TranscribedWord("there", 13.0, 13.4, "speaker_1"))
    segments = (Segment(0.9, 2.0, "speaker_0"), Segment(12.5, 14.0, "speaker_1"))
    diarization = Diarization(recording="r", segments=segments, duration=20.0)
    figure = Transcript(recording="r", words=words, diarization=diarization, duration=20.0).plot(tmp_path / "a.png")
    places = [(i, t.get_position(), t.get_text()) for i, axes in enumerate(figure.axes) for t in axes.texts]
    assert places == [(0, (1.0, 0), "hello"), (1, (13.0, 1), "there")]
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_speakers_who_are_heard_but_say_no_word_are_speakers():
    diarization = Diarization(recording="r", segments=(Segment(0.0, 1.0, "speaker_0"),), duration=2.0)
    transcript = Transcript(recording="r", words=(), diarization=diarization, duration=2.0)
    assert transcript.texts_by_speaker() == {"speaker_0": ""}
    assert utterance_segments(transcript.words) == ()
