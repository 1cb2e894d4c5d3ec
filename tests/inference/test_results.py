# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A diarization in every format that it can take."""

import json

import numpy as np
import pytest

from nemo_sortformer.data.rttm import read_rttm
from nemo_sortformer.data.seglst import read_seglst
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.results import Diarization

SEGMENTS = (Segment(0.5, 2.0, "speaker_0"), Segment(1.75, 3.25, "speaker_1"), Segment(4.0, 4.5, "speaker_0"))


@pytest.fixture
def diarization():
    return Diarization(recording="team talk", segments=SEGMENTS, duration=5.0, probs=np.zeros((63, 2), np.float32))


def test_speakers_are_those_who_speak_in_order_of_arrival(diarization):
    assert diarization.speakers == ("speaker_0", "speaker_1")
    assert Diarization(recording="x", segments=(), duration=1.0).speakers == ()


def test_rttm_is_read_back_as_it_was(diarization, tmp_path):
    text = diarization.to_rttm(tmp_path / "new" / "talk.rttm")
    assert text.splitlines()[0] == "SPEAKER team_talk 1 0.500 1.500 <NA> <NA> speaker_0 <NA> <NA>"
    assert read_rttm(tmp_path / "new" / "talk.rttm") == {"team_talk": list(SEGMENTS)}


def test_seglst_is_read_back_as_it_was(diarization, tmp_path):
    rows = json.loads(diarization.to_seglst(tmp_path / "talk.json"))
    assert rows[1] == {
        "session_id": "team talk", "speaker": "speaker_1", "start_time": 1.75, "end_time": 3.25, "words": "",
    }  # fmt: skip
    assert read_seglst(tmp_path / "talk.json") == {"team talk": list(SEGMENTS)}


def test_audacity_labels_are_start_end_name_between_tabs(diarization):
    assert diarization.to_audacity().splitlines()[2] == "4.000000\t4.500000\tspeaker_0"


def test_strings_are_grouped_by_speaker_and_rounded_to_ten_milliseconds(diarization):
    assert diarization.to_strings() == ["0.500 2.000 speaker_0", "4.000 4.500 speaker_0", "1.750 3.250 speaker_1"]
    fine = Diarization(recording="x", segments=(Segment(0.123, 0.987, "speaker_10"),), duration=1.0)
    assert fine.to_strings() == ["0.120 0.990 speaker_10"]


def test_ten_speakers_are_grouped_by_number_not_by_letter():
    segments = tuple(Segment(float(k), k + 0.5, f"speaker_{k}") for k in range(11))
    names = [line.split()[2] for line in Diarization(recording="x", segments=segments, duration=12.0).to_strings()]
    assert names == [f"speaker_{k}" for k in range(11)]


def test_the_annotation_holds_the_same_time_per_speaker(diarization):
    annotation = diarization.to_annotation()
    assert annotation.uri == "team talk"
    assert dict(annotation.chart()) == pytest.approx({"speaker_0": 2.0, "speaker_1": 1.5})
    assert annotation.get_overlap().duration() == pytest.approx(0.25)


def test_nobody_speaking_is_a_result_in_every_format(tmp_path):
    silent = Diarization(recording="x", segments=(), duration=0.05)
    assert silent.to_rttm(tmp_path / "x.rttm") == ""
    assert (tmp_path / "x.rttm").read_text() == ""
    assert json.loads(silent.to_seglst()) == []
    assert silent.to_strings() == []
    assert not silent.to_annotation()
    assert silent.plot() is not None
