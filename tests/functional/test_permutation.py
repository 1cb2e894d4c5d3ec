# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Pairwise costs against a loop over pairs, assignments against all permutations."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.permutation import best_assignment, forbid_disorder, pairwise_bce

seeds = st.integers(0, 10_000)


def random_batch(seed: int, batch: int = 3, frames: int = 9, slots: int = 4):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, frames, slots, generator=generator) * 3
    labels = (torch.rand(batch, frames, slots, generator=generator) < 0.4).float()
    lengths = torch.randint(0, frames + 1, (batch,), generator=generator)
    return logits, labels, lengths


@given(seed=seeds, slots=st.integers(1, 5), weighted=st.booleans(), per_slot=st.booleans())
def test_pairwise_cost_is_the_cross_entropy_of_each_pair(seed, slots, weighted, per_slot):
    logits, labels, lengths = random_batch(seed, slots=slots)
    frame_weight = torch.rand(labels.shape[:2]) if weighted else None
    pos_weight = torch.rand(slots) + 0.5 if per_slot else None
    cost = pairwise_bce(logits, labels, lengths, frame_weight=frame_weight, pos_weight=pos_weight)
    assert cost.dtype == torch.float32
    for b, i, j in itertools.product(range(3), range(slots), range(slots)):
        n = lengths[b]
        expected = F.binary_cross_entropy_with_logits(
            logits[b, :n, i],
            labels[b, :n, j],
            weight=None if frame_weight is None else frame_weight[b, :n],
            pos_weight=None if pos_weight is None else pos_weight[i],
            reduction="sum",
        )
        assert_close(cost[b, i, j], expected, rtol=1e-5, atol=1e-5)


def test_small_costs_of_large_scores_keep_their_digits():
    labels = torch.ones(1, 1000, 1)
    cost = pairwise_bce(torch.full((1, 1000, 1), 20.0), labels)
    assert_close(cost.item(), 1000 * torch.tensor(-20.0, dtype=torch.float64).exp().item(), rtol=1e-4, atol=0)


def test_padding_is_never_read_and_autocast_changes_nothing():
    logits, labels, _ = random_batch(0)
    lengths = torch.tensor([9, 4, 0])
    clean = pairwise_bce(logits, labels, lengths)
    for b, n in enumerate(lengths.tolist()):
        logits[b, n:], labels[b, n:] = float("nan"), float("inf")
    assert torch.equal(pairwise_bce(logits, labels, lengths), clean)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pairwise_bce(logits, labels, lengths), clean)


@given(seed=seeds, slots=st.integers(1, 5))
def test_best_assignment_is_the_best_of_all_permutations(seed, slots):
    cost = torch.randn(2, slots, slots, generator=torch.Generator().manual_seed(seed))
    chosen = cost.gather(2, best_assignment(cost)[:, :, None]).sum(dim=(1, 2))
    every = torch.stack([cost[:, range(slots), list(p)].sum(dim=1) for p in itertools.permutations(range(slots))])
    assert_close(chosen, every.min(dim=0).values)


def test_assignment_gives_the_column_of_each_slot():
    cost = torch.ones(1, 3, 3)
    cost[0, 0, 2] = cost[0, 1, 0] = cost[0, 2, 1] = 0  # slot 0 takes column 2, 1 takes 0, 2 takes 1
    assert best_assignment(cost).tolist() == [[2, 0, 1]]
    assert best_assignment(torch.zeros(0, 3, 3)).shape == (0, 3)


def test_sixteen_and_fifty_slots_are_no_matter():
    for slots in (16, 50):
        order = torch.randperm(slots, generator=torch.Generator().manual_seed(slots))
        cost = torch.rand(1, slots, slots)
        cost[0, torch.arange(slots), order] = -1.0
        assert torch.equal(best_assignment(cost)[0], order)


@given(seed=seeds, tolerance=st.integers(0, 3))
def test_disorder_is_never_chosen(seed, tolerance):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.randn(4, 5, 5, generator=generator) * 100
    arrival = torch.randint(0, 6, (4, 5), generator=generator)
    taken = arrival.gather(1, best_assignment(forbid_disorder(cost, arrival, tie_tolerance=tolerance)))
    assert ((taken - arrival.sort(dim=1).values).abs() <= tolerance).all()


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -float("inf")])
def test_costs_that_are_not_finite_leave_the_columns_of_that_recording_alone(rubbish):
    cost = torch.tensor([[[3.0, 1.0], [1.0, 3.0]]]).repeat(3, 1, 1)
    cost[1, 0, 1] = rubbish
    assert best_assignment(cost).tolist() == [[1, 0], [0, 1], [1, 0]]


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"`cost` must be \(batch, slots, slots\)"):
        best_assignment(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="`labels` must have the shape of `logits`"):
        pairwise_bce(torch.zeros(1, 5, 3), torch.zeros(1, 5, 2))
    with pytest.raises(ValueError, match="`frame_weight` must be"):
        pairwise_bce(torch.zeros(1, 5, 3), torch.zeros(1, 5, 3), frame_weight=torch.ones(5))
