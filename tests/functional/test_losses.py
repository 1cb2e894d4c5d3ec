# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Sorted-label, permutation invariant and plain cross-entropy: values by hand and properties."""

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.arrival import arrival_frames, sort_by_arrival
from nemo_sortformer.functional.losses import (
    activity_loss,
    masked_bce,
    permutation_invariant_loss,
    sorted_label_cross_entropy,
    sorted_targets,
)

seeds = st.integers(0, 10_000)
losses = st.sampled_from([masked_bce, sorted_label_cross_entropy, permutation_invariant_loss])
ALL = [masked_bce, sorted_label_cross_entropy, permutation_invariant_loss]


def random_batch(seed: int, batch: int = 3, frames: int = 9, slots: int = 4):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, frames, slots, generator=generator) * 3
    labels = (torch.rand(batch, frames, slots, generator=generator) < 0.4).float()
    lengths = torch.randint(1, frames + 1, (batch,), generator=generator)
    return logits, labels, lengths


@pytest.mark.parametrize("loss", ALL)
def test_zero_logits_give_ln_2(loss):
    _, labels, lengths = random_batch(0)
    assert_close(loss(torch.zeros_like(labels), labels, lengths).item(), math.log(2))


def test_values_by_hand():
    logits = torch.tensor([[[2.0, -1.0]]])
    one, two = math.log1p(math.exp(-2)), math.log1p(math.exp(2))  # speech, silence of logit 2
    three, four = math.log1p(math.exp(1)), math.log1p(math.exp(-1))  # speech, silence of logit -1
    # Column 1 speaks, column 0 is silent: sorted, slot 0 should speak, which it does.
    labels = torch.tensor([[[0.0, 1.0]]])
    assert_close(masked_bce(logits, labels).item(), (two + three) / 2)
    assert_close(sorted_label_cross_entropy(logits, labels).item(), (one + four) / 2)
    assert_close(permutation_invariant_loss(-logits, labels).item(), (one + four) / 2)
    assert_close(sorted_label_cross_entropy(-logits, labels).item(), (two + three) / 2)
    assert_close(masked_bce(logits, labels, pos_weight=3.0).item(), (two + 3 * three) / 2)


@given(loss=losses, seed=seeds)
def test_losses_are_the_mean_over_valid_frames(loss, seed):
    """A second implementation: cut the padding off, then PyTorch's own mean."""
    logits, labels, lengths = random_batch(seed)
    total, count = 0.0, 0
    for b, n in enumerate(lengths.tolist()):
        x, y = logits[b, :n], labels[b, :n]
        if loss is sorted_label_cross_entropy:
            y = sort_by_arrival(y[None])[0]
        orders = itertools.permutations(range(4)) if loss is permutation_invariant_loss else [range(4)]
        total += min(F.binary_cross_entropy_with_logits(x, y[:, list(o)], reduction="sum").item() for o in orders)
        count += n * 4
    assert_close(loss(logits, labels, lengths).item(), total / count, rtol=1e-5, atol=1e-6)


@given(order=st.permutations(range(4)), seed=seeds, tie_tolerance=st.sampled_from([None, 0, 2]))
def test_losses_do_not_depend_on_the_order_of_the_label_columns(order, seed, tie_tolerance):
    logits, labels, lengths = random_batch(seed)
    shuffled = labels[..., list(order)]
    sort = sorted_label_cross_entropy(logits, labels, lengths, tie_tolerance=tie_tolerance)
    assert_close(sorted_label_cross_entropy(logits, shuffled, lengths, tie_tolerance=tie_tolerance), sort)
    assert_close(
        permutation_invariant_loss(logits, shuffled, lengths), permutation_invariant_loss(logits, labels, lengths)
    )


@given(seed=seeds, frames=st.integers(1, 8), slots=st.integers(1, 5))
def test_a_wider_choice_of_orders_never_costs_more(seed, frames, slots):
    batch = random_batch(seed, frames=frames, slots=slots)
    choices = [sorted_label_cross_entropy(*batch, tie_tolerance=t).item() for t in (None, 0, 1, 3, 9)]
    choices.append(permutation_invariant_loss(*batch).item())
    for wider, narrower in itertools.pairwise(reversed(choices)):
        assert wider <= narrower + 1e-6


@given(loss=losses, seed=seeds)
def test_padding_is_never_read(loss, seed):
    logits, labels, lengths = random_batch(seed)
    lengths[0] = 0
    padding = torch.arange(9)[None, :, None] >= lengths[:, None, None]
    weight = torch.rand(3, 9)
    expected = loss(logits, labels, lengths, frame_weight=weight)
    for rubbish in (float("nan"), float("inf"), -1e30):
        dirty = logits.masked_fill(padding, rubbish).requires_grad_()
        value = loss(
            dirty,
            labels.masked_fill(padding, rubbish),
            lengths,
            frame_weight=weight.masked_fill(padding[:, :, 0], rubbish),
        )
        assert torch.equal(value, expected)
        value.backward()
        assert (dirty.grad[padding.expand_as(dirty)] == 0).all()
        assert dirty.grad.isfinite().all()


@given(loss=losses, seed=seeds)
def test_a_batch_is_its_recordings_one_by_one(loss, seed):
    logits, labels, lengths = random_batch(seed)
    alone = torch.stack([loss(logits[b : b + 1, :n], labels[b : b + 1, :n]) for b, n in enumerate(lengths.tolist())])
    assert_close(loss(logits, labels, lengths), (alone * lengths).sum() / lengths.sum())


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_scores_that_are_not_finite_give_a_loss_of_nan_for_a_scaler_to_see(rubbish, label):
    logits, labels, _ = random_batch(3)
    logits[1, 2, 0], labels[1, :, 0] = rubbish, label
    tolerant = functools.partial(sorted_label_cross_entropy, tie_tolerance=2)
    for loss in [*ALL, tolerant]:
        assert not torch.isfinite(loss(logits, labels)), loss


