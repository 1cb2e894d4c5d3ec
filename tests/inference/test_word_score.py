# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Scores of transcripts: files of each format, pairing, counts by hand and by meeteval, and bad input."""

import json

import pytest

from nemo_sortformer.data.spoken_words import SpokenUtterance
from nemo_sortformer.inference.transcript import TranscribedWord, Transcript
from nemo_sortformer.inference.word_score import WordErrors, normalized, score_words
from nemo_sortformer.inference.word_score_inputs import WordSession, pair_words, read_words

pytest.importorskip("meeteval", reason="meeteval is not installed (extra `words`)")


def transcript(recording="talk", shift=0.0):
    rows = [("good", 0.0, 0.5, 0), ("morning", 0.6, 1.0, 0), ("hi", 2.0, 2.4, 1), ("there", 2.5, 3.0, 1)]
    words = tuple(TranscribedWord(text, a + shift, b + shift, f"speaker_{k}") for text, a, b, k in rows)
    return Transcript(recording=recording, words=words, duration=60.0)


def utterances(*rows):
    return [SpokenUtterance(start, end, speaker, {"words": text}) for speaker, start, end, text in rows]


TRUTH = utterances(("Ann", 0.0, 1.0, "good morning"), ("Bob", 2.0, 3.0, "hi there"))


@pytest.mark.parametrize("kind", ["seglst", "stm", "ctm"])
def test_each_format_is_read_and_scores_itself_without_an_error(tmp_path, kind):
    path = tmp_path / f"talk.{'json' if kind == 'seglst' else kind}"
    getattr(transcript(), f"to_{kind}")(path)
    assert list(read_words(path)) == ["talk"]
    report = score_words(pair_words(path, [transcript()]).sessions)
    assert (report.cpwer.errors, report.cpwer.words, report.tcpwer.errors) == (0, 4, 0)
    assert report.speaker_count_accuracy == 1.0
    assert report.diarization.der == 0.0


def test_errors_by_hand():
    answer = utterances(("x", 2.0, 3.0, "hi you there"), ("y", 0.0, 1.0, "good"), ("z", 5.0, 6.0, "noise"))
    report = score_words([WordSession("talk", TRUTH, answer)])
    assert report.cpwer == WordErrors(insertions=2, deletions=1, substitutions=0, words=4)
    assert report.cpwer.rate == 0.75
    [row] = report.recordings
    assert (row.true_speakers, row.answered_speakers) == (2, 3)
    found = report.to_dict()
    assert found["total"]["cpwer"]["rate"] == 0.75
    assert json.loads(json.dumps(found)) == found


def test_a_word_said_elsewhere_is_wrong_in_time_alone():
    session = pair_words_of(transcript(shift=20.0))
    assert score_words([session]).cpwer.errors == 0
    assert score_words([session], collar=1.0).tcpwer.errors == 8
    assert score_words([session], collar=30.0).tcpwer.errors == 0


def pair_words_of(answer):
    from nemo_sortformer.inference.word_score_inputs import utterances_of

    return WordSession("talk", TRUTH, utterances_of(answer))


def test_silence_and_answers_out_of_nothing():
    empty = score_words([WordSession("quiet", [], [])])
    assert (empty.cpwer.rate, empty.tcpwer.rate) == (0.0, 0.0)
    noise = score_words([WordSession("quiet", [], utterances(("x", 0.0, 1.0, "two words")))])
    assert noise.cpwer.rate == float("inf")
    assert noise.to_dict()["total"]["cpwer"]["rate"] is None
    missed = score_words([WordSession("talk", TRUTH, [])])
    assert missed.cpwer == WordErrors(deletions=4, words=4)
    assert missed.tcpwer.rate == 1.0


def test_totals_pool_the_words():
    wrong = utterances(("x", 0.0, 1.0, "bad"))
    one = WordSession("a", utterances(("A", 0.0, 1.0, "good")), wrong)
    report = score_words([one, WordSession("b", TRUTH, TRUTH)])
    assert report.cpwer.rate == pytest.approx(1 / 5)
    assert report.speaker_count_accuracy == 1.0


def test_case_and_punctuation_count_unless_told_otherwise():
    session = WordSession("t", utterances(("A", 0.0, 1.0, "Good morning.")), utterances(("x", 0, 1, "good morning")))
    assert score_words([session]).cpwer.errors == 2
    assert score_words([session], normalize=True).cpwer.errors == 0
    assert normalized("Well -- it's Anna-Lena, isn't it?") == "well it's anna lena isn't it"


def test_recordings_pair_by_name(tmp_path):
    (tmp_path / "truth").mkdir()
    for name in ("a", "b"):
        transcript(name).to_seglst(tmp_path / "truth" / f"{name}.seglst.json")
        transcript(name).to_stm(tmp_path / "truth" / f"{name}.stm")  # the same again, not read
    pairing = pair_words(tmp_path / "truth", [transcript("b"), transcript("c")])
    assert [session.recording for session in pairing.sessions] == ["a", "b"]
    assert (pairing.unanswered, pairing.unknown) == (["a"], ["c"])
    assert score_words(pairing.sessions).cpwer.rate == 0.5
    manifest = tmp_path / "manifest.jsonl"
    entry = {"audio_filepath": "a.wav", "duration": 60.0, "seglst_filepath": "truth/a.seglst.json"}
    manifest.write_text(json.dumps(entry) + "\n")
    assert list(read_words(manifest)) == ["a"]


def test_one_on_each_side_is_a_pair_and_an_empty_file_is_a_silent_recording(tmp_path):
    transcript("x").to_seglst(tmp_path / "x.json")
    (tmp_path / "y.stm").write_text("")
    [session] = pair_words(tmp_path / "x.json", tmp_path / "y.stm").sessions
    assert (session.recording, len(session.reference), list(session.answer)) == ("x", 2, [])


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.stm", "talk 1 Ann 3.0 1.0 words\n", r"a\.stm:1: must be `recording"),
        ("a.stm", ";; comment\ntalk 1 Ann\n", r"a\.stm:2: must be"),
        ("a.ctm", "talk 1 0.0 1.0 word\n", r"a\.ctm:1: the word"),
        ("a.json", "[{}]", r"segment 1: `speaker` is missing"),
        ("a.txt", "words", r"must be SegLST"),
        ("b.json", None, "no such file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_words(tmp_path / name)


def test_names_that_do_not_meet_and_bad_settings_are_errors(tmp_path):
    transcript("a").to_seglst(tmp_path / "a.seglst.json")
    with pytest.raises(ValueError, match="No answer is to a recording"):
        pair_words(tmp_path / "a.seglst.json", [transcript("b"), transcript("c")])
    with pytest.raises(ValueError, match="`collar`"):
        score_words([], collar=-1.0)
    many = utterances(*((f"s{k}", k, k + 1, "w") for k in range(25)))
    with pytest.raises(ValueError, match="`talk` cannot be scored"):
        score_words([WordSession("talk", many, many)])
