# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Post-processing: values by hand, a loop as second implementation, and NeMo's own functions on random settings."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from nemo_sortformer.functional.segments import active_segments

FRAME = 0.08


def lists(segments):
    return [np.round(slot, 6).tolist() for slot in segments]


def column(*values):
    return np.array(values, dtype=np.float32)[:, None]


def test_thresholds_by_hand():
    probs = column(0.2, 0.6, 0.5, 0.4, 0.9, 0.9)
    assert lists(active_segments(probs, frame_seconds=FRAME)) == [[[0.08, 0.24], [0.32, 0.48]]]
    # Speech starts above 0.7 only, and goes on down to 0.4.
    assert lists(active_segments(probs, frame_seconds=FRAME, onset=0.7, offset=0.3)) == [[[0.32, 0.48]]]
    assert lists(active_segments(probs, frame_seconds=FRAME, onset=0.5, offset=0.3)) == [[[0.08, 0.48]]]


def test_a_value_at_both_thresholds_changes_nothing():
    assert lists(active_segments(column(0.5, 0.6, 0.5, 0.4), frame_seconds=1.0)) == [[[1.0, 3.0]]]


def test_pads_merge_what_touches_and_stop_at_zero():
    probs = column(1, 0, 0, 1, 0)
    assert lists(active_segments(probs, frame_seconds=1.0, pad_onset=0.5, pad_offset=0.25)) == [
        [[0, 1.25], [2.5, 4.25]]
    ]
    assert lists(active_segments(probs, frame_seconds=1.0, pad_onset=1.0, pad_offset=1.0)) == [[[0, 5.0]]]
    assert lists(active_segments(probs, frame_seconds=1.0, pad_offset=-0.5)) == [[[0, 0.5], [3.0, 3.5]]]
    assert lists(active_segments(probs, frame_seconds=1.0, pad_offset=-1.0)) == [[]]


def test_short_speech_goes_before_short_pauses_are_filled():
    probs = column(1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1)
    kept = active_segments(probs, frame_seconds=1.0, min_duration_on=2.0)
    assert lists(kept) == [[[2, 4], [5, 8], [10, 12]]]
    both = active_segments(probs, frame_seconds=1.0, min_duration_on=2.0, min_duration_off=2.0)
    assert lists(both) == [[[2, 8], [10, 12]]]  # the pause of 2 s is long enough to stay


def test_equal_durations_count_wherever_they_stand():
    probs = np.zeros((3000, 1), dtype=np.float32)
    probs[np.r_[1:3000:4, 2:3000:4]] = 1  # two frames of speech, two of silence
    kept = active_segments(probs, frame_seconds=FRAME, min_duration_on=0.16)[0]
    assert len(kept) == 750
    assert len(active_segments(probs, frame_seconds=FRAME, min_duration_off=0.16)[0]) == 750
    assert len(active_segments(probs, frame_seconds=FRAME, min_duration_off=0.161)[0]) == 1
    assert len(active_segments(probs, frame_seconds=FRAME, min_duration_on=0.161)[0]) == 0


def test_slots_do_not_touch_each_other():
    probs = np.ones((3, 4), dtype=np.float32)
    probs[:, 2] = 0
    for more in ({}, {"pad_onset": 9.0, "pad_offset": 9.0}, {"min_duration_off": 9.0}):
        segments = active_segments(probs, frame_seconds=1.0, **more)
        assert [len(slot) for slot in segments] == [1, 1, 0, 1]


def test_segments_are_cut_to_the_recording():
    probs = column(0, 1, 1, 0, 1)
    assert lists(active_segments(probs, frame_seconds=1.0, max_seconds=2.5)) == [[[1.0, 2.5]]]
    assert lists(active_segments(probs, frame_seconds=1.0, max_seconds=4.5, pad_offset=9.0)) == [[[1.0, 4.5]]]


def test_between_reversed_thresholds_speech_switches_every_10_ms():
    probs = column(0.6, 0.0)
    flicker = active_segments(probs, frame_seconds=0.04, onset=0.5, offset=0.9)
    assert lists(flicker) == [[[0.0, 0.01], [0.02, 0.03]]]
    filled = active_segments(probs, frame_seconds=0.04, onset=0.5, offset=0.9, min_duration_off=0.1)
    assert lists(filled) == [[[0.0, 0.03]]]