@pytest.mark.parametrize("loss", ALL)
def test_a_batch_without_valid_frames_gives_zero_with_a_gradient(loss):
    logits = torch.full((2, 5, 3), float("nan"), requires_grad=True)
    value = loss(logits, torch.zeros(2, 5, 3), torch.tensor([0, 0]))
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()
    empty = torch.zeros(0, 5, 3, requires_grad=True)
    assert loss(empty, torch.zeros(0, 5, 3)).item() == 0
    assert loss(torch.zeros(2, 0, 3), torch.zeros(2, 0, 3)).item() == 0


@pytest.mark.parametrize("loss", ALL)
def test_a_confidently_wrong_frame_has_a_gradient(loss):
    logits = torch.tensor([[[-100.0]]], requires_grad=True)
    value = loss(logits, torch.ones(1, 1, 1))
    value.backward()
    assert_close(value.item(), 100.0)
    assert_close(logits.grad.item(), -1.0)


@pytest.mark.parametrize("loss", ALL)
def test_low_precision_logits_are_computed_in_float32(loss):
    logits, labels, lengths = random_batch(5, frames=400)
    low = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(low, labels.bfloat16(), lengths)
    assert value.dtype == torch.float32
    assert_close(value, loss(low.float(), labels, lengths), rtol=1e-6, atol=0)


@given(loss=losses, seed=seeds)
def test_frame_weights_scale_frames_and_not_the_loss(loss, seed):
    logits, labels, lengths = random_batch(seed)
    weight = torch.ones(3, 9)
    plain = loss(logits, labels, lengths)
    assert_close(loss(logits, labels, lengths, frame_weight=7 * weight), plain)
    # Weight 0 from frame 4 on is a length of 4, but for the order of arrival, which may be later.
    weight[:, 4:] = 0
    if loss is not sorted_label_cross_entropy:
        assert_close(loss(logits, labels, frame_weight=weight), loss(logits[:, :4], labels[:, :4]))


@given(seed=seeds)
def test_speech_weights_are_pytorchs(seed):
    logits, labels, _ = random_batch(seed)
    per_slot = torch.tensor([0.5, 1.0, 2.0, 4.0])
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=per_slot)
    assert_close(masked_bce(logits, labels, pos_weight=per_slot), expected)
    expected = F.binary_cross_entropy_with_logits(logits, sort_by_arrival(labels), pos_weight=per_slot)
    assert_close(sorted_label_cross_entropy(logits, labels, pos_weight=per_slot), expected)
    every = [
        F.binary_cross_entropy_with_logits(logits[:1], labels[:1, :, list(order)], pos_weight=per_slot)
        for order in itertools.permutations(range(4))
    ]
    assert_close(permutation_invariant_loss(logits[:1], labels[:1], pos_weight=per_slot), min(every))


def test_tied_columns_take_the_order_that_fits():
    """Both speak first; the sort puts the longer one in slot 0, but the logits have it in slot 1."""
    labels = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    logits = torch.tensor([[[5.0, 5.0], [-5.0, 5.0]]])
    assert torch.equal(sorted_targets(logits, labels), labels)
    assert torch.equal(sorted_targets(logits, labels, tie_tolerance=0), labels.flip(2))
    apart = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])  # not tied: only a tolerance of a frame lets them swap
    wrong = torch.tensor([[[-5.0, 5.0], [5.0, 5.0]]])
    assert torch.equal(sorted_targets(wrong, apart, tie_tolerance=0), apart.flip(2))
    assert torch.equal(sorted_targets(wrong, apart, tie_tolerance=1), apart)


@given(seed=seeds, tolerance=st.integers(0, 4))
def test_a_tolerance_moves_no_arrival_further_than_it_says(seed, tolerance):
    logits, labels, lengths = random_batch(seed)
    ranked = arrival_frames(sorted_targets(logits, labels, lengths), lengths)
    chosen = arrival_frames(sorted_targets(logits, labels, lengths, tie_tolerance=tolerance), lengths)
    assert ((ranked - chosen).abs() <= tolerance).all()


def test_wrong_arguments_are_named():
    logits = torch.zeros(2, 5, 3)
    with pytest.raises(
        ValueError, match=r"`labels` must have the shape of `logits`, \(2, 5, 3\), but has \(2, 4, 3\)"
    ):
        sorted_label_cross_entropy(logits, torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match="`tie_tolerance` must be None or a number of frames >= 0, but is -1"):
        sorted_targets(logits, logits, tie_tolerance=-1)
    with pytest.raises(ValueError, match="`lengths` must have shape"):
        masked_bce(logits, logits, torch.tensor([5]))


def test_the_activity_loss_by_hand():
    labels = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]]])  # the last frame is padding
    logits = torch.tensor([[[-1.0, -2.0], [3.0, -4.0], [5.0, 6.0], [-99.0, -99.0]]])
    wrong_by = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]  # minus the logit where the answer is yes
    by_hand = sum(math.log1p(math.exp(x)) for x in wrong_by) / 6
    assert activity_loss(logits, labels, torch.tensor([3])).item() == pytest.approx(by_hand)
    assert activity_loss(logits, labels.flip(-1), torch.tensor([3])).item() == pytest.approx(by_hand)
