# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Counts of right and wrong frames. They add over recordings, batches and ranks; whoever wants a rate divides once."""

import torch
from torch import Tensor

from nemo_sortformer.functional.arrival import sort_by_arrival
from nemo_sortformer.functional.checks import check_lengths, check_same_shape
from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.functional.permutation import best_assignment


def der_counts(
    probs: Tensor, labels: Tensor, lengths: Tensor | None = None, *, threshold: float = 0.5, as_is: bool = False
) -> Tensor:
    """Count the frames that make up the diarization error, without collar.

    In a frame with r speakers, of whom the answer has c right and h in all, max(r - h, 0) are missed, max(h - r, 0)
    are false alarms and min(r, h) - c are confused.

    Args:
        probs: speech probabilities, shape (batch, frames, slots).
        labels: speech activity, active above 0.5, same shape, columns in any order.
        lengths: valid frames per recording, shape (batch,); all frames where None.
        threshold: a slot speaks where its probability is above this.
        as_is: compare slot k with the k-th to arrive; otherwise with the speaker that the best one-to-one mapping of
            the recording gives it.

    Returns:
        Shape (4,), int64: missed, false alarm, confused and scored speaker frames, summed over the batch.

    Raises:
        ValueError: a shape is wrong.
    """
    answer, truth = _activities(probs, labels, lengths, threshold)
    num_answer, num_truth = answer.sum(dim=2), truth.sum(dim=2)
    right = _num_right(answer, truth, as_is=as_is)
    missed = (num_truth - num_answer).clamp(min=0).sum()
    false_alarm = (num_answer - num_truth).clamp(min=0).sum()
    confused = torch.minimum(num_truth, num_answer).sum() - right
    return torch.stack((missed, false_alarm, confused, num_truth.sum()))


def f1_counts(
    probs: Tensor, labels: Tensor, lengths: Tensor | None = None, *, threshold: float = 0.5, as_is: bool = False
) -> Tensor:
    """Count the speaker frames that are right, answered and true. Arguments are those of :func:`der_counts`.

    Returns:
        Shape (3,), int64: speaker frames that are right, that the answer has, and that the truth has.

    Raises:
        ValueError: a shape is wrong.
    """
    answer, truth = _activities(probs, labels, lengths, threshold)
    return torch.stack((_num_right(answer, truth, as_is=as_is), answer.sum(), truth.sum()))


def speaker_count_counts(
    probs: Tensor,
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    threshold: float = 0.5,
    min_active_frames: int = 3,
) -> Tensor:
    """Count the recordings with the right number of speakers.

    Args:
        probs: speech probabilities, shape (batch, frames, slots).
        labels: speech activity, active above 0.5, same shape, columns in any order.
        lengths: valid frames per recording, shape (batch,); all frames where None.
        threshold: a slot speaks where its probability is above this.
        min_active_frames: a column with fewer active frames is no speaker, in the answer and in the truth alike.

    Returns:
        Shape (2,), int64: recordings with the right number of speakers, and all recordings.

    Raises:
        ValueError: a shape is wrong.
    """
    answer, truth = _activities(probs, labels, lengths, threshold)
    num_answer = (answer.sum(dim=1) >= min_active_frames).sum(dim=1)
    num_truth = (truth.sum(dim=1) >= min_active_frames).sum(dim=1)
    right = (num_answer == num_truth).sum()
    return torch.stack((right, torch.full_like(right, probs.shape[0])))


def _activities(probs: Tensor, labels: Tensor, lengths: Tensor | None, threshold: float) -> tuple[Tensor, Tensor]:
    """Give what the answer and the truth say of each frame and column, bool, False in the padding."""
    check_same_shape(probs=probs, labels=labels)
    check_lengths(lengths, probs.shape[0])
    answer, truth = probs > threshold, labels > 0.5
    if lengths is not None:
        valid = lengths_to_mask(lengths, probs.shape[1])[:, :, None]
        answer, truth = answer & valid, truth & valid
    return answer, truth


def _num_right(answer: Tensor, truth: Tensor, *, as_is: bool) -> Tensor:
    if as_is:
        return (answer & sort_by_arrival(truth)).sum()
    # Float64 counts exactly, and is left alone by autocast.
    shared = torch.bmm(answer.double().mT, truth.double())
    best = best_assignment(-shared)
    return shared.gather(2, best[:, :, None]).sum().long()
