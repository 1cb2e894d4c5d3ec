# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Frame counts, hops, masks and label windows. NeMo is asked in test_nemo_targets.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.frames import lengths_to_mask, num_label_frames, pool_activity, seconds_to_hops


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


@given(
    seed=st.integers(0, 1000),
    hops=st.integers(1, 60),
    subsampling=st.integers(1, 9),
    extra=st.integers(-2, 2),
)
def test_pooling_is_the_mean_of_each_window(seed, hops, subsampling, extra):
    activity = torch.rand(hops, 3, generator=torch.Generator().manual_seed(seed))
    num_frames = max(0, math.ceil(hops / subsampling) + extra)
    pooled = pool_activity(activity, subsampling, num_frames=num_frames)
    assert pooled.shape == (num_frames, 3)
    for frame in range(num_frames):
        start = max(0, frame * subsampling - 1 - subsampling // 2)
        end = max(frame * subsampling + subsampling // 2, start + 1)
        window = activity[start : hops if frame == num_frames - 1 else end]
        assert_close(pooled[frame], window.mean(dim=0) if len(window) else torch.zeros(3))


def test_pooling_by_hand():
    activity = torch.zeros(24, 1)
    activity[3:12] = 1  # one hop of window 0, all of [3, 12), none of [11, 24) but the first
    assert_close(pool_activity(activity), torch.tensor([[1 / 4], [1.0], [1 / 13]]))
    assert pool_activity(activity.numpy()).dtype == torch.float32
    assert pool_activity(activity[:0]).shape == (0, 1)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"`activity` must be \(hops, slots\)"):
        pool_activity(torch.zeros(5))
    with pytest.raises(ValueError, match="`subsampling` must be 1 or more, but is 0"):
        pool_activity(torch.zeros(5, 1), 0)
