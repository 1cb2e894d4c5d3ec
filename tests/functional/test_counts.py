# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Counts of right and wrong frames, against all permutations and a loop over frames."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.functional.arrival import sort_by_arrival
from nemo_sortformer.functional.counts import der_counts, f1_counts, speaker_count_counts

seeds = st.integers(0, 10_000)


def random_batch(seed: int, batch: int = 3, frames: int = 10, slots: int = 3):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(batch, frames, slots, generator=generator)
    labels = (torch.rand(batch, frames, slots, generator=generator) < 0.4).float()
    lengths = torch.randint(0, frames + 1, (batch,), generator=generator)
    return probs, labels, lengths


def der_by_loop(probs, labels, lengths, threshold, as_is):
    counts = torch.zeros(4, dtype=torch.long)
    for b, n in enumerate(lengths.tolist()):
        answer, truth = probs[b, :n] > threshold, labels[b, :n] > 0.5
        if as_is:
            orders = [range(3)]
            truth = sort_by_arrival(truth[None])[0]
        else:
            orders = itertools.permutations(range(3))
        every = []
        for order in orders:
            mine, here = answer[:, list(order)], torch.zeros(4, dtype=torch.long)
            for t in range(n):
                r, h, c = truth[t].sum(), mine[t].sum(), (truth[t] & mine[t]).sum()
                here += torch.stack(((r - h).clamp(min=0), (h - r).clamp(min=0), torch.minimum(r, h) - c, r))
            every.append(here)
        counts += min(every, key=lambda c: c[:3].sum().item())
    return counts


@given(seed=seeds, threshold=st.sampled_from([0.3, 0.5, 0.7]), as_is=st.booleans())
def test_der_counts_equal_a_loop_over_frames_and_mappings(seed, threshold, as_is):
    batch = random_batch(seed)
    assert (
        der_counts(*batch, threshold=threshold, as_is=as_is).tolist() == der_by_loop(*batch, threshold, as_is).tolist()
    )


def test_der_counts_by_hand():
    labels = torch.tensor([[[1, 0], [1, 1], [0, 1], [0, 0]]]).float()
    probs = torch.tensor([[[0, 1], [0, 1], [0, 1], [1, 0]]]).float()  # slot 1 is speaker 0, then it is wrong
    # Mapped: frame 1 misses speaker 1, frame 2 confuses, frame 3 is a false alarm.
    assert der_counts(probs, labels).tolist() == [1, 1, 1, 4]
    assert der_counts(probs, labels, as_is=True).tolist() == [1, 1, 1, 4]  # frames 1 and 2 are right, 0 is confused
    assert der_counts(probs, labels, torch.tensor([1])).tolist() == [0, 0, 0, 1]
    assert der_counts(probs, labels, torch.tensor([1]), as_is=True).tolist() == [0, 0, 1, 1]
    assert f1_counts(probs, labels).tolist() == [2, 4, 4]


@given(seed=seeds, order=st.permutations(range(3)), as_is=st.booleans())
def test_counts_do_not_depend_on_the_order_of_the_label_columns(seed, order, as_is):
    probs, labels, lengths = random_batch(seed)
    shuffled = labels[..., list(order)]
    for counts in (der_counts, f1_counts):
        assert torch.equal(counts(probs, shuffled, lengths, as_is=as_is), counts(probs, labels, lengths, as_is=as_is))
    assert torch.equal(speaker_count_counts(probs, shuffled, lengths), speaker_count_counts(probs, labels, lengths))


@given(seed=seeds, as_is=st.booleans())
def test_counts_add_over_recordings_and_never_read_padding(seed, as_is):
    probs, labels, lengths = random_batch(seed)
    padding = torch.arange(10)[None, :, None] >= lengths[:, None, None]
    for counts, options in ((der_counts, {"as_is": as_is}), (f1_counts, {"as_is": as_is}), (speaker_count_counts, {})):
        whole = counts(probs, labels, lengths, **options)
        parts = [
            counts(probs[b : b + 1, :n], labels[b : b + 1, :n], **options) for b, n in enumerate(lengths.tolist())
        ]
        assert torch.equal(whole, torch.stack(parts).sum(dim=0))
        dirty = (probs.masked_fill(padding, 9.0), labels.masked_fill(padding, 9.0), lengths)
        assert torch.equal(counts(*dirty, **options), whole)


def test_a_perfect_answer_in_other_slots_is_right_when_mapped_and_confused_as_is():
    _, labels, lengths = random_batch(3)
    answer = sort_by_arrival(labels, lengths).flip(2)
    assert der_counts(answer, labels, lengths)[:3].tolist() == [0, 0, 0]
    assert der_counts(answer.flip(2), labels, lengths, as_is=True)[:3].tolist() == [0, 0, 0]
    assert der_counts(answer, labels, lengths, as_is=True)[2] > 0


def test_speaker_counts_by_hand():
    labels = torch.zeros(2, 5, 3)
    labels[:, :3, 0] = labels[:, 2:, 1] = labels[:, 3:, 2] = 1  # 3, 3 and 2 frames
    probs = labels.clone()
    probs[1, :, 1] = 0
    assert speaker_count_counts(probs, labels).tolist() == [1, 2]
    probs[1, :, 1] = torch.tensor([1, 1, 0, 0, 0])  # two frames are no speaker yet
    assert speaker_count_counts(probs, labels).tolist() == [1, 2]
    assert speaker_count_counts(probs, labels, min_active_frames=2).tolist() == [2, 2]
    assert speaker_count_counts(probs * 0.6, labels, threshold=0.7, min_active_frames=1).tolist() == [0, 2]


def test_autocast_and_many_frames_count_exactly():
    labels = torch.zeros(1, 70_000, 2)
    labels[0, :, 0] = 1
    labels[0, :1, 1] = 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert f1_counts(labels.flip(2), labels).tolist() == [70_001, 70_001, 70_001]


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="`labels` must have the shape of `probs`"):
        der_counts(torch.zeros(1, 5, 3), torch.zeros(1, 5, 2))
