# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""NeMo as the second implementation of targets and loss, and one test for each place where NeMo is wrong.

docs/nemo_differences.md has a line for each of the latter; a test that fails here may mean that NeMo was repaired.
"""

import itertools
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.arrival import arrival_frames, gather_columns, sort_by_arrival
from nemo_sortformer.functional.frames import label_windows, num_label_frames
from nemo_sortformer.functional.losses import masked_bce, permutation_invariant_loss, sorted_targets
from nemo_sortformer.functional.permutation import best_assignment, forbid_disorder

seeds = st.integers(0, 100_000)


@pytest.fixture(scope="module")
def nemo():
    from nemo.collections.asr.parts.utils import asr_multispeaker_utils

    return asr_multispeaker_utils


@pytest.fixture(scope="module")
def nemo_bce():
    from nemo.collections.asr.losses.bce_loss import BCELoss

    def bce(probs, labels, lengths, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return BCELoss(**options)(probs=probs, labels=labels, target_lens=lengths)

    return bce


def permutations(slots: int) -> torch.Tensor:
    return torch.tensor(list(itertools.permutations(range(slots))))


def random_batch(seed: int, slots: int = 4, batch: int = 3, frames: int = 20, density: float = 0.15):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, frames, slots, generator=generator) * 2
    labels = (torch.rand(batch, frames, slots, generator=generator) < density).float()
    return logits, labels


def first_frames_differ(labels: torch.Tensor) -> bool:
    """No two speakers arrive together, silent ones apart, which are equal columns."""
    first = arrival_frames(labels).sort(dim=1).values
    return bool(((first.diff(dim=1) > 0) | (first[:, 1:] == labels.shape[1])).all())


@given(seed=seeds, slots=st.integers(2, 5))
def test_sorted_labels_are_nemos_where_no_two_arrive_together(nemo, seed, slots):
    logits, labels = random_batch(seed, slots)
    theirs = nemo.get_ats_targets(labels, torch.sigmoid(logits), permutations(slots))
    if first_frames_differ(labels):
        assert torch.equal(sort_by_arrival(labels), theirs)
    assert torch.equal(arrival_frames(theirs), arrival_frames(sort_by_arrival(labels)))


@given(
    seed=seeds, slots=st.integers(2, 5), tolerance=st.sampled_from([0, 0, 1, 3]), density=st.sampled_from([0.1, 0.5])
)
def test_the_assignment_finds_nemos_sorted_targets_ties_and_all(nemo, seed, slots, tolerance, density):
    """The same score, product of label and probability, searched by assignment and by enumeration."""
    logits, labels = random_batch(seed, slots, density=density)
    probs = torch.sigmoid(logits)
    theirs = nemo.get_ats_targets(labels, probs, permutations(slots), tolerance=tolerance)
    cost = forbid_disorder(-torch.bmm(probs.mT, labels), arrival_frames(labels), tie_tolerance=tolerance)
    assert torch.equal(gather_columns(labels, best_assignment(cost)), theirs)


@given(seed=seeds, slots=st.integers(2, 5), tolerance=st.sampled_from([0, 2]), density=st.sampled_from([0.1, 0.5]))
def test_our_tied_orders_fit_at_least_as_well_as_nemos(nemo, seed, slots, tolerance, density):
    logits, labels = random_batch(seed, slots, density=density)
    theirs = nemo.get_ats_targets(labels, torch.sigmoid(logits), permutations(slots), tolerance=tolerance)
    ours = sorted_targets(logits, labels, tie_tolerance=tolerance)
    for b in range(len(labels)):
        assert (
            masked_bce(logits[b : b + 1], ours[b : b + 1]) <= masked_bce(logits[b : b + 1], theirs[b : b + 1]) + 1e-6
        )


@given(seed=seeds, slots=st.integers(2, 5))
def test_the_assignment_finds_nemos_pil_targets_but_ours_cost_less(nemo, seed, slots):
    logits, labels = random_batch(seed, slots)
    probs = torch.sigmoid(logits)
    theirs = nemo.get_pil_targets(labels, probs, permutations(slots))
    assert torch.equal(gather_columns(labels, best_assignment(-torch.bmm(probs.mT, labels))), theirs)
    assert permutation_invariant_loss(logits, labels) <= masked_bce(logits, theirs) + 1e-6


def test_nemos_pil_is_not_the_minimum_of_its_loss(nemo):
    logits, labels = random_batch(0, batch=200, frames=6)
    theirs = masked_bce(logits, nemo.get_pil_targets(labels, torch.sigmoid(logits), permutations(4)))
    assert permutation_invariant_loss(logits, labels) < theirs - 1e-3


@given(seed=seeds)
def test_cross_entropy_is_nemos(nemo_bce, seed):
    logits, labels = random_batch(seed)
    lengths = torch.randint(1, 21, (3,), generator=torch.Generator().manual_seed(seed))
    theirs = nemo_bce(torch.sigmoid(logits), labels, lengths)
    assert_close(masked_bce(logits, labels, lengths), theirs, rtol=1e-5, atol=1e-6)


@given(samples=st.integers(1, 500_000))
def test_label_frames_are_nemos(nemo, samples):
    assert num_label_frames(samples) == nemo.get_hidden_length_from_sample_length(samples)


@given(seed=seeds, hops=st.integers(1, 100), subsampling=st.sampled_from([1, 2, 4, 8]))
def test_label_windows_are_nemos(nemo, seed, hops, subsampling):
    activity = (torch.rand(hops, 3, generator=torch.Generator().manual_seed(seed)) < 0.5).float()
    num_frames = -(-hops // subsampling)
    theirs = nemo.get_soft_mask(activity, num_frames, subsampling)
    ours = torch.stack(
        [activity[start:end].mean(dim=0) for start, end in label_windows(num_frames, hops, subsampling).T]
    )
    if subsampling == 1 and num_frames > 1:  # NeMo's first window has no hop, ours has the first
        assert theirs[0].isnan().all()
        theirs[0] = activity[0]
    assert_close(ours, theirs, rtol=0, atol=1e-7)


# Where NeMo is wrong ------------------------------------------------------------------------------------------------


def test_nemo_leaves_targets_unsorted_where_all_probabilities_are_zero(nemo):
    labels = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
    logits = torch.full_like(labels, -200.0)  # a sigmoid of it is 0
    assert torch.equal(nemo.get_ats_targets(labels, torch.sigmoid(logits), permutations(2)), labels)
    assert torch.equal(sorted_targets(logits, labels, tie_tolerance=0), labels.flip(2))
    assert torch.equal(sort_by_arrival(labels), labels.flip(2))


def test_nemo_ignores_its_threshold_when_it_permutes(nemo):
    labels = torch.tensor([[[0.0, 0.4], [0.4, 0.4], [0.9, 0.9]]])
    theirs = nemo.get_ats_targets(labels, labels, permutations(2), thres=0.3)
    assert torch.equal(theirs, labels)  # column 1 is above 0.3 first
    assert torch.equal(sort_by_arrival(labels, threshold=0.3), labels.flip(2))


def test_nemo_counts_a_label_at_the_threshold_as_speech(nemo):
    """Not wrong, but unlike our rule and that of NeMo's own lhotse data set: above, not at the threshold."""
    labels = torch.tensor([[[0.5, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    assert nemo.find_first_nonzero(labels, max_cap_val=3).tolist() == [[0, 1]]
    assert arrival_frames(labels).tolist() == [[2, 1]]


def test_nemo_breaks_ties_by_the_input_order_of_the_columns(nemo):
    """Columns that arrive together and fit equally well: NeMo's target depends on how they were numbered."""
    labels = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    flat = torch.full_like(labels, 0.5)
    theirs = [nemo.get_ats_targets(y, flat, permutations(2)) for y in (labels, labels.flip(2))]
    assert not torch.equal(*theirs)
    assert torch.equal(sort_by_arrival(labels), sort_by_arrival(labels.flip(2)))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_nemos_cross_entropy_ignores_its_reduction(nemo_bce, reduction):
    logits, labels = random_batch(1)
    lengths = torch.full((3,), 20)
    mean = nemo_bce(torch.sigmoid(logits), labels, lengths)
    assert torch.equal(nemo_bce(torch.sigmoid(logits), labels, lengths, reduction=reduction), mean)


def test_nemos_cross_entropy_ignores_its_weight(nemo_bce):
    logits, labels = random_batch(1)
    lengths = torch.full((3,), 20)
    values = [
        nemo_bce(torch.sigmoid(logits), labels, lengths, weight=torch.tensor(w)) for w in ([0.1, 0.9], [0.9, 0.1])
    ]
    assert torch.equal(*values)
    assert masked_bce(logits, labels, lengths, pos_weight=9.0) > masked_bce(logits, labels, lengths)


def test_nemos_class_weights_turn_the_mean_into_a_sum(nemo_bce):
    logits, labels = random_batch(1)
    lengths = torch.full((3,), 20)
    once = nemo_bce(torch.sigmoid(logits), labels, lengths, class_normalization="binary")
    twice = nemo_bce(
        torch.sigmoid(logits).repeat(2, 1, 1), labels.repeat(2, 1, 1), lengths.repeat(2), class_normalization="binary"
    )
    assert_close(twice, 2 * once)
    assert_close(masked_bce(logits.repeat(2, 1, 1), labels.repeat(2, 1, 1)), masked_bce(logits, labels))


def test_nemos_cross_entropy_is_nan_where_nothing_is_valid(nemo_bce):
    logits, labels = random_batch(1)
    nothing = torch.zeros(3, dtype=torch.int64)
    assert nemo_bce(torch.sigmoid(logits), labels, nothing).isnan()
    assert masked_bce(logits, labels, nothing) == 0


def test_nemos_cross_entropy_gives_a_confidently_wrong_frame_no_gradient(nemo_bce):
    labels, lengths = torch.zeros(1, 1, 1), torch.tensor([1])
    for dtype, score in ((torch.float32, 30.0), (torch.bfloat16, 9.0)):
        logits = torch.full((1, 1, 1), score, dtype=dtype, requires_grad=True)
        nemo_bce(torch.sigmoid(logits).float(), labels, lengths).backward()
        assert logits.grad.item() == 0
        logits.grad = None
        masked_bce(logits, labels, lengths).backward()
        assert logits.grad.item() == pytest.approx(1.0, abs=1e-2)
