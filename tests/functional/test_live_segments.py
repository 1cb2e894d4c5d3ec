# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Segments of a stream: together they are those of the whole recording, and a finished one never changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.functional.live_segments import advance_segments, no_segments
from nemo_sortformer.functional.segments import active_segments

FRAME = 0.08
OPTIONS = st.fixed_dictionaries(
    {
        "onset": st.sampled_from([0.3, 0.5, 0.7]),
        "offset": st.sampled_from([0.3, 0.45, 0.5, 0.8]),
        "pad_onset": st.sampled_from([0.0, 0.08, 0.1, 0.24, -0.05]),
        "pad_offset": st.sampled_from([0.0, 0.02, 0.1, 0.16, -0.05]),
        "min_duration_on": st.sampled_from([0.0, 0.1, 0.25, 0.5]),
        "min_duration_off": st.sampled_from([0.0, 0.1, 0.3, 1.2]),
    }
)


def make_probs(seed, frames, slots):
    """Probabilities that wander, or jump."""
    rng = np.random.default_rng(seed)
    walk = np.abs(np.cumsum(rng.normal(0, 0.25, (frames, slots)), axis=0)) % 2
    probs = np.where(walk > 1, 2 - walk, walk) if seed % 3 else rng.random((frames, slots))
    return probs.astype(np.float32)


def run(probs, pieces, options, end):
    """What is finished after each piece, and what still changed then."""
    state, first = no_segments(probs.shape[1]), 0
    while first < len(probs):
        size = pieces.pop(0) if pieces else len(probs)
        last = first + size >= len(probs)
        state, finished, changed = advance_segments(
            state, probs[first : first + size], frame_seconds=FRAME, end_seconds=end if last else None, **options
        )
        yield finished, changed, state
        first += size


@given(
    seed=st.integers(0, 10_000),
    frames=st.integers(1, 150),
    slots=st.integers(1, 4),
    pieces=st.lists(st.integers(1, 30), max_size=30),
    options=OPTIONS,
    short=st.sampled_from([0.0, 0.03, 0.07]),
)
def test_all_that_is_finished_is_what_the_whole_recording_gives(seed, frames, slots, pieces, options, short):
    probs, end = make_probs(seed, frames, slots), frames * FRAME - short
    found = np.concatenate([finished for finished, _, _ in run(probs, pieces, options, end)])
    whole = active_segments(probs, frame_seconds=FRAME, max_seconds=end, **options)
    for slot, expected in enumerate(whole):
        got = found[found[:, 0] == slot][:, 1:]
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_an_open_segment_grows_and_is_finished_once_the_pause_is_long_enough():
    probs = np.array([[0.9]] * 5 + [[0.1]] * 4, dtype=np.float32)
    seen = list(run(probs, [3, 2, 1, 2, 1], {"min_duration_off": 0.2}, 0.72))
    assert [changed.tolist() for _, changed, _ in seen][:3] == [
        [[0, 0.0, pytest.approx(0.24)]],
        [[0, 0.0, pytest.approx(0.4)]],
        [[0, 0.0, pytest.approx(0.4)]],
    ]
    assert [len(finished) for finished, _, _ in seen] == [0, 0, 0, 1, 0]


def test_short_noises_are_not_kept_for_ever():
    probs = np.tile(np.array([[0.9]] + [[0.1]] * 9, dtype=np.float32), (500, 1))
    options = {"min_duration_on": 0.2, "min_duration_off": 0.3}
    kept = [len(state.stretches) for _, _, state in run(probs, [7] * 1000, options, 400.0)]
    assert max(kept) <= 2


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        advance_segments(no_segments(1), np.full((2, 1), np.nan, dtype=np.float32), frame_seconds=FRAME)
