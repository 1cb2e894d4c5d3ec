# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Recordings with words, of every kind that a manifest can name, and every way in which they can be wrong."""

import json

import numpy as np
import pytest
import soundfile
import torch

from nemo_sortformer.data.failures import FailedRecordingWarning
from nemo_sortformer.data.joint_dataset import JointDataset
from nemo_sortformer.data.manifest import ManifestError, read_manifest
from nemo_sortformer.data.rttm import RttmWarning
from nemo_sortformer.data.seglst import SeglstError
from nemo_sortformer.data.speaker_tokenizer import SpeakerTagError, SpeakerTokenizer
from nemo_sortformer.data.spoken_words import WordsError
from nemo_sortformer.data.targets import TooManySpeakersError
from nemo_sortformer.data.text_labels import TextLabeler
from nemo_sortformer.data.word_reader import WordReader
from nemo_sortformer.functional.serialized import Turn

RATE = 16_000
SECONDS = 6
TOLD = [("bob", 0.5, 2.5, "good day"), ("ann", 1.0, 2.0, "yes"), ("bob", 4.0, 5.0, "stop")]


@pytest.fixture
def write(tmp_path):
    """Writes audio, labels, words and a manifest of one line; gives the path of the manifest."""
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, SECONDS * RATE)
    soundfile.write(tmp_path / "a.wav", samples, RATE)

    def make(told=TOLD, kind="seglst", lines=None, **keys):
        records = [
            {"session_id": "a", "speaker": who, "start_time": start, "end_time": end, "words": text}
            for who, start, end, text in told
        ]
        (tmp_path / "a.json").write_text(json.dumps(records))
        (tmp_path / "a.rttm").write_text(
            "".join(f"SPEAKER a 1 {s:.3f} {e - s:.3f} <NA> <NA> {who} <NA> <NA>\n" for who, s, e, _ in told)
        )
        (tmp_path / "a.ctm").write_text(
            "".join(f"a 1 {s:.3f} {e - s:.3f} {t.replace(' ', '')} 1 lex {who}\n" for who, s, e, t in told)
        )
        named = {
            "seglst": {"seglst_filepath": "a.json"},
            "both": {"seglst_filepath": "a.json", "rttm_filepath": "a.rttm"},
            "ctm": {"rttm_filepath": "a.rttm", "words_filepath": "a.ctm"},
            "text": {"text": "good day", "speaker": "bob"},
        }[kind]
        path = tmp_path / "manifest.jsonl"
        lines = lines or [{"audio_filepath": "a.wav", **named, **keys}]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return make


@pytest.fixture
def build(letters):
    def make(manifest, num_slots=3, **options):
        tokenizer = SpeakerTokenizer(letters(), 4)
        keep = options.get("keep_earliest_speakers", False)
        labeler = TextLabeler({"asr": tokenizer}, num_slots, keep_earliest_speakers=keep)
        return JointDataset(manifest, labeler, num_slots=num_slots, **options)

    return make


def turns(data, index=0):
    return data.labeler.tokenizers["asr"].decode(data[index].texts["asr"].serialized)


# --- Kinds of manifests


@pytest.mark.parametrize("kind", ["seglst", "both", "ctm"])
def test_words_and_labels_of_a_session(write, build, kind):
    item = build(write(kind=kind))[0]
    assert item.targets.shape == (75, 3)
    assert item.targets.sum(0).tolist() == pytest.approx([37, 13, 0], abs=1)
    expected = [Turn(0, "goodday" if kind == "ctm" else "good day"), Turn(1, "yes"), Turn(0, "stop")]
    assert turns(build(write(kind=kind))) == expected
    assert torch.equal(item.audio, build(write(kind=kind))[0].audio)


def test_text_of_one_speaker_is_labelled_for_the_whole_stretch_or_its_speech(write, build):
    whole = build(write(kind="text"))
    assert turns(whole) == [Turn(0, "good day")]
    assert whole[0].targets[:, 0].all()
    part = build(write(kind="text", speech_start=1.0, speech_end=3.0))[0]
    assert part.targets[:, 0].sum() == 25
    stretch = build(write(kind="text", offset=1.0, duration=2.0))[0]
    assert stretch.targets.shape == (25, 3)
    assert stretch.targets[:, 0].all()
    nobody = build(write(kind="text", speaker=None))
    assert turns(nobody) == [Turn(0, "good day")]


def test_text_with_labels_of_one_speaker_is_theirs_and_of_several_an_error(write, build):
    one = [("bob", 0.5, 2.5, ""), ("bob", 4.0, 5.0, "")]
    data = build(write(one, kind="text", rttm_filepath="a.rttm"))
    assert turns(data) == [Turn(0, "good day")]
    with pytest.raises(WordsError, match=r"manifest.jsonl:1: has a `text`, but its labels name 2 speakers"):
        build(write(kind="text", rttm_filepath="a.rttm"))[0]


def test_windows_share_the_words_and_keep_slots_of_their_own(write, build):
    data = build(write(), session_len_sec=2.0)
    said = [[Turn(0, "good"), Turn(1, "yes")], [Turn(0, "day")], [Turn(0, "stop")]]
    assert [turns(data, index) for index in range(len(data))] == said


