# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Words to speakers: by hand, and equal to a slow second implementation of the rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.segment import Segment, merge_overlaps
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.word_speakers import assign_speakers, integral, speakers_of_spans

FRAME = 0.1


def slow_speaker(start, end, segments, num_speakers, probs, offset):
    """The rule, word by word and frame by frame: the best of the active ones, else the nearest; ties by arrival."""
    end = max(end, start + 0.01)
    active = [0.0] * num_speakers
    for segment in segments:
        active[int(segment.speaker)] += max(min(end, segment.end) - max(start, segment.start), 0.0)
    heard = [k for k in range(num_speakers) if active[k] > 1e-9]
    if heard:
        scores = list(active)
        if probs is not None:
            scores = [0.0] * num_speakers
            for t, row in enumerate(probs):
                shared = min(end, offset + (t + 1) * FRAME) - max(start, offset + t * FRAME)
                for k in range(num_speakers):
                    scores[k] += max(shared, 0.0) * row[k] / (end - start)
        best = max(scores[k] for k in heard)
        return next(k for k in heard if scores[k] >= best - 1e-9)
    gaps = [(max(s.start - end, start - s.end), int(s.speaker)) for s in segments]
    nearest = min((gap for gap, _ in gaps), default=None)
    return min((k for gap, k in gaps if gap <= nearest + 1e-9), default=-1)


tenths = st.integers(0, 60).map(lambda n: n / 10)
segments = st.lists(
    st.tuples(tenths, st.integers(1, 20), st.integers(0, 2)).map(
        lambda row: Segment(row[0], round(row[0] + row[1] / 10, 6), str(row[2]))
    ),
    max_size=8,
).map(merge_overlaps)
spans = st.lists(st.tuples(st.integers(0, 180), st.integers(0, 30)), max_size=8)


@given(segments=segments, spans=spans, seed=st.none() | st.integers(0, 99), offset=st.sampled_from([0.0, 1.3]))
def test_the_speakers_are_those_of_the_slow_rule(segments, spans, seed, offset):
    times = np.array([(start / 20, (start + length) / 20) for start, length in spans]).reshape(-1, 2)
    probs = None
    if seed is not None:  # quarters, so that ties occur
        probs = np.random.default_rng(seed).integers(0, 5, (55, 3)).astype(np.float32) / 4
    found = speakers_of_spans(times, segments, num_speakers=3, probs=probs, offset=offset, frame_seconds=FRAME)
    assert found.tolist() == [slow_speaker(a, b, segments, 3, probs, offset) for a, b in times.tolist()]


def diarization(rows, probs=None, **options):
    segments = tuple(sorted(Segment(a, b, f"speaker_{k}") for a, b, k in rows))
    return Diarization(recording="r", segments=segments, duration=10.0, probs=probs, frame_seconds=FRAME, **options)


def speakers(words, answer):
    return [word.speaker for word in assign_speakers([("w", a, b) for a, b in words], answer)]


def test_by_hand_without_probabilities():
    answer = diarization([(1.0, 3.0, 0), (2.5, 5.0, 1), (7.0, 8.0, 0)])
    words = [(1.2, 1.6), (2.4, 3.4), (2.6, 2.9), (5.2, 5.6), (6.6, 6.9), (5.9, 6.1), (9.0, 9.5), (0.0, 0.2)]
    # alone; mostly the second; both all the time, so by arrival; just after; just before; between; the ends
    assert speakers(words, answer) == [f"speaker_{k}" for k in (0, 1, 0, 1, 0, 0, 0, 0)]


def test_the_probabilities_decide_where_several_speak():
    probs = np.zeros((100, 2), np.float32)
    probs[10:50] = [0.6, 0.9]
    answer = diarization([(1.0, 5.0, 0), (2.0, 5.0, 1)], probs)
    assert speakers([(1.2, 1.8), (3.0, 3.5)], answer) == ["speaker_0", "speaker_1"]  # the first speaks alone at first


def test_words_outside_the_audio_go_to_the_nearest_and_words_of_nobody_to_nobody():
    answer = diarization([(1.0, 2.0, 0), (8.0, 9.9, 1)], np.full((100, 2), 0.5, np.float32))
    assert speakers([(50.0, 51.0), (0.0, 0.5)], answer) == ["speaker_1", "speaker_0"]
    assert speakers([(1.0, 2.0)], diarization([])) == ["unknown"]
    assert assign_speakers([], answer) == []


def test_a_part_of_a_file_keeps_the_times_of_the_file():
    probs = np.zeros((20, 2), np.float32)
    probs[:10, 0], probs[10:, 1] = 1, 1
    answer = diarization([(100.0, 102.0, 0), (100.5, 102.0, 1)], probs, offset=100.0)
    assert speakers([(100.2, 100.8), (101.2, 101.6)], answer) == ["speaker_0", "speaker_1"]


def test_speakers_of_other_names_are_taken_as_they_come():
    segments = (Segment(0.0, 1.0, "Zoe"), Segment(1.0, 2.0, "Ann"))
    answer = Diarization(recording="r", segments=segments, duration=2.0, probs=np.ones((20, 2), np.float32))
    assert speakers([(0.2, 0.4), (1.2, 1.4), (0.9, 1.1)], answer) == ["Zoe", "Ann", "Zoe"]


def test_a_word_that_ends_before_it_starts_is_an_error():
    with pytest.raises(ValueError, match="from 2.0 to 1.0"):
        assign_speakers([("w", 2.0, 1.0)], diarization([(0.0, 1.0, 0)]))
    with pytest.raises(ValueError, match="nan"):
        assign_speakers([("w", float("nan"), 1.0)], diarization([(0.0, 1.0, 0)]))


def test_the_area_under_a_staircase():
    area = integral(np.array([[1.0], [3.0]]), np.array([0.0, 1.0, 3.0]), np.array([-1.0, 0.5, 2.0, 9.0]))
    assert area[:, 0].tolist() == [0.0, 0.5, 4.0, 7.0]
