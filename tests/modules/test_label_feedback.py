# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Label feedback by hand: which columns are added, in which order, from which frame on."""

import pytest
import torch
from torch.testing import assert_close

from nemo_sortformer.modules.label_feedback import LabelFeedback


def feedback_of(probs, **settings):
    """Feed the given label probabilities (frames, columns) back; returns what was added, and the logits' sigmoid."""
    num_labels = probs.shape[1]
    settings = {"measure": "hard", "causal": False, "sort": True, **settings}
    layer = LabelFeedback(num_labels, num_labels, **settings).double()
    layer.norm = torch.nn.Identity()
    with torch.no_grad():
        layer.labels.weight.copy_(torch.eye(num_labels))
        layer.labels.bias.zero_()
        layer.encoding.weight.copy_(torch.eye(num_labels))  # the encoding is then the sorted labels themselves
    states = probs.double().logit()[None]
    output, logits = layer(states, None, None)
    return (output - states)[0], logits.sigmoid()[0]


PROBS = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.9, 0.3], [0.8, 0.7, 0.3], [0.6, 0.1, 0.4]], dtype=torch.float64)
SORTED = PROBS[:, [1, 0, 2]]  # column 1 arrives at frame 1, column 0 at frame 2, column 2 never


def test_the_columns_are_added_in_order_of_arrival():
    added, labels = feedback_of(PROBS)
    assert_close(added, SORTED)
    assert_close(labels, SORTED)


def test_causal_feedback_adds_a_column_from_its_arrival_on():
    added, labels = feedback_of(PROBS, causal=True)
    gate = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]])
    assert_close(added, SORTED * gate)
    assert_close(labels, SORTED)


def test_unsorted_feedback_adds_the_columns_as_they_are():
    for causal in (False, True):
        added, labels = feedback_of(PROBS, sort=False, causal=causal)
        assert_close(added, PROBS)
        assert_close(labels, PROBS)


def test_the_soft_measure_orders_columns_that_never_cross_one_half():
    probs = torch.tensor([[0.1, 0.2, 0.4], [0.1, 0.2, 0.4], [0.1, 0.2, 0.4]])
    assert_close(feedback_of(probs, measure="soft")[0], probs[:, [2, 1, 0]].double())


def test_padded_frames_count_as_silent():
    layer = LabelFeedback(8, 4, measure="hard", causal=False, sort=True)
    states, mask = torch.randn(2, 6, 8), torch.arange(6)[None] < torch.tensor([[6], [4]])
    output, _ = layer(states, mask, mask.sum(1))
    assert torch.equal(output[1, 4:], states[1, 4:])
    assert (output[1, :4] != states[1, :4]).any(-1).all()


def test_before_training_a_speaker_is_more_likely_silent():
    assert (LabelFeedback(8, 4, measure="soft", causal=False, sort=True).labels.bias == -1).all()


def test_the_gradient_goes_through_the_values_and_not_through_the_order():
    layer = LabelFeedback(8, 4, measure="hard", causal=False, sort=True).double()
    states = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x, None, None)[0], states)


@pytest.mark.parametrize("dtype, expected", [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_the_estimates_are_at_least_float32(dtype, expected):
    layer = LabelFeedback(8, 4, measure="soft", causal=False, sort=True).to(dtype)
    output, logits = layer(torch.randn(1, 5, 8, dtype=dtype), None, None)
    assert output.dtype == dtype
    assert logits.dtype == expected
