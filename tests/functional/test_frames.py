# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Frame counts, hops, masks and label windows. NeMo is asked in test_nemo_targets.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.functional.frames import label_windows, lengths_to_mask, num_label_frames, seconds_to_hops


def test_mask_by_hand():
    assert lengths_to_mask(torch.tensor([0, 2, 3]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]


@given(num_samples=st.integers(0, 10**9), hop=st.integers(1, 500), subsampling=st.integers(1, 16))
def test_label_frames_are_hops_rounded_up_then_groups_rounded_up(num_samples, hop, subsampling):
    expected = math.ceil(math.ceil(num_samples / hop) / subsampling)
    assert num_label_frames(num_samples, hop_samples=hop, subsampling=subsampling) == expected
    of_tensor = num_label_frames(torch.tensor([num_samples]), hop_samples=hop, subsampling=subsampling)
    assert of_tensor.tolist() == [expected]


@pytest.mark.parametrize("num_samples, frames", [(0, 0), (1, 1), (1280, 1), (1281, 2), (48_000, 38)])
def test_label_frames_by_hand(num_samples, frames):
    assert num_label_frames(num_samples) == frames


def test_seconds_are_cut_to_hops_as_in_nemo():
    assert [seconds_to_hops(seconds) for seconds in (0.0, 0.29, 1.15, 2.0)] == [0, 28, 114, 200]
    assert seconds_to_hops(np.array([0.29, 1.15])).tolist() == [28, 114]
    assert seconds_to_hops(1.5, hops_per_second=50) == 75


@given(hops=st.integers(1, 60), subsampling=st.integers(1, 9), extra=st.integers(-2, 2))
def test_each_label_has_a_window_within_the_recording(hops, subsampling, extra):
    num_frames = max(0, math.ceil(hops / subsampling) + extra)
    windows = label_windows(num_frames, hops, subsampling)
    assert windows.shape == (2, num_frames)
    for frame, (first, end) in enumerate(windows.T):
        start = max(0, frame * subsampling - 1 - subsampling // 2)
        past = hops if frame == num_frames - 1 else max(frame * subsampling + subsampling // 2, start + 1)
        assert list(range(first, end)) == list(range(hops))[start:past]


def test_windows_by_hand():
    assert label_windows(4, 30).tolist() == [[0, 3, 11, 19], [4, 12, 20, 30]]
    assert label_windows(3, 24, 4).tolist() == [[0, 1, 5], [2, 6, 24]]
    assert label_windows(0, 0).shape == (2, 0)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`subsampling` must be 1 or more, but is 0"):
        label_windows(3, 24, 0)