def test_random_windows_never_fail_whatever_they_cut(write, build):
    data = build(write(), session_len_sec=0.7, training=True, num_slots=2)
    for epoch in range(12):
        data.set_epoch(epoch)
        for index in range(len(data)):
            item = data[index]
            assert len(item.texts["asr"].streams) == 2


def test_several_recordings_in_one_file_are_told_apart(write, build, tmp_path):
    path = write()
    records = json.loads((tmp_path / "a.json").read_text())
    records.append({"session_id": "b", "speaker": "cem", "start_time": 0, "end_time": 1, "words": "other"})
    (tmp_path / "a.json").write_text(json.dumps(records))
    assert turns(build(path)) == [Turn(0, "good day"), Turn(1, "yes"), Turn(0, "stop")]


def test_an_empty_list_of_segments_is_a_recording_without_words(write, build):
    data = build(write([]))
    assert turns(data) == []
    assert data[0].targets.sum() == 0


# --- Bad input


def test_speakers_without_words_have_labels_and_no_tokens(write, build):
    data = build(write([("bob", 0.5, 2.5, ""), ("ann", 3.0, 4.0, "yes")], kind="both"))
    assert data[0].targets.any(0).tolist() == [True, True, False]
    assert turns(data) == [Turn(1, "yes")]


def test_words_of_speakers_without_labels_are_an_error(write, build, tmp_path):
    path = write(kind="ctm")
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 0.5 2.0 <NA> <NA> bob <NA> <NA>\n")
    with pytest.raises(WordsError, match=r"manifest.jsonl:1: The word 'yes' at 1.00 s is of speaker `ann`"):
        build(path)[0]


def test_words_without_length_are_an_error_as_nobody_can_label_them(write, build):
    with pytest.raises(WordsError, match="'yes' at 1.00 s is of speaker `ann`, who has no label"):
        build(write([("bob", 0.5, 2.5, "good"), ("ann", 1.0, 1.0, "yes")]))[0]


@pytest.mark.parametrize(
    "told, error, match",
    [
        (
            [("bob", 0.5, 9.0, "good day")],
            WordsError,
            "a.json: 'good day' of `bob` ends at 9.00 s, but the audio at 6",
        ),
        ([("bob", 2.0, 1.0, "good")], SeglstError, "`end_time` must not be before `start_time`"),
        ([("bob", -1.0, 1.0, "good")], SeglstError, "`start_time` must be 0 or more"),
        ([("bob", 0.0, 1.0, "a <spk1> b")], SpeakerTagError, "manifest.jsonl:1: A text must not hold `<spk1>`"),
        ([(f"s{k}", 0.1 * k, 3.0, "go") for k in range(4)], TooManySpeakersError, "4 speakers are active"),
    ],
)
def test_bad_words_are_named(write, build, told, error, match):
    with pytest.raises(error, match=match):
        build(write(told))[0]


def test_words_of_speakers_beyond_the_slots_go_with_their_labels_if_wished(write, build):
    crowd = [(f"s{k}", 0.5 * k, 3.0, word) for k, word in enumerate("abcde")]
    data = build(write(crowd), keep_earliest_speakers=True)
    assert turns(data) == [Turn(0, "a"), Turn(1, "b"), Turn(2, "c")]


def test_a_bad_recording_is_counted_and_replaced(write, build, tmp_path):
    good = {"audio_filepath": "a.wav", "seglst_filepath": "a.json"}
    (tmp_path / "bad.json").write_text('[{"speaker": "x", "start_time": 0, "end_time": 1, "words": "<spk0>"}]')
    data = build(write(lines=[{"audio_filepath": "a.wav", "seglst_filepath": "bad.json"}, good]), max_failed_share=0.5)
    with pytest.warns((FailedRecordingWarning, RttmWarning)):
        assert turns(data, 0) == turns(data, 1)
    assert len(data.failures.failed) == 1


@pytest.mark.parametrize(
    "line, match",
    [
        (
            {"rttm_filepath": "a.rttm"},
            "neither `seglst_filepath` nor `words_filepath`.*stands for a recording without",
        ),
        ({"text": ""}, "so nobody knows what is said"),
        ({"words_filepath": "a.ctm"}, "has neither `rttm_filepath` nor `seglst_filepath`"),
        ({"words_filepath": 3, "rttm_filepath": "a.rttm"}, "`words_filepath` must be a path in quotes, but is 3"),
    ],
)
def test_entries_without_words_are_named_when_the_data_set_is_built(write, build, line, match):
    with pytest.raises(ManifestError, match=rf"manifest.jsonl:1: .*{match}"):
        build(write(lines=[{"audio_filepath": "a.wav", **line}]))


def test_a_text_that_no_file_can_hold_is_named(write):
    (entry,) = read_manifest(write(kind="ctm"))
    with pytest.raises(ManifestError, match="a CTM file holds the transcript only, but `translation` is wanted"):
        WordReader(["words", "translation"]).check(entry)
    (entry,) = read_manifest(write())
    with pytest.raises(WordsError, match="no segment has a text `translation`"):
        WordReader(["words", "translation"]).utterances(entry)
