# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of the joint model: what it tells a model that may know the truth, and how it counts."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.joint_asr import by_system, interval, row, true_diarizations
from benchmarks.page_blocks import blocks
from nemo_sortformer.data.rttm import write_rttm
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.spoken_words import TRANSCRIPT, SpokenUtterance
from nemo_sortformer.inference.word_score import score_words
from nemo_sortformer.inference.word_score_inputs import WordSession

DOCS = Path(__file__).resolve().parents[2] / "docs"


def said(speaker, start, text):
    return SpokenUtterance(start, start + 1.0, speaker, {TRANSCRIPT: text})


@pytest.fixture
def report():
    pytest.importorskip("meeteval", reason="scores of words need the extra `words`")
    truth = [said("anna", 0.0, "a b c d"), said("bo", 2.0, "e f g h")]
    right = [said("x", 0.0, "a b c d"), said("y", 2.0, "e f g h")]
    half = [said("x", 0.0, "a b c d")]
    return score_words([WordSession("one", truth, right), WordSession("two", truth, half)])


def test_a_row_counts_words_of_all_sessions(report):
    found = row(report)
    assert found["cpWER %"].startswith("25.0 [")
    assert found["words"] == 16
    assert found["deletions %"] == 25.0
    assert found["insertions %"] == 0.0
    assert found["speakers right %"] == 50.0


def test_the_interval_holds_the_rate_and_spans_what_sessions_differ_by(report):
    assert interval(report) == (0.0, 50.0)  # of two sessions, both may be drawn twice


def test_the_truth_is_told_in_order_of_arrival(tmp_path):
    soundfile.write(tmp_path / "one.wav", np.zeros(32000, dtype=np.float32), 16000)
    write_rttm(tmp_path / "one.rttm", [Segment(1.0, 2.0, "anna"), Segment(0.2, 1.2, "zoe")], "one")
    line = {"audio_filepath": "one.wav", "duration": 2.0, "rttm_filepath": "one.rttm", "uniq_id": "one"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    (told,) = true_diarizations(tmp_path / "manifest.jsonl", num_slots=4)
    assert told.recording == "one"
    assert told.duration == 2.0
    assert {(s.start, s.speaker) for s in told.segments} == {(0.2, "speaker_0"), (1.0, "speaker_1")}
    assert told.probs.shape == (25, 4)
    assert told.probs[5, :2].tolist() == [1, 0]
    assert told.probs[20, :2].tolist() == [0, 1]
    assert told.probs[14, :2].tolist() == [1, 1]
    assert not told.probs[:, 2:].any()


def test_a_table_of_several_runs_has_a_row_per_system_and_gaps_where_nothing_was_run():
    runs = [
        {"rows": [{"system": "a", "set": "one", "cpWER %": "1"}, {"system": "a", "set": "two", "cpWER %": "2"}]},
        {"rows": [{"system": "b", "set": "two", "cpWER %": "3"}]},
    ]
    lines = by_system(runs).splitlines()
    assert lines[0] == "| system | one | two |"
    assert lines[2:] == ["| a | 1 | 2 |", "| b | - | 3 |"]


def test_the_page_is_that_of_the_record():
    records = json.loads((DOCS / "joint_asr_compared.json").read_text())
    assert blocks((DOCS / "joint_asr.md").read_text(), "compared")["table"] == by_system(records).strip()
    assert all(record["command"] and record["commit"] and record["machine"] for record in records)