def test_empty_inputs_and_kinds_of_input():
    assert active_segments(np.zeros((5, 0), dtype=np.float32), frame_seconds=1.0) == []
    assert [slot.shape for slot in active_segments(np.zeros((0, 3), dtype=np.float32), frame_seconds=1.0)] == [
        (0, 2)
    ] * 3
    assert [slot.shape for slot in active_segments(np.zeros((9, 2), dtype=np.float32), frame_seconds=1.0)] == [
        (0, 2)
    ] * 2
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        probs = torch.tensor([[0.0], [1.0]], dtype=dtype, requires_grad=True)
        (segments,) = active_segments(probs, frame_seconds=1.0)
        assert segments.dtype == np.float64
        assert segments.tolist() == [[1.0, 2.0]]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"`probs` must be \(frames, slots\)"):
        active_segments(np.zeros((1, 5, 2)), frame_seconds=1.0)
    with pytest.raises(ValueError, match="`probs` must be numbers, but has NaN"):
        active_segments(column(float("nan")), frame_seconds=1.0)
    with pytest.raises(ValueError, match="`frame_seconds` must be above 0, but is 0"):
        active_segments(column(1), frame_seconds=0)
    with pytest.raises(ValueError, match="must be 0 or more, but are -1 and 0"):
        active_segments(column(1), frame_seconds=1.0, min_duration_on=-1)


def by_loop(probs, ticks, onset, offset, pad_onset, pad_offset, min_on, min_off):
    """NeMo's rules, frame by frame, in whole 0.01 ms so that no time is rounded."""
    unit = 1000  # one tick of 10 ms
    speech, start, segments = False, 0, []
    row = np.repeat(probs, ticks)
    for tick, value in enumerate([*row, None]):
        now = tick * unit
        if speech and (value is None or value < np.float32(offset)):
            segments.append([max(0, start - pad_onset), now + pad_offset])
            speech = False
        elif not speech and value is not None and value > np.float32(onset):
            start, speech = now, True

    def merge(pieces, gap):
        merged = []
        for a, b in pieces:
            if merged and (a <= merged[-1][1] or a - merged[-1][1] < gap):
                merged[-1][1] = b
            else:
                merged.append([a, b])
        return merged

    segments = [segment for segment in merge(segments, 0) if segment[1] - segment[0] >= min_on]
    return (np.array(merge(segments, min_off)).reshape(-1, 2) / 100_000).tolist()


durations = st.integers(0, 300).map(lambda tens: tens * 100)  # multiples of 1 ms up to 0.3 s, in units of 0.01 ms


