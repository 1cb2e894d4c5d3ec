# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Matching of names, and the intervals that are wrong; pyannote.metrics is the second implementation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.compare import error_intervals, match_speakers
from nemo_sortformer.inference.score import Condition, Session, score_sessions


def sessions(seed):
    rng = np.random.default_rng(seed)

    def side(prefix, count):
        starts = rng.uniform(0, 18, size=count)
        return [Segment(float(a), float(a + rng.uniform(0.1, 4)), f"{prefix}{rng.integers(3)}") for a in starts]

    return side("true", rng.integers(0, 8)), side("said", rng.integers(0, 8))


def test_the_match_shares_most_time():
    truth = [Segment(0, 4, "Ann"), Segment(4, 10, "Bob")]
    answer = [Segment(0, 10, "x"), Segment(2, 4, "y")]
    assert match_speakers(truth, answer) == {"x": "Bob", "y": "Ann"}


def test_names_that_share_no_time_are_not_matched():
    assert match_speakers([Segment(0, 1, "Ann")], [Segment(2, 3, "x")]) == {}
    assert match_speakers([], [Segment(2, 3, "x")]) == {}
    assert match_speakers([Segment(2, 3, "x")], []) == {}


def test_error_intervals_by_hand():
    truth = [Segment(0, 2, "Ann"), Segment(2, 4, "Bob")]
    answer = [Segment(0, 3, "x"), Segment(3, 5, "y")]
    found = [(e.start, e.end, e.missed, e.false_alarm, e.confusion) for e in error_intervals(truth, answer)]
    assert found == [(2, 3, 0, 0, 1), (4, 5, 0, 1, 0)]


@given(seed=st.integers(0, 10_000))
def test_summed_intervals_are_the_parts_of_the_error_rate(seed):
    truth, answer = sessions(seed)
    counts = score_sessions([Session("x", truth, answer)], [Condition(0.0)]).total(Condition(0.0))
    errors = error_intervals(truth, answer)
    for name in ("missed", "false_alarm", "confusion"):
        mine = sum(getattr(e, name) * (e.end - e.start) for e in errors)
        assert mine == pytest.approx(getattr(counts, name), abs=1e-5), name


@given(seed=st.integers(0, 500))
def test_an_answer_with_other_names_is_without_error(seed):
    truth, _ = sessions(seed)
    assert error_intervals(truth, [s._replace(speaker="other " + s.speaker) for s in truth]) == []
