# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Cuts with words: supervisions, alignments, SegLST files, windows, speed and mixtures."""

import json

import numpy as np
import pytest
import soundfile

pytest.importorskip("lhotse")
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.supervision import AlignmentItem

from nemo_sortformer.data.failures import FailedRecordingWarning
from nemo_sortformer.data.joint_lhotse import LhotseJointDataset
from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer
from nemo_sortformer.data.spoken_words import WordsError
from nemo_sortformer.data.text_labels import TextLabeler
from nemo_sortformer.functional.serialized import Turn

RATE = 16_000
TOLD = [("bob", 1.0, 3.0, "good day"), ("ann", 2.5, 6.0, "yes"), ("bob", 6.5, 8.0, "stop")]


def cut(folder, told=TOLD, name="a", custom=None, align=False):
    path = folder / f"{name}.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE), RATE)
    made = Recording.from_file(path, recording_id=name)
    supervisions = [
        SupervisionSegment(f"{name}-{k}", name, start=start, duration=end - start, speaker=who, text=text)
        for k, (who, start, end, text) in enumerate(told)
    ]
    if align:
        words = [AlignmentItem("good", 1.0, 0.2), AlignmentItem("day", 2.8, 0.2)]
        supervisions[0] = supervisions[0].with_alignment("word", words)
    return MonoCut(name, 0, made.duration, 0, supervisions=supervisions, recording=made, custom=custom)


@pytest.fixture
def data(letters):
    def make(levels=None, fields=None, **options):
        labeler = TextLabeler({"asr": SpeakerTokenizer(letters(), 4)}, 4, levels=levels, fields=fields)
        return LhotseJointDataset(labeler, num_slots=4, **options)

    return make


def turns(data, *cuts):
    batch = data[CutSet(cuts)]
    text = batch.texts["asr"]
    found = [row[:length] for row, length in zip(text.tokens.tolist(), text.lengths.tolist())]
    return [data.labeler.tokenizers["asr"].decode(ids) for ids in found]


ALL = [Turn(0, "good day"), Turn(1, "yes"), Turn(0, "stop")]


def test_texts_of_supervisions_and_windows_of_them(tmp_path, data):
    whole = cut(tmp_path)
    assert turns(data(), whole, whole.truncate(offset=6.2), whole.truncate(offset=2.0, duration=3.0)) == [
        ALL, [Turn(0, "stop")], [Turn(0, "day"), Turn(1, "yes")],
    ]  # fmt: skip
    batch = data()[CutSet([whole])]
    assert batch.texts["asr"].streams.shape[:2] == (1, 4)
    assert batch.targets[0].any(0).tolist() == [True, True, False, False]


def test_alignments_say_when_each_word_was_said(tmp_path, data):
    aligned, plain = cut(tmp_path, align=True), cut(tmp_path)
    late = [one.truncate(offset=1.9, duration=4.0) for one in (aligned, plain)]
    levels = {"asr": "word"}
    assert turns(data(levels), aligned, plain) == [
        [Turn(0, "good"), Turn(1, "yes"), Turn(0, "day stop")], [Turn(0, "good day"), Turn(1, "yes"), Turn(0, "stop")]
    ]  # fmt: skip
    assert [row[0] for row in turns(data(levels), *late)] == [Turn(0, "day")] * 2
    faster = aligned.perturb_speed(1.25).truncate(offset=1.9 / 1.25, duration=4.0)
    assert turns(data(levels), faster)[0][0] == Turn(0, "day")
    words = aligned.supervisions[0]
    hasty = words.with_alignment("word", [AlignmentItem("good", 1.0, 0.2), AlignmentItem("day", 1.4, 0.2)])
    aligned.supervisions = [hasty, *aligned.supervisions[1:]]
    assert turns(data(levels), aligned.truncate(offset=1.9, duration=4.0)) == [[Turn(1, "yes")]]
    wrong = words.with_alignment("word", [AlignmentItem("other", 1.0, 0.2)])
    aligned.supervisions = [wrong, *aligned.supervisions[1:]]
    assert turns(data(), aligned)[0] == ALL  # one that does not have these words is not used


def test_a_seglst_file_wins_and_follows_start_and_speed(tmp_path, data):
    records = [
        {"session_id": "a", "speaker": who, "start_time": start, "end_time": end, "words": text.upper()}
        for who, start, end, text in TOLD
    ]
    (tmp_path / "a.json").write_text(json.dumps(records))
    whole = cut(tmp_path, custom={"seglst_filepath": "a.json"})
    said = turns(
        data(), whole, whole.truncate(offset=6.2), whole.perturb_speed(1.25).truncate(offset=5.1, duration=1.2)
    )
    assert said == [[Turn(k, text.upper()) for k, text in ALL], [Turn(0, "STOP")], [Turn(0, "STOP")]]


def test_mixed_cuts_say_what_their_tracks_say(tmp_path, data):
    other = cut(tmp_path, [("cem", 0.2, 1.0, "nine")], name="b")
    mixed = cut(tmp_path).mix(other, offset_other_by=9.0)
    assert turns(data(), mixed) == [[*ALL, Turn(2, "nine")]]
    assert turns(data(), cut(tmp_path).pad(duration=12.0)) == [ALL]


def test_further_texts_are_custom_fields(tmp_path, data):
    whole = cut(tmp_path)
    for supervision, text in zip(whole.supervisions, ("guten tag", "ja", "")):
        supervision.custom = {"translation": text}
    assert turns(data(fields={"asr": "translation"}), whole) == [[Turn(0, "guten tag"), Turn(1, "ja")]]


def test_text_of_nobody_belongs_to_the_only_speaker_or_is_an_error(tmp_path, data):
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 1.0 2.0 <NA> <NA> bob <NA> <NA>\n")
    nobody = [(None, 1.0, 3.0, "good day")]
    assert turns(data(), cut(tmp_path, nobody, custom={"rttm_filepath": "a.rttm"})) == [[Turn(0, "good day")]]
    with open(tmp_path / "a.rttm", "a") as file:
        file.write("SPEAKER a 1 4.0 2.0 <NA> <NA> ann <NA> <NA>\n")
    with pytest.raises(WordsError, match="Cut `a`: the supervision `a-0` has a text, but no speaker, .* name 2"):
        turns(data(), cut(tmp_path, nobody, custom={"rttm_filepath": "a.rttm"}))


def test_a_bad_cut_is_left_out_and_a_batch_of_bad_cuts_is_silence(tmp_path, data):
    bad = cut(tmp_path, [("bob", 0.0, 1.0, "<spk0>")], name="b")
    with pytest.warns(FailedRecordingWarning, match="`b` is left out"):
        assert turns(data(max_failed_share=0.5), bad, cut(tmp_path)) == [ALL]
    with pytest.warns(FailedRecordingWarning):
        batch = data(max_failed_share=0.5)[CutSet([bad])]
    assert batch.audio.shape == (1, RATE)
    assert batch.targets.sum() == batch.texts["asr"].lengths.sum() == 0
