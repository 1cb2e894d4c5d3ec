# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One loss for all heads: the sum of its parts, each by itself, all by one order of speakers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.losses import sorted_label_cross_entropy
from nemo_sortformer.functional.token_losses import ctc_loss, token_cross_entropy, transducer_loss
from nemo_sortformer.losses.sorted_label_cross_entropy import (
    HeadLabels,
    SortedLabelCrossEntropy,
    head_count,
    left_out,
)

WEIGHTS = {"sort": 1.0, "words": 0.5, "streams": 2.0, "rnnt": 0.25}


def four_heads(seed):
    """One head of each kind on the same two recordings."""
    generator = torch.Generator().manual_seed(seed)
    lengths, frames = torch.tensor([3, 2]), torch.tensor([8, 6])
    tokens = torch.randint(0, 5, (2, 3), generator=generator)
    activity = (torch.rand(2, 8, 3, generator=generator) > 0.6).float()

    def scores(*shape):
        return torch.randn(*shape, generator=generator).requires_grad_()

    return {
        "sort": HeadLabels("binary", scores(2, 8, 3), activity, frames),
        "words": HeadLabels("categorical", scores(2, 3, 6), tokens, lengths),
        "streams": HeadLabels("ctc", scores(2, 8, 6), tokens, lengths, frames),
        "rnnt": HeadLabels("transducer", scores(2, 8, 4, 6), tokens, lengths, frames),
    }


@given(seed=st.integers(0, 20))
def test_the_total_is_the_weighted_sum_of_the_losses_of_the_heads(seed):
    heads = four_heads(seed)
    parts = [
        sorted_label_cross_entropy(heads["sort"].logits, heads["sort"].labels, heads["sort"].lengths),
        token_cross_entropy(*heads["words"][1:4]),
        ctc_loss(*heads["streams"][1:5]),
        transducer_loss(*heads["rnnt"][1:5]),
    ]
    expected = sum(weight * part for weight, part in zip(WEIGHTS.values(), parts))
    assert_close(SortedLabelCrossEntropy(WEIGHTS)(heads), expected)


@pytest.mark.parametrize("gone", list(WEIGHTS))
def test_a_head_that_is_removed_leaves_the_numbers_and_gradients_of_the_others(gone):
    heads = four_heads(0)
    loss = SortedLabelCrossEntropy(WEIGHTS)
    rest = {name: head for name, head in heads.items() if name != gone}
    all_parts, parts = loss.parts(heads), loss.parts(rest)
    assert set(parts) == set(rest)
    for name, part in parts.items():
        assert torch.equal(part, all_parts[name])
    logits = [head.logits for head in rest.values()]
    ours, theirs = torch.autograd.grad(loss.total(parts), logits), torch.autograd.grad(loss(heads), logits)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


@given(order=st.permutations(range(3)))
def test_frames_in_any_order_of_speakers_are_sorted(order):
    head = four_heads(1)["sort"]
    loss = SortedLabelCrossEntropy({"sort": 1.0})
    active = torch.zeros(2, 8, 3)
    for slot in range(3):
        active[:, 2 * slot + 1 :, slot] = 1
    swapped = head._replace(labels=active[..., list(order)])
    assert_close(loss({"sort": swapped}), loss({"sort": head._replace(labels=active)}))


def test_each_part_says_of_how_many_it_is_a_mean():
    heads = four_heads(0)
    heads["streams"] = heads["streams"]._replace(lengths=torch.tensor([3, 0]), labels=torch.tensor([[0, 1, 2]] * 2))
    assert [int(head_count(head)) for head in heads.values()] == [14, 5, 4, 5]


def test_what_a_ctc_head_leaves_out_is_known():
    heads = four_heads(0)
    short = heads["streams"]._replace(input_lengths=torch.tensor([8, 1]))
    assert float(left_out(short)) == 0.5
    assert left_out(heads["words"]) is None


def test_bad_weights_and_missing_lengths_are_refused():
    with pytest.raises(ValueError, match="`words` is 0"):
        SortedLabelCrossEntropy({"words": 0})
    with pytest.raises(ValueError, match="`input_lengths`"):
        SortedLabelCrossEntropy(WEIGHTS)({"streams": four_heads(0)["streams"]._replace(input_lengths=None)})
