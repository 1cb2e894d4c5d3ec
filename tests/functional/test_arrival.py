# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Order of arrival: values by hand, and the properties that training and the encoder lean on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.arrival import (
    arrival_frames,
    arrival_gate,
    arrival_order,
    expected_arrival,
    gather_columns,
    sort_by_arrival,
    sort_ranks,
)

seeds = st.integers(0, 10_000)
sizes = {"batch": st.integers(1, 3), "frames": st.integers(1, 12), "slots": st.integers(1, 6)}


def binary(seed: int, batch: int, frames: int, slots: int, density: float = 0.4) -> torch.Tensor:
    """Few frames and many slots: ties, silent columns and equal columns are common."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, frames, slots, generator=generator) < density).float()


def uniform(seed: int, batch: int, frames: int, slots: int) -> torch.Tensor:
    return torch.rand(batch, frames, slots, generator=torch.Generator().manual_seed(seed))


def lengths_for(seed: int, batch: int, frames: int) -> torch.Tensor:
    return torch.randint(0, frames + 1, (batch,), generator=torch.Generator().manual_seed(seed + 1))


def test_arrival_frames_by_hand():
    labels = torch.tensor([[[0, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0]]])
    assert arrival_frames(labels).tolist() == [[2, 1, 0, 3]]
    assert arrival_frames(labels, torch.tensor([2])).tolist() == [[3, 1, 0, 3]]


def test_a_value_at_the_threshold_is_not_active():
    labels = torch.tensor([[[0.5], [0.6]]])
    assert arrival_frames(labels).item() == 1
    assert arrival_frames(labels, threshold=0.4).item() == 0


def test_expected_arrival_by_hand():
    probs = torch.tensor([[[0.0, 0.5, 1.0], [1.0, 0.5, 0.0], [0.0, 0.5, 0.0]]])
    assert_close(expected_arrival(probs), torch.tensor([[1.0, 0.5 + 0.25 + 0.125, 0.0]]))
    assert_close(expected_arrival(probs, torch.tensor([2])), torch.tensor([[1.0, 0.75, 0.0]]))


@given(seed=seeds, **sizes)
def test_expected_arrival_is_the_arrival_frame_on_binary_labels(seed, batch, frames, slots):
    labels = binary(seed, batch, frames, slots)
    assert_close(expected_arrival(labels), arrival_frames(labels).float())


@given(seed=seeds, **sizes)
def test_expected_arrival_is_the_mean_over_all_ways_to_be_active(seed, batch, frames, slots):
    frames = min(frames, 6)
    probs = uniform(seed, batch, frames, slots).double()
    ways = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * frames).reshape(-1, frames).double()
    chance = torch.where(ways[:, None, :, None] > 0, probs, 1 - probs).prod(dim=2)  # (ways, batch, slots)
    first = arrival_frames(ways.T[None])[0].double()
    assert_close(expected_arrival(probs), (chance * first[:, None, None]).sum(dim=0).float())


def test_order_by_hand_with_a_tie_and_a_silent_column():
    #                       speaks late, short, silent, long: the last two of the speakers start together
    labels = torch.tensor([[[0, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]]])
    assert arrival_order(labels).tolist() == [[3, 1, 0, 2]]


def test_more_speech_wins_a_tie_whatever_the_frames():
    frames = 4000
    long = torch.zeros(frames)
    long[:1001] = 1
    for seed in range(20):
        short = torch.zeros(frames)
        short[0] = 1
        short[torch.randperm(frames - 1, generator=torch.Generator().manual_seed(seed))[:999] + 1] = 1
        assert arrival_order(torch.stack((short, long), dim=1)[None]).tolist() == [[1, 0]]


@given(seed=seeds, order_seed=seeds, **sizes)
def test_sorting_does_not_depend_on_the_order_of_the_columns(seed, order_seed, batch, frames, slots):
    labels, lengths = binary(seed, batch, frames, slots), lengths_for(seed, batch, frames)
    valid = labels * (torch.arange(frames)[None, :, None] < lengths[:, None, None])
    shuffled = valid[:, :, torch.randperm(slots, generator=torch.Generator().manual_seed(order_seed))]
    for measure in ("hard", "soft"):
        assert torch.equal(
            sort_by_arrival(shuffled, lengths, measure=measure), sort_by_arrival(valid, lengths, measure=measure)
        )


@pytest.mark.parametrize("frames", [1000, 45_000])
def test_ties_of_long_recordings_do_not_depend_on_the_order_of_the_columns(frames):
    """Columns of equal arrival and equal speech: the sums that tell them apart must be exact."""
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(frames - 1, generator=generator) < 0.5
    columns = torch.ones(frames, 8)
    for slot in range(8):
        columns[1:, slot] = base[torch.randperm(frames - 1, generator=generator)]
    expected = sort_by_arrival(columns[None])
    for _ in range(10):
        assert torch.equal(sort_by_arrival(columns[None, :, torch.randperm(8, generator=generator)]), expected)


@given(seed=seeds, causal=st.booleans(), soft=st.booleans(), **sizes)
def test_sorting_is_idempotent_and_arrivals_rise(seed, causal, soft, batch, frames, slots):
    labels, lengths = binary(seed, batch, frames, slots), lengths_for(seed, batch, frames)
    options = {"measure": "soft"} if soft else {"causal": causal}
    once = sort_by_arrival(labels, lengths, **options)
    assert torch.equal(sort_by_arrival(once, lengths, **options), once)
    assert (arrival_frames(once, lengths).diff(dim=1) >= 0).all()


@given(seed=seeds, causal=st.booleans(), soft=st.booleans(), probs=st.booleans(), **sizes)
def test_ranks_by_comparison_invert_the_order(seed, causal, soft, probs, batch, frames, slots):
    values = uniform(seed, batch, frames, slots) if probs else binary(seed, batch, frames, slots)
    lengths = lengths_for(seed, batch, frames)
    options = {"measure": "soft"} if soft else {"causal": causal}
    ranks = sort_ranks(values, lengths, **options)
    assert torch.equal(ranks, arrival_order(values, lengths, **options).argsort(dim=1))
    one_hot = torch.nn.functional.one_hot(ranks, slots).float()
    assert_close(values @ one_hot, sort_by_arrival(values, lengths, **options), rtol=0, atol=0)


@given(seed=seeds, causal=st.booleans(), **sizes)
def test_padding_is_never_read(seed, causal, batch, frames, slots):
    labels, lengths = uniform(seed, batch, frames, slots), lengths_for(seed, batch, frames)
    padding = torch.arange(frames)[None, :, None] >= lengths[:, None, None]
    for rubbish in (float("nan"), float("inf"), 1.0):
        dirty = labels.masked_fill(padding, rubbish)
        assert torch.equal(arrival_frames(dirty, lengths), arrival_frames(labels, lengths))
        assert torch.equal(arrival_order(dirty, lengths, causal=causal), arrival_order(labels, lengths, causal=causal))
        assert torch.equal(expected_arrival(dirty, lengths), expected_arrival(labels, lengths))
        soft = arrival_order(dirty, lengths, measure="soft")
        assert torch.equal(soft, arrival_order(labels, lengths, measure="soft"))


@given(seed=seeds, causal=st.booleans(), **sizes)
def test_a_batch_is_its_recordings_one_by_one(seed, causal, batch, frames, slots):
    labels, lengths = uniform(seed, batch, frames, slots), lengths_for(seed, batch, frames)
    together = sort_by_arrival(labels, lengths, causal=causal)
    for recording, length in enumerate(lengths.tolist()):
        alone = sort_by_arrival(labels[recording : recording + 1, :length], causal=causal)
        assert torch.equal(together[recording, :length], alone[0])


@given(seed=seeds, **sizes)
def test_gated_causal_sorting_does_not_look_ahead(seed, batch, frames, slots):
    probs = uniform(seed, batch, frames, slots)

    def sorted_so_far(x):
        order = arrival_order(x, causal=True)
        return gather_columns(x * arrival_gate(x), order)

    whole = sorted_so_far(probs)
    for prefix in range(1, frames + 1):
        assert torch.equal(whole[:, :prefix], sorted_so_far(probs[:, :prefix]))


def test_without_the_gate_causal_sorting_does_look_ahead():
    """The gate's test can fail: column 0 speaks at frame 1, and where it stands before that depends on column 1."""
    early, late = torch.tensor([[[0.3, 0.1], [0.4, 0.9]]]), torch.tensor([[[0.3, 0.1], [0.9, 0.4]]])
    assert not torch.equal(sort_by_arrival(early, causal=True)[:, :1], sort_by_arrival(late, causal=True)[:, :1])


