# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Speaker kernels: sines that no two slots share, added to states of one length; who is meant, and who else speaks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.kernels import add_speaker_kernel, sinusoidal_kernel, target_and_others


def test_the_kernel_is_the_sine_of_the_paper():
    kernel = sinusoidal_kernel(3, 8)
    for slot in range(3):
        for unit in range(8):
            assert float(kernel[slot, unit]) == pytest.approx(math.sin(2 * math.pi * (slot + 1) * unit / 8), abs=1e-6)


@given(num_slots=st.integers(1, 8), width=st.integers(20, 64))
def test_kernels_are_orthogonal_and_equally_long(num_slots, width):
    kernel = sinusoidal_kernel(num_slots, width).double()
    assert_close(kernel @ kernel.T, torch.eye(num_slots).double() * width / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_slots, width", [(0, 8), (4, 8), (5, 8)])
def test_kernels_that_would_be_alike_are_refused(num_slots, width):
    with pytest.raises(ValueError, match="half of `width`"):
        sinusoidal_kernel(num_slots, width)


def test_states_are_brought_to_one_length_and_those_who_speak_are_added():
    states = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    labels = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    kernel = torch.tensor([[10.0, 0.0], [0.0, 100.0]])
    found = add_speaker_kernel(states, labels, kernel, norm=2.0)
    assert_close(found, torch.tensor([[[11.2, 51.6], [0.0, 0.0]]]))
    assert_close(add_speaker_kernel(7 * states, labels, kernel, norm=2.0), found)


@given(seed=st.integers(0, 99), num_slots=st.integers(1, 5))
def test_who_is_meant_and_who_else_speaks_as_counted_slot_by_slot(seed, num_slots):
    labels = torch.rand(2, 7, num_slots, generator=torch.Generator().manual_seed(seed)).round(decimals=1)  # has ties
    roles = target_and_others(labels)
    assert roles.shape == (2, num_slots, 7, 2)
    for slot in range(num_slots):
        others = [labels[:, :, other] for other in range(num_slots) if other != slot]
        expected = torch.stack(others).amax(dim=0) if others else torch.zeros(2, 7)
        assert_close(roles[:, slot, :, 0], labels[:, :, slot])
        assert_close(roles[:, slot, :, 1], expected)
