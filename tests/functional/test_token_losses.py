# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Losses on tokens: values by hand and by other implementations, no padding read, nothing of nothing."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.token_losses import (
    ctc_count,
    ctc_fits,
    ctc_loss,
    token_cross_entropy,
    transducer_loss,
)


def random_case(seed, *, extra_axis=False):
    """Scores, labels and lengths of four recordings, one of them without a token."""
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 9, 5, 6) if extra_axis else (4, 9, 6)
    logits = torch.randn(shape, generator=generator)
    labels = torch.randint(0, 5, (4, 4), generator=generator)
    return logits, labels, torch.tensor([4, 0, 2, 3]), torch.tensor([9, 5, 8, 7])


def test_equal_scores_cost_the_logarithm_of_the_vocabulary():
    loss = token_cross_entropy(torch.zeros(2, 3, 10), torch.ones(2, 3, dtype=torch.long), torch.tensor([3, 1]))
    assert float(loss) == pytest.approx(math.log(10))


@given(seed=st.integers(0, 99), smoothing=st.sampled_from([0.0, 0.1]))
def test_token_cross_entropy_is_the_mean_over_valid_tokens(seed, smoothing):
    logits, labels, lengths, _ = random_case(seed)
    logits = logits[:, :4]
    total = 0.0
    for i, j in itertools.product(range(4), range(4)):
        if j < lengths[i]:
            scores = logits[i, j].log_softmax(dim=0)
            total -= float((1 - smoothing) * scores[labels[i, j]] + smoothing * scores.mean())
    found = token_cross_entropy(logits, labels, lengths, label_smoothing=smoothing)
    assert float(found) == pytest.approx(total / int(lengths.sum()), rel=1e-5)


def spoilt(logits, labels, input_lengths, label_lengths):
    """The same with NaN and wild numbers in all padding."""
    logits, labels = logits.clone(), labels.clone()
    for i in range(len(logits)):
        logits[i, input_lengths[i] :] = math.nan
        labels[i, label_lengths[i] :] = 10**6
    return logits, labels


@given(seed=st.integers(0, 30))
def test_no_loss_reads_the_padding_and_neither_does_its_gradient(seed):
    logits, labels, lengths, frames = random_case(seed)
    cases = [
        (lambda x, y: token_cross_entropy(x[:, :4], y, lengths), logits, lengths),
        (lambda x, y: ctc_loss(x, y, lengths, frames), logits, frames),
        (lambda x, y: transducer_loss(x, y, lengths, frames), random_case(seed, extra_axis=True)[0], frames),
    ]
    for loss, scores, valid in cases:
        clean = scores.clone().requires_grad_()
        dirty, dirty_labels = spoilt(scores, labels, valid, lengths)
        dirty.requires_grad_()
        expected, found = loss(clean, labels), loss(dirty, dirty_labels)
        assert_close(found, expected)
        (gradient,), (dirty_gradient,) = (torch.autograd.grad(x, y) for x, y in ((expected, clean), (found, dirty)))
        assert_close(dirty_gradient, gradient)


def all_alignments(log_probs, tokens):
    """CTC by listing: the probability of all ways through the frames that collapse to the tokens."""
    blank = log_probs.shape[1] - 1
    total = 0.0
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        collapsed = [token for token, _ in itertools.groupby(path) if token != blank]
        if collapsed == tokens:
            total += math.exp(sum(float(log_probs[t, token]) for t, token in enumerate(path)))
    return -math.log(total)


def test_ctc_is_the_sum_over_all_alignments_by_the_number_of_tokens():
    logits = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(1))
    labels, lengths = torch.tensor([[0, 1], [1, 1], [0, 0]]), torch.tensor([2, 2, 0])
    log_probs = logits.log_softmax(dim=-1)
    expected = sum(all_alignments(log_probs[i], labels[i, : lengths[i]].tolist()) for i in range(3))
    found = ctc_loss(logits, labels, lengths, torch.tensor([4, 4, 4]))
    assert float(found) == pytest.approx(expected / 5, rel=1e-5)  # two, two, and one for nobody


def test_a_text_with_more_tokens_than_frames_is_left_out_with_its_tokens():
    logits, labels, lengths, frames = random_case(3)
    labels[0] = torch.tensor([2, 2, 1, 1])  # six frames
    frames[0] = 5
    assert ctc_fits(labels, lengths, frames).tolist() == [False, True, True, True]
    found = ctc_loss(logits.requires_grad_(), labels, lengths, frames)
    others = ctc_loss(logits[1:], labels[1:], lengths[1:], frames[1:])
    assert_close(found, others)
    assert int(ctc_count(labels, lengths, frames)) == 1 + 2 + 3
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient[0].abs().max() == 0
    assert torch.isfinite(gradient).all()


def test_a_batch_in_which_nobody_says_anything_asks_for_blanks():
    logits, _, _, frames = random_case(0)
    nothing = torch.zeros(4, 0, dtype=torch.long)
    expected = sum(-float(logits[i, : frames[i]].log_softmax(dim=-1)[:, -1].sum()) for i in range(4)) / 4
    assert float(ctc_loss(logits, nothing, torch.zeros(4, dtype=torch.long), frames)) == pytest.approx(expected)
    assert float(token_cross_entropy(logits[:, :0], nothing, torch.zeros(4, dtype=torch.long))) == 0


@given(seed=st.integers(0, 20))
def test_the_transducer_is_nemos(seed):
    from nemo.collections.asr.losses.rnnt import RNNTLoss

    logits, labels, lengths, frames = random_case(seed, extra_axis=True)
    logits.requires_grad_()
    nemo = RNNTLoss(num_classes=5, reduction=None, loss_name="pytorch")
    expected = nemo(
        log_probs=logits.log_softmax(dim=-1), targets=labels, input_lengths=frames, target_lengths=lengths
    ).sum() / int(lengths.clamp(min=1).sum())
    found = transducer_loss(logits, labels, lengths, frames)
    assert_close(found, expected)
    (theirs,), (ours,) = (torch.autograd.grad(one, logits) for one in (expected, found))
    assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(batch, tokens, vocabulary\)"):
        token_cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long))
