# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Stretches hold all speech, do not overlap, and are not too long; masks silence the rest."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.stretches import Level, Stretch, masked, speech_stretches, spread_over_speech

rows = st.lists(st.tuples(st.integers(0, 600), st.integers(1, 300), st.sampled_from("ab")), max_size=12)


@given(rows=rows, max_seconds=st.integers(2, 20), seed=st.none() | st.integers(0, 20))
def test_stretches_hold_all_speech_and_no_long_silence(rows, max_seconds, seed):
    segments = [Segment(start / 10, (start + length) / 10, name) for start, length, name in rows]
    level = None if seed is None else Level(np.random.default_rng(seed).random(700), 2.0, 0.1)
    found = speech_stretches(segments, start=2.0, end=72.0, max_seconds=max_seconds, level=level)
    assert all(2.0 <= s.start < s.end <= 72.0 and s.end - s.start <= max_seconds + 1e-9 for s in found)
    assert all(one.end <= two.start for one, two in zip(found, found[1:], strict=False))
    times = np.arange(2.005, 72, 0.01)

    def inside(spans):
        return np.any([(times >= a) & (times <= b) for a, b in spans] or [np.zeros(len(times), bool)], axis=0)

    speech, heard = inside([s[:2] for s in segments]), inside(found)
    assert not (speech & ~heard).any()
    near = np.convolve(speech, np.ones(203), mode="same") > 0  # a second to either side
    assert not (heard & ~near).any()


def test_a_long_stretch_is_cut_where_there_is_least_speech():
    level = np.ones(400)
    level[230] = 0.2
    found = speech_stretches(
        [Segment(0.0, 40.0, "a")], start=0.0, end=40.0, max_seconds=30.0, level=Level(level, 0.0, 0.1)
    )
    assert found == [Stretch(0.0, 23.0), Stretch(23.0, 40.0)]


def test_nobody_speaks_nothing_is_heard():
    assert speech_stretches([], start=0.0, end=30.0, max_seconds=30.0) == []


def test_a_mask_leaves_the_speaker_alone():
    samples = np.ones(32_000, np.float32)
    found = masked(samples, [Segment(100.5, 101.0, "a"), Segment(101.02, 101.3, "a")], start=100.0, sample_rate=16_000)
    assert (found[int(0.4 * 16_000) : int(1.4 * 16_000)] == 1).all()
    assert (found[: int(0.37 * 16_000)] == 0).all()
    assert (found[int(1.43 * 16_000) :] == 0).all()
    assert not masked(samples, [], start=0.0, sample_rate=16_000).any()


def test_words_without_times_are_spread_over_speech_alone():
    segments = [Segment(1.0, 2.0, "a"), Segment(4.0, 6.0, "b"), Segment(5.0, 5.5, "a")]
    found = spread_over_speech("ab cde fg hi", Stretch(0.5, 6.5), segments)
    assert [word for word, _, _ in found] == ["ab", "cde", "fg", "hi"]
    pace = 3.0 / 12
    assert np.allclose(
        [row[1:] for row in found],
        [(1.0, 1.0 + 2 * pace), (1.0 + 3 * pace, 4 + 2 * pace), (4.0 + 3 * pace, 4.0 + 5 * pace), (5.5, 6.0)],
    )
    assert spread_over_speech("", Stretch(0, 1), segments) == []
    assert spread_over_speech("one", Stretch(8.0, 9.0), segments) == [("one", 8.0, 9.0)]
