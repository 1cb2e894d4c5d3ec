# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The fast DER: the numbers of pyannote.metrics, whatever is left unscored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.exact_score import Truth
from nemo_sortformer.inference.score import Condition, Session, score_sessions

PARTS = ("missed", "false_alarm", "confusion", "speech")


def columns_of(segments):
    names = sorted({segment.speaker for segment in segments})
    return [np.array([(s.start, s.end) for s in segments if s.speaker == name]) for name in names]


@given(
    seed=st.integers(0, 100_000),
    collar=st.sampled_from([0.0, 0.1, 0.25]),
    skip_overlap=st.booleans(),
    uem=st.sampled_from([None, [(0.0, 30.0)], [(2.5, 11.25), (10.0, 17.0), (20.0, 21.0)]]),
)
def test_equal_to_the_scorer(random_session, seed, collar, skip_overlap, uem):
    truth, answer = random_session(seed)
    condition = Condition(collar, skip_overlap)
    expected = score_sessions([Session("a", truth, answer, uem)], [condition]).total(condition)
    got = Truth(truth, condition, uem).compare(columns_of(answer))
    for part in PARTS:
        assert getattr(got, part) == pytest.approx(getattr(expected, part), abs=1e-5), part
    assert got.speech > 0 or uem is not None or collar > 0


def test_values_by_hand():
    truth = [Segment(0.0, 10.0, "Ann"), Segment(8.0, 12.0, "Bob")]
    answer = [np.array([[0.0, 11.0]]), np.array([[11.0, 13.0]])]
    counts = Truth(truth, Condition(0.0)).compare(answer)
    # 8-10: two speak, one is heard; 10-11: Bob's speech goes to Ann; 12-13: nobody speaks
    assert [getattr(counts, part) for part in PARTS] == pytest.approx([2.0, 1.0, 1.0, 14.0])
    skipped = Truth(truth, Condition(0.0, skip_overlap=True)).compare(answer)
    assert [getattr(skipped, part) for part in PARTS] == pytest.approx([0.0, 1.0, 1.0, 10.0])
    with_collar = Truth(truth, Condition(0.5)).compare(answer)
    assert [getattr(with_collar, part) for part in PARTS] == pytest.approx([1.0, 0.5, 0.5, 10.0])


def test_nobody_on_one_side():
    some = [np.array([[1.0, 3.0]])]
    truth = [Segment(0.0, 4.0, "Ann")]
    assert Truth([], Condition(0.25)).compare(some).false_alarm == pytest.approx(2.0)
    assert Truth([], Condition(0.25), uem=[(0.0, 1.5)]).compare(some).false_alarm == pytest.approx(0.5)
    assert Truth(truth, Condition(0.0)).compare([]).der == 1.0
    assert Truth(truth, Condition(0.0)).compare([np.empty((0, 2))]).der == 1.0
    assert Truth([], Condition(0.0)).compare([]).der == 0.0
    assert Truth(truth, Condition(0.0), uem=[]).compare(some).der == 0.0


def test_a_negative_collar_is_refused():
    with pytest.raises(ValueError, match="`collar` must be at least 0"):
        Truth([], Condition(-0.1))
