# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Costs of all pairs of columns and the best assignment, for any number of slots: no permutation is ever listed."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from nemo_sortformer.functional.checks import check_lengths, check_same_shape
from nemo_sortformer.functional.frames import lengths_to_mask


def valid_weights(values: Tensor, lengths: Tensor | None, frame_weight: Tensor | None) -> Tensor:
    """Give the weight of each frame: `frame_weight` (1 where None) on valid frames, 0 on padding.

    Args:
        values: the batch, shape (batch, frames, slots); read for its shape and device only.
        lengths: valid frames per recording, shape (batch,); all frames where None.
        frame_weight: weight of each frame, 0 or more, shape (batch, frames).

    Returns:
        Shape (batch, frames), float32.

    Raises:
        ValueError: a shape is wrong.
    """
    batch, frames, _ = values.shape
    check_lengths(lengths, batch)
    if frame_weight is None:
        if lengths is None:
            return torch.ones((batch, frames), device=values.device)
        return lengths_to_mask(lengths, frames).float()
    if frame_weight.shape != (batch, frames):
        raise ValueError(
            f"`frame_weight` must be (batch, frames), {(batch, frames)}, but has shape {tuple(frame_weight.shape)}."
        )
    if lengths is None:
        return frame_weight.float()
    return frame_weight.float().masked_fill(~lengths_to_mask(lengths, frames), 0)


def pairwise_bce(
    logits: Tensor,
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    frame_weight: Tensor | None = None,
    pos_weight: float | Tensor | None = None,
) -> Tensor:
    """Sum the binary cross-entropy of every logit column against every label column.

    Args:
        logits: speech scores before the sigmoid, shape (batch, frames, slots).
        labels: speech activity in [0, 1], same shape.
        lengths: valid frames per recording, shape (batch,); all frames where None.
        frame_weight: weight of each frame, shape (batch, frames); 1 where None.
        pos_weight: factor on the speech term, a number or one per logit column, shape (slots,).

    Returns:
        Shape (batch, slots, slots), float32, in nats: [b, i, j] is logit column i against label column j, summed over
        the valid frames. Padding is never read.

    Raises:
        ValueError: a shape is wrong.
    """
    check_same_shape(logits=logits, labels=labels)
    with torch.autocast(logits.device.type, enabled=False):
        weight = valid_weights(logits, lengths, frame_weight)[:, :, None]
        scores, target = logits.float(), labels.float()
        if lengths is not None:  # a product with 0 would keep NaN
            valid = lengths_to_mask(lengths, logits.shape[1])[:, :, None]
            scores, target = torch.where(valid, scores, 0.0), torch.where(valid, target, 0.0)
        if_speech, if_silence = F.softplus(-scores), F.softplus(scores)
        if pos_weight is not None:
            if_speech = if_speech * pos_weight
        # One product would do, softplus(x) - x y, but it loses all digits of a small cost between large scores.
        speech = target * weight
        return torch.bmm(if_speech.mT, speech) + torch.bmm(if_silence.mT, weight - speech)


def forbid_disorder(cost: Tensor, arrival: Tensor, *, tie_tolerance: int) -> Tensor:
    """Make every assignment that breaks the order of arrival dearer than all that keep it.

    Args:
        cost: [b, i, j] is slot i against label column j, shape (batch, slots, slots).
        arrival: arrival frame of each label column, shape (batch, slots).
        tie_tolerance: slot i may take a column that arrives within so many frames of the i-th arrival.

    Returns:
        Shape of `cost`. An allowed assignment always exists: the sorted order is one.
    """
    ranked = arrival.sort(dim=1).values
    apart = (ranked[:, :, None] - arrival[:, None, :]).abs()
    dear = cost.abs().sum(dim=(1, 2), keepdim=True) * 2 + 1
    return torch.where(apart <= tie_tolerance, cost, dear)


def best_assignment(cost: Tensor) -> Tensor:
    """Give each slot one label column so that the summed cost is least (Hungarian algorithm).

    Args:
        cost: [b, i, j] is the cost of label column j in slot i, shape (batch, slots, slots). It is copied to the host
            once for the whole batch.

    Returns:
        Shape (batch, slots), int64, on the device of `cost`: entry i is the label column of slot i. Where the costs of
        a recording hold a NaN or an infinity its columns stay as they are: a loss on them is not finite either, so
        that a gradient scaler leaves out the step, as it does with any overflow in float16.

    Raises:
        ValueError: `cost` has the wrong shape.

    Example:
        >>> best_assignment(torch.tensor([[[3.0, 1.0], [1.0, 3.0]]]))
        tensor([[1, 0]])
    """
    if cost.dim() != 3 or cost.shape[1] != cost.shape[2]:
        raise ValueError(f"`cost` must be (batch, slots, slots), but has shape {tuple(cost.shape)}.")
    table = cost.detach().double().cpu().numpy()
    columns = np.tile(np.arange(table.shape[1]), (len(table), 1))
    for recording in np.flatnonzero(np.isfinite(table).all(axis=(1, 2))):
        columns[recording] = linear_sum_assignment(table[recording])[1]
    return torch.from_numpy(columns).to(cost.device)
