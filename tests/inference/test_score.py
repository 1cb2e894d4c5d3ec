# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Scores: values by hand, conventions of collar and region, and NeMo's md-eval as the second implementation."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.score import CONDITIONS, Condition, ErrorCounts, Session, score_sessions

TRUTH = [Segment(0.0, 4.0, "Ann"), Segment(6.0, 10.0, "Bob")]


def totals(truth, answer, condition, **more):
    return score_sessions([Session("x", truth, answer, **more)], [condition]).total(condition)


def test_parts_by_hand():
    answer = [Segment(0.0, 3.0, "a"), Segment(5.0, 9.0, "b"), Segment(9.0, 10.0, "a")]
    counts = totals(TRUTH, answer, Condition(0.0))
    assert (counts.missed, counts.false_alarm, counts.confusion) == pytest.approx((1.0, 1.0, 1.0))
    assert counts.speech == pytest.approx(8.0)
    assert counts.der == pytest.approx(3 / 8)


def test_the_collar_is_a_half_width():
    late = [Segment(0.25, 4.0, "a"), Segment(6.0, 10.0, "b")]
    assert totals(TRUTH, late, Condition(0.25)).der == pytest.approx(0.0)
    later = [Segment(0.35, 4.0, "a"), Segment(6.0, 10.0, "b")]
    counts = totals(TRUTH, later, Condition(0.25))
    assert counts.missed == pytest.approx(0.1)
    assert counts.speech == pytest.approx(8.0 - 4 * 0.25)


def test_overlap_can_be_left_out():
    truth = [Segment(0.0, 4.0, "Ann"), Segment(3.0, 8.0, "Bob")]
    answer = [Segment(0.0, 3.5, "a"), Segment(3.5, 8.0, "b")]
    assert totals(truth, answer, Condition(0.0)).missed == pytest.approx(1.0)
    counts = totals(truth, answer, Condition(0.0, skip_overlap=True))
    assert (counts.missed, counts.speech) == pytest.approx((0.0, 7.0))


def test_jaccard_error_by_hand():
    counts = totals(TRUTH, [Segment(0.0, 2.0, "a"), Segment(6.0, 10.0, "b")], Condition(0.0))
    assert counts.jer == pytest.approx((1 - 2 / 4 + 0) / 2)
    assert counts.speakers == 2


def test_a_session_without_speech_counts_with_its_false_alarms():
    silent = Session("silent", [], [Segment(0.0, 2.0, "a")])
    right = Session("right", TRUTH, TRUTH)
    report = score_sessions([silent, right], [Condition(0.0)])
    assert report.recordings[0].counts[Condition(0.0)].der == math.inf
    assert report.total(Condition(0.0)).der == pytest.approx(2 / 8)
    assert report.to_dict()["recordings"][0]["scores"][0]["der"] is None, "JSON has no infinity"
    empty = score_sessions([Session("e", [], [])], [Condition(0.25)])
    assert empty.total(Condition(0.25)).der == 0.0
    assert empty.speaker_count_accuracy == 1.0


def test_false_alarms_outside_the_true_speech_count():
    answer = [*TRUTH, Segment(12.0, 13.0, "Bob")]
    assert totals(TRUTH, answer, Condition(0.25)).false_alarm == pytest.approx(1.0)


def test_a_uem_limits_what_counts():
    answer = [Segment(0.0, 4.0, "a"), Segment(12.0, 13.0, "b")]
    counts = totals(TRUTH, answer, Condition(0.0), uem=[(0.0, 2.0), (3.0, 8.0)])
    assert (counts.missed, counts.false_alarm, counts.speech) == pytest.approx((2.0, 0.0, 5.0))
    report = score_sessions([Session("x", TRUTH, answer, [(0.0, 5.0)])])
    assert (report.recordings[0].true_speakers, report.recordings[0].answered_speakers) == (1, 1)


def test_speaker_count_accuracy_and_error():
    two, three = TRUTH, [*TRUTH, Segment(11.0, 12.0, "Cem")]
    report = score_sessions([Session("a", two, two), Session("b", two, three), Session("c", two, [])])
    assert report.speaker_count_accuracy == pytest.approx(1 / 3)
    assert report.speaker_count_error == pytest.approx((0 + 1 + 2) / 3)


def test_totals_pool_seconds_instead_of_averaging_rates():
    short = Session("short", [Segment(0.0, 1.0, "a")], [])
    long = Session("long", [Segment(0.0, 9.0, "a")], [Segment(0.0, 9.0, "a")])
    assert score_sessions([short, long], [Condition(0.0)]).total(Condition(0.0)).der == pytest.approx(0.1)


def test_counts_add():
    a, b = ErrorCounts(missed=1.0, speech=4.0), ErrorCounts(confusion=2.0, speech=6.0, speakers=1.0)
    assert a + b == ErrorCounts(missed=1.0, confusion=2.0, speech=10.0, speakers=1.0)


def test_a_negative_collar_is_an_error():
    with pytest.raises(ValueError, match="collar.*-1"):
        totals(TRUTH, TRUTH, Condition(-1.0))


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), names=st.permutations(["speaker_0", "speaker_1", "speaker_2"]))
def test_names_of_the_answer_do_not_matter(seed, names, random_session):
    truth, answer = random_session(seed)
    renamed = [s._replace(speaker=names[int(s.speaker[-1])]) for s in answer]
    for condition in CONDITIONS:
        expected = totals(truth, answer, condition).to_dict()
        assert totals(truth, renamed, condition).to_dict() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_the_error_rate_is_nemos(condition, random_session):
    from lhotse import SupervisionSegment
    from nemo.collections.asr.metrics.der import score_labels
    from nemo.utils import logging

    def supervisions(name, segments):
        return [
            SupervisionSegment(
                id=f"{name}{k}", recording_id=name, start=s.start, duration=s.end - s.start, speaker=s.speaker
            )
            for k, s in enumerate(segments)
        ]

    logging.setLevel(logging.ERROR)
    sessions = [Session(f"s{seed}", *random_session(seed, speakers=2 + seed % 3)) for seed in range(25)]
    references = [[s.recording, supervisions(s.recording, s.reference)] for s in sessions]
    answers = [[s.recording, supervisions(s.recording, s.answer)] for s in sessions]
    nemo = score_labels(
        {s.recording: {} for s in sessions},
        references,
        answers,
        collar=condition.collar,
        ignore_overlap=condition.skip_overlap,
        verbose=False,
    )
    der, confusion, false_alarm, missed = nemo[2]
    ours = score_sessions(sessions, [condition]).total(condition).to_dict()
    assert ours["missed"] == pytest.approx(missed, abs=2e-4)
    assert ours["false_alarm"] == pytest.approx(false_alarm, abs=2e-4)
    assert ours["confusion"] == pytest.approx(confusion, abs=2e-4)
    assert ours["der"] == pytest.approx(der, abs=2e-4)
