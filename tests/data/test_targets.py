# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Frame targets: values by hand, properties, and a second implementation that paints every 10 ms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.targets import TooManySpeakersError, frame_targets
from nemo_sortformer.functional.arrival import sort_by_arrival


def painted(segments, speaker, *, num_samples, offset=0.0, subsampling=8):
    """Share of each label's window, by painting hops one after another, as NeMo does it."""
    seconds = num_samples / 16000
    hops = np.zeros(max(round(seconds * 100), 1))
    for start, end, name in segments:
        start, end = max(round(start - offset, 8), 0.0), min(round(end - offset, 8), seconds)
        if name == speaker and end > start:
            hops[int(start * 100) : int(end * 100)] = 1
    frames = math.ceil(math.ceil(num_samples / 160) / subsampling)
    half = subsampling // 2
    shares = []
    for i in range(frames):
        first = 0 if i == 0 else subsampling * i - 1 - half
        last = len(hops) if i == frames - 1 else subsampling * i + half
        shares.append(hops[first:last].mean())
    return np.array(shares)


def test_a_segment_by_hand():
    # Hops 100 to 199. Label 12 sees hops 91-99, label 13 sees 99-107 (8 of 9), label 25 sees 195-203 (5 of 9).
    targets = frame_targets([Segment(1.0, 2.0, "ann")], num_samples=48000, num_slots=4)
    assert targets.shape == (38, 4)
    assert targets.dtype == np.float32
    assert targets[:, 0].nonzero()[0].tolist() == list(range(13, 26))
    assert not targets[:, 1:].any()


def test_the_share_of_the_window_by_hand():
    soft = frame_targets([Segment(1.0, 2.0, "ann")], num_samples=48000, num_slots=1, threshold=None)[:, 0]
    np.testing.assert_allclose(soft[[12, 13, 14, 25, 26]], [0, 8 / 9, 1, 5 / 9, 0], rtol=1e-6)


def test_times_are_cut_off_to_hops_as_nemo_does():
    """0.29 s is hop 28, as float64 cannot hold it: 0.29 * 100 is 28.999..."""
    soft = frame_targets([Segment(0.29, 1.0, "ann")], num_samples=16000, num_slots=1, threshold=None)[:, 0]
    assert soft[4] == pytest.approx(8 / 9)  # hops 27-35, of which 28-35
    # Offsets leave no noise behind: 1.29 - 1 is 0.29, not 0.29000000000000004.
    shifted = frame_targets([Segment(1.29, 2.0, "a")], num_samples=16000, num_slots=1, offset=1.0, threshold=None)
    np.testing.assert_array_equal(shifted[:, 0], soft)


@st.composite
def conversations(draw, max_speakers=4):
    milliseconds = st.integers(0, 9000)
    rows = draw(st.lists(st.tuples(milliseconds, st.integers(1, 4000), st.integers(0, max_speakers - 1)), max_size=15))
    return [Segment(start / 1000, (start + length) / 1000, f"s{speaker}") for start, length, speaker in rows]


@given(
    segments=conversations(),
    num_samples=st.integers(1, 160_000),
    offset=st.integers(0, 3000).map(lambda ms: ms / 1000),
    subsampling=st.sampled_from([2, 4, 8]),
)
def test_targets_equal_painted_hops(segments, num_samples, offset, subsampling):
    names = [f"s{index}" for index in range(4)]
    kwargs = {"num_samples": num_samples, "offset": offset, "subsampling": subsampling}
    soft = frame_targets(segments, num_slots=4, speakers=names, threshold=None, **kwargs)
    expected = np.stack([painted(segments, name, **kwargs) for name in names], axis=1)
    np.testing.assert_allclose(soft, expected, atol=1e-6)
    hard = frame_targets(segments, num_slots=4, speakers=names, **kwargs)
    np.testing.assert_array_equal(hard, (expected.astype(np.float32) >= 0.5))


@given(segments=conversations(), order=st.randoms(use_true_random=False))
def test_columns_are_in_order_of_arrival_whatever_the_order_of_the_segments(segments, order):
    targets = frame_targets(segments, num_samples=200_000, num_slots=4)
    again = sort_by_arrival(torch.from_numpy(targets)[None])[0].numpy()
    np.testing.assert_array_equal(targets, again)
    mixed = list(segments)
    order.shuffle(mixed)
    np.testing.assert_array_equal(frame_targets(mixed, num_samples=200_000, num_slots=4), targets)


@given(segments=conversations())
def test_a_speaker_who_overlaps_itself_counts_once(segments):
    twice = [*segments, *(Segment(s.start, (s.start + s.end) / 2, s.speaker) for s in segments)]
    kwargs = {"num_samples": 160_000, "num_slots": 4}
    np.testing.assert_array_equal(frame_targets(segments, **kwargs), frame_targets(twice, **kwargs))


FIVE = [Segment(5.0 - k, 6.0, f"s{k}") for k in range(5)]


def test_more_speakers_than_slots_is_an_error_that_says_what_to_do():
    with pytest.raises(TooManySpeakersError, match="5 speakers .* 4 slots.*`max_num_of_spks` to 5"):
        frame_targets(FIVE, num_samples=160_000, num_slots=4)
    frame_targets(FIVE, num_samples=160_000, num_slots=5)
    frame_targets(FIVE, num_samples=4 * 16000, num_slots=4)  # s0 has not spoken yet


def test_the_earliest_speakers_are_kept_on_request():
    kept = frame_targets(FIVE, num_samples=160_000, num_slots=4, keep_earliest=True)
    names = ["s4", "s3", "s2", "s1"]
    np.testing.assert_array_equal(kept, frame_targets(FIVE[1:], num_samples=160_000, num_slots=4, speakers=names))


def test_a_speaker_too_short_for_any_frame_takes_no_slot():
    blip = [*FIVE[1:], Segment(0.0, 0.01, "blip")]
    targets = frame_targets(blip, num_samples=160_000, num_slots=4)
    np.testing.assert_array_equal(targets, frame_targets(FIVE[1:], num_samples=160_000, num_slots=4))


def test_speakers_sets_the_columns_and_must_be_complete():
    segments = [Segment(0.0, 1.0, "a"), Segment(1.0, 2.0, "b")]
    targets = frame_targets(segments, num_samples=32000, num_slots=3, speakers=["z", "b", "a"])
    assert targets.any(axis=0).tolist() == [False, True, True]
    assert targets[0].tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="lacks b"):
        frame_targets(segments, num_samples=32000, num_slots=3, speakers=["a"])
    with pytest.raises(ValueError, match="at most 1"):
        frame_targets(segments, num_samples=32000, num_slots=1, speakers=["a", "b"])


@pytest.mark.parametrize(
    "num_samples, frames", [(1, 1), (800, 1), (1280, 1), (1281, 2), (48000, 38), (57_600_000, 45_000)]
)
def test_number_of_frames_from_one_sample_to_an_hour(num_samples, frames):
    everywhere = [Segment(0.0, 4000.0, "ann")]
    targets = frame_targets(everywhere, num_samples=num_samples, num_slots=4)
    assert targets.shape == (frames, 4)
    assert targets[:, 0].all() or num_samples < 160
    assert not frame_targets([], num_samples=num_samples, num_slots=4).any()


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="`num_samples` must be 1 or more"):
        frame_targets([], num_samples=0, num_slots=4)
