# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The loss for NeMo's class: that of the logits, in whatever order NeMo gives the labels, and always finite."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nemo.collections.asr.parts.utils.asr_multispeaker_utils import get_ats_targets, get_pil_targets
from torch.testing import assert_close

from nemo_sortformer.losses import SortedLabelLoss, SortedProbabilityLoss


def random_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 30, 3, generator=generator)
    labels = (torch.rand(2, 30, 3, generator=generator) > 0.6).float()
    labels[:, :3] = 0.0
    for slot in range(3):
        labels[:, slot, slot] = 1.0  # each arrives in a frame of its own
    return logits, labels, torch.tensor([30, 21])


@settings(max_examples=20)
@given(seed=st.integers(0, 999), order=st.permutations(range(3)))
def test_it_is_the_loss_of_the_logits_in_any_order_of_the_labels(seed, order):
    logits, labels, lengths = random_batch(seed)
    expected = SortedLabelLoss()(logits=logits, labels=labels, lengths=lengths)
    shuffled = labels[:, :, list(order)]
    got = SortedProbabilityLoss()(probs=torch.sigmoid(logits), labels=shuffled, target_lens=lengths)
    assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_both_of_nemos_targets_give_one_value_and_the_gradient_of_the_logits():
    logits, labels, lengths = random_batch(3)
    permutations = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    loss, gradients = SortedProbabilityLoss(sort_weight=0.7, pil_weight=0.3), []
    for targets in (get_ats_targets, get_pil_targets):
        leaf = logits.clone().requires_grad_()
        probs = torch.sigmoid(leaf)
        value = loss(probs=probs, labels=targets(labels.clone(), probs, permutations), target_lens=lengths)
        gradients.append(torch.autograd.grad(value, leaf)[0])
    leaf = logits.clone().requires_grad_()
    expected = SortedLabelLoss(0.7, 0.3)(logits=leaf, labels=labels, lengths=lengths)
    for gradient in gradients:
        assert_close(gradient, torch.autograd.grad(expected, leaf, retain_graph=True)[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_stays_finite_where_probabilities_are_0_and_1_and_frames_too_many(dtype):
    probs = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]], dtype=dtype, requires_grad=True)
    labels = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=dtype)
    value = SortedProbabilityLoss()(probs=probs, labels=labels, target_lens=torch.tensor([3]))
    value.backward()
    assert value.isfinite()
    assert probs.grad.isfinite().all()
