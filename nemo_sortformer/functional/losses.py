# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Losses on frame-level logits: sorted labels, permutation invariant, and the cross-entropy that both are made of.

All take scores before the sigmoid (a sigmoid saturates: a confidently wrong frame would have no gradient), compute in
float32 whatever the precision around them, never read padding, and give 0 with a gradient where nothing is valid.
Scores that are not finite give a loss of NaN, never an error: in float16 an overflow now and then is part of training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_sortformer.functional.arrival import arrival_frames, gather_columns, sort_by_arrival
from nemo_sortformer.functional.checks import check_same_shape
from nemo_sortformer.functional.embedding_losses import affinity_loss, deep_clustering_loss
from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.functional.permutation import best_assignment, forbid_disorder, pairwise_bce, valid_weights

__all__ = [
    "activity_loss",
    "affinity_loss",
    "deep_clustering_loss",
    "masked_bce",
    "permutation_invariant_loss",
    "permuted_targets",
    "sorted_label_cross_entropy",
    "sorted_targets",
]


def masked_bce(
    logits: Tensor,
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    frame_weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of each column against the label column at the same place.

    Args:
        logits: speech scores before the sigmoid, shape (batch, frames, slots).
        labels: speech activity in [0, 1], same shape.
        lengths: valid frames per recording, shape (batch,), each in [0, frames]; all frames where None.
        frame_weight: weight of each frame, 0 or more, shape (batch, frames); 1 where None.
        pos_weight: factor on the speech term, a number or one per slot, shape (slots,).

    Returns:
        Mean over the valid frames of the batch and all slots, each frame by its weight: a float32 scalar, in nats.
        0, with a gradient, where no frame is valid.

    Raises:
        ValueError: a shape is wrong.
    """
    check_same_shape(logits=logits, labels=labels)
    weight = valid_weights(logits, lengths, frame_weight)
    scores, target = logits.float(), labels.float()
    if lengths is not None:  # a product with 0 would keep NaN
        valid = lengths_to_mask(lengths, logits.shape[1])[:, :, None]
        scores, target = torch.where(valid, scores, 0.0), torch.where(valid, target, 0.0)
    if isinstance(pos_weight, float | int):
        pos_weight = torch.tensor(float(pos_weight), device=logits.device)
    plain = lengths is None and frame_weight is None
    total = F.binary_cross_entropy_with_logits(
        scores, target, weight=None if plain else weight[:, :, None], pos_weight=pos_weight, reduction="sum"
    )
    count = weight.sum() * logits.shape[2]
    return total / torch.where(count > 0, count, 1.0)


def sorted_targets(
    logits: Tensor, labels: Tensor, lengths: Tensor | None = None, *, tie_tolerance: int | None = None
) -> Tensor:
    """Put the label columns in order of arrival.

    Args:
        logits: speech scores before the sigmoid, shape (batch, frames, slots); read with a `tie_tolerance` only.
        labels: speech activity in [0, 1], same shape, columns in any order.
        lengths: valid frames per recording, shape (batch,); all frames where None.
        tie_tolerance: None sorts by the labels alone. With a number of frames, slot k may take any column that
            arrives within so many frames of the k-th arrival, and the order that fits the logits best is taken (0:
            only columns that arrive in the same frame are interchangeable).

    Returns:
        The columns of `labels` in their new order, same shape and dtype.

    Raises:
        ValueError: a shape is wrong, or `tie_tolerance` is negative.

    Source: with a tolerance of 0, the targets of NeMo's ``get_ats_targets``, by assignment instead of enumeration,
        and by cross-entropy instead of the product of label and probability.
    """
    check_same_shape(logits=logits, labels=labels)
    if tie_tolerance is None:
        return sort_by_arrival(labels, lengths)
    if tie_tolerance < 0:
        raise ValueError(f"`tie_tolerance` must be None or a number of frames >= 0, but is {tie_tolerance}.")
    with torch.no_grad():
        cost = pairwise_bce(logits, labels, lengths)
        cost = forbid_disorder(cost, arrival_frames(labels, lengths), tie_tolerance=tie_tolerance)
        return gather_columns(labels, best_assignment(cost))


def permuted_targets(
    logits: Tensor,
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    frame_weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
) -> Tensor:
    """Put the label columns in the order that has the least cross-entropy, each recording by itself.

    Arguments are those of :func:`masked_bce`.

    Returns:
        The columns of `labels` in their new order, same shape and dtype.

    Raises:
        ValueError: a shape is wrong.
    """
    with torch.no_grad():
        cost = pairwise_bce(logits, labels, lengths, frame_weight=frame_weight, pos_weight=pos_weight)
        return gather_columns(labels, best_assignment(cost))


def sorted_label_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    tie_tolerance: int | None = None,
    frame_weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy against the labels put in order of arrival: slot k is for the k-th to arrive.

    `tie_tolerance` is that of :func:`sorted_targets`, the other arguments are those of :func:`masked_bce`.

    Returns:
        A float32 scalar, in nats; unchanged by any permutation of the label columns.

    Raises:
        ValueError: a shape is wrong, or `tie_tolerance` is negative.

    Source: Sort Loss, Park et al. 2024 (arXiv:2409.06656).
    """
    target = sorted_targets(logits, labels, lengths, tie_tolerance=tie_tolerance)
    return masked_bce(logits, target, lengths, frame_weight=frame_weight, pos_weight=pos_weight)


def permutation_invariant_loss(
    logits: Tensor,
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    frame_weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
) -> Tensor:
    """Least binary cross-entropy over all orders of the label columns, each recording by itself.

    Arguments are those of :func:`masked_bce`.

    Returns:
        A float32 scalar, in nats, at most the sorted-label cross-entropy. It is the true minimum: NeMo's
        ``get_pil_targets`` takes the order with the largest product of label and probability instead.

    Raises:
        ValueError: a shape is wrong.

    Source: Yu et al. 2017 (arXiv:1607.00325), Fujita et al. 2019 (arXiv:1909.05952).
    """
    target = permuted_targets(logits, labels, lengths, frame_weight=frame_weight, pos_weight=pos_weight)
    return masked_bce(logits, target, lengths, frame_weight=frame_weight, pos_weight=pos_weight)


def activity_loss(logits: Tensor, labels: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of "at least one speaks" and "at least two speak"; no order of the labels changes it.

    Args:
        logits: scores of the two before the sigmoid, shape (batch, frames, 2).
        labels: speech activity, above one half is active, shape (batch, frames, slots).
        lengths: valid frames per recording, shape (batch,); all frames where None.

    Returns:
        Mean over the valid frames of the batch and the two: a float32 scalar, in nats; 0 where no frame is valid.

    Raises:
        ValueError: a shape is wrong.
    """
    count = (labels > 0.5).sum(dim=-1, keepdim=True)
    return masked_bce(logits, torch.cat([count >= 1, count >= 2], dim=-1).to(logits.dtype), lengths)