def test_causal_ties_go_to_the_larger_value_at_the_arrival_frame():
    probs = torch.tensor([[[0.6, 0.9], [1.0, 0.0], [1.0, 0.0]]])  # column 0 has more speech in all
    assert arrival_order(probs, causal=True).tolist() == [[1, 0]]
    assert arrival_order(probs).tolist() == [[0, 1]]


def test_gate_by_hand():
    probs = torch.tensor([[[0.1, 0.9, 0.0], [0.8, 0.1, 0.0], [0.1, 0.1, 0.0]]])
    assert arrival_gate(probs).tolist() == [[[0, 1, 0], [1, 1, 0], [1, 1, 0]]]
    assert arrival_gate(probs, torch.tensor([1])).tolist() == [[[0, 1, 0], [0, 1, 0], [0, 1, 0]]]
    assert arrival_gate(probs.bfloat16()).dtype == torch.bfloat16
    assert arrival_gate(torch.ones(1, 1, 1, dtype=torch.int64)).dtype == torch.float32


def test_the_gradient_flows_through_the_values_and_not_through_the_order():
    probs = uniform(0, 2, 5, 3).requires_grad_()
    weight = uniform(1, 2, 5, 3)
    (sort_by_arrival(probs) * weight).sum().backward()
    order = arrival_order(probs)
    assert not order.requires_grad
    assert_close(gather_columns(probs.grad, order), weight)


def test_sorting_keeps_the_dtype_and_ignores_autocast():
    labels = binary(3, 2, 50, 4)
    expected = sort_by_arrival(labels)
    for dtype in (torch.bool, torch.int64, torch.bfloat16, torch.float64):
        assert torch.equal(sort_by_arrival(labels.to(dtype)), expected.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sort_by_arrival(labels), expected)


def test_no_frames_and_no_recordings():
    assert sort_by_arrival(torch.zeros(2, 0, 3)).shape == (2, 0, 3)
    assert sort_by_arrival(torch.zeros(2, 0, 3), causal=True).shape == (2, 0, 3)
    assert sort_by_arrival(torch.zeros(0, 4, 3)).shape == (0, 4, 3)
    assert arrival_frames(torch.zeros(2, 0, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_wrong_arguments_are_named():
    labels = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"`labels` must have 3 dimensions.*\(5, 3\)"):
        sort_by_arrival(labels[0])
    with pytest.raises(ValueError, match=r"`lengths` must have shape \(2,\)"):
        arrival_frames(labels, torch.tensor([5]))
    with pytest.raises(ValueError, match="`measure` must be"):
        arrival_order(labels, measure="mass")
    with pytest.raises(ValueError, match="cannot be causal"):
        arrival_order(labels, measure="soft", causal=True)