@given(
    seed=st.integers(0, 10_000),
    frames=st.integers(0, 60),
    onset=st.sampled_from([0.3, 0.5, 0.7]),
    offset=st.sampled_from([0.2, 0.5, 0.6, 1.0]),
    pads=st.tuples(durations, durations),
    shortest=st.tuples(durations, durations),
)
def test_segments_equal_a_loop_over_ticks(seed, frames, onset, offset, pads, shortest):
    generator = np.random.default_rng(seed)
    probs = np.round(generator.random((frames, 3)), 1).astype(np.float32)  # values on the thresholds are common
    segments = active_segments(
        probs,
        frame_seconds=FRAME,
        onset=onset,
        offset=offset,
        pad_onset=pads[0] / 1e5,
        pad_offset=pads[1] / 1e5,
        min_duration_on=shortest[0] / 1e5,
        min_duration_off=shortest[1] / 1e5,
    )
    for slot in range(3):
        expected = by_loop(probs[:, slot], 8, onset, offset, *pads, *shortest)
        np.testing.assert_allclose(segments[slot], np.array(expected).reshape(-1, 2), rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def vad_utils():
    from nemo.collections.asr.parts.utils import vad_utils

    return vad_utils


def smooth(seed: int, frames: int) -> torch.Tensor:
    """Probabilities that wander as those of a model do."""
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(frames + 8, 4, generator=generator).cumsum(dim=0) * 0.9
    return torch.sigmoid(walk[8:] - walk.mean(dim=0))


def nemo_settings(seed: int) -> dict[str, float]:
    """Draw settings that fall on no 10 ms grid, with a third of the durations at 0."""
    rng = np.random.default_rng(seed)
    names = ("pad_onset", "pad_offset", "min_duration_on", "min_duration_off")
    drawn = {name: float(rng.uniform(0, 0.5) * (rng.random() > 1 / 3)) for name in names}
    return {"onset": float(rng.uniform(0.2, 0.8)), "offset": float(rng.uniform(0.2, 0.8)), **drawn}


PUBLISHED_REVERSED = {
    "onset": 0.56,
    "offset": 1.0,
    "pad_onset": 0.063,
    "pad_offset": 0.002,
    "min_duration_on": 0.007,
    "min_duration_off": 0.151,
}


@hypothesis_settings(max_examples=60)
@given(seed=st.integers(0, 100_000), frames=st.integers(1, 120), units=st.sampled_from([4, 8]))
def test_segments_equal_nemos(vad_utils, seed, frames, units):
    probs, chosen = smooth(seed, frames), nemo_settings(seed)
    check_against_nemo(vad_utils, probs, chosen, units)


@pytest.mark.parametrize("seed", range(3))
def test_segments_equal_nemos_at_reversed_thresholds(vad_utils, seed):
    check_against_nemo(vad_utils, smooth(seed, 100), PUBLISHED_REVERSED, 8)


def check_against_nemo(vad_utils, probs, chosen, units):
    """Silence around the speech keeps NeMo from its two faults at the edges, see the next tests."""
    silence = torch.zeros(14, probs.shape[1])
    probs = torch.cat((silence, probs))
    closed = torch.cat((probs, silence[:1]))
    ours = active_segments(probs, frame_seconds=units / 100, **chosen)
    for slot in range(probs.shape[1]):
        theirs = vad_utils.ts_vad_post_processing(closed[:, slot], chosen, unit_10ms_frame_count=units)
        np.testing.assert_allclose(ours[slot], theirs.reshape(-1, 2).numpy(), rtol=0, atol=2e-5)
    (listed,) = vad_utils.predlist_to_timestamps([closed[None]], {"a": {"offset": 7.0}}, chosen, units)
    for slot, expected in enumerate(listed):
        np.testing.assert_allclose(ours[slot] + 7.0, np.array(expected).reshape(-1, 2), rtol=0, atol=0.00502)


def test_nemo_ends_the_last_segment_10_ms_early(vad_utils):
    probs = column(0, 1, 1)
    theirs = vad_utils.ts_vad_post_processing(torch.from_numpy(probs[:, 0]), {"onset": 0.5}, 8)
    np.testing.assert_allclose(theirs.numpy(), [[0.08, 0.23]], atol=1e-6)
    assert lists(active_segments(probs, frame_seconds=FRAME)) == [[[0.08, 0.24]]]


def test_nemo_loses_speech_where_the_pad_reaches_before_the_start(vad_utils):
    """Segments that start within `pad_onset` of 0 all start there, and an unstable sort scrambles their ends."""
    probs = column(1, 0, 1, 1, 1, 0.5, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0)
    chosen = {"onset": 0.3, "offset": 0.7, "pad_onset": 0.2, "pad_offset": 0.01}
    theirs = vad_utils.ts_vad_post_processing(torch.from_numpy(probs[:, 0]), chosen, 8)
    np.testing.assert_allclose(theirs.numpy(), [[0, 0.09], [0.21, 1.13]], atol=1e-5)  # frame 2 speaks from 0.16 s on
    assert lists(active_segments(probs, frame_seconds=FRAME, **chosen)) == [[[0, 1.13]]]


def test_nemo_keeps_or_drops_equal_durations_by_their_place(vad_utils):
    probs = np.zeros((400, 1), dtype=np.float32)
    probs[np.r_[1:400:4, 2:400:4]] = 1
    theirs = vad_utils.ts_vad_post_processing(torch.from_numpy(probs[:, 0]), {"min_duration_on": 0.16}, 8)
    ours = active_segments(probs, frame_seconds=FRAME, min_duration_on=0.16)
    assert len(ours[0]) == 100
    assert 0 < len(theirs) < 100
