# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Order of arrival: when each column of a label matrix is first active, and the columns sorted by it.

Ties. Columns that arrive in the same frame have no order in the data. The rule that decides must not depend on where
the columns stand in the input, otherwise the same conversation would have several targets:

* among tied columns the one with more speech comes first, then the one whose speech lies on frames of larger weight
  (a fixed irregular number per frame), so that any two different 0/1 columns are told apart;
* in causal use that would look ahead, so there the column with the larger value at its arrival frame comes first. 0/1
  columns that arrive together are then indeed tied and keep their input order;
* columns that never become active come last, by the first of the two rules.
"""

from typing import Literal

import torch
from torch import Tensor

from nemo_sortformer.functional.checks import check_lengths, check_rank
from nemo_sortformer.functional.frames import lengths_to_mask

Measure = Literal["hard", "soft"]

_GOLDEN = 0.6180339887498949
_SPREAD_BITS = (
    16  # 16 bits of spread below 17 bits of head room: sums of 0/1 labels are exact in float64 for 2.9 hours
)


def arrival_frames(labels: Tensor, lengths: Tensor | None = None, *, threshold: float = 0.5) -> Tensor:
    """Find the frame at which each column is first active.

    Args:
        labels: speech activity or probabilities, shape (batch, frames, slots).
        lengths: valid frames per recording, shape (batch,); all frames where None.
        threshold: a column is active where its value is above this.

    Returns:
        First active frame, shape (batch, slots), int64; `frames` for a column that is never active.

    Raises:
        ValueError: a shape is wrong.

    Example:
        >>> arrival_frames(torch.tensor([[[0, 0, 1], [0, 1, 1]]]))
        tensor([[2, 1, 0]])
    """
    check_rank(3, labels=labels)
    check_lengths(lengths, labels.shape[0])
    return _first_true(_active(labels, lengths, threshold))


def expected_arrival(probs: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Give the mean arrival frame of each column when its frames are active independently with `probs`.

    This is E[min(first active frame, length)], the sum over frames of the probability that the column has not been
    active so far. On 0/1 labels it is the arrival frame.

    Args:
        probs: speech probabilities in [0, 1], shape (batch, frames, slots).
        lengths: valid frames per recording, shape (batch,); all frames where None.

    Returns:
        Expected frame in [0, length], shape (batch, slots), float32. It has a gradient.

    Raises:
        ValueError: a shape is wrong.
    """
    check_rank(3, probs=probs)
    check_lengths(lengths, probs.shape[0])
    silent = 1.0 - _masked(probs.float(), lengths)
    if torch.compiler.is_exporting():  # ONNX has no running product; as a sum it needs the width to be as exact
        waiting = silent.double().log().cumsum(dim=1).exp().float()
    else:
        waiting = silent.cumprod(dim=1)
    return _masked(waiting, lengths).sum(dim=1)


def arrival_order(
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    threshold: float = 0.5,
    measure: Measure = "hard",
    causal: bool = False,
) -> Tensor:
    """Rank the columns by when they arrive; see the top of this file for ties.

    Args:
        labels: speech activity or probabilities, shape (batch, frames, slots).
        lengths: valid frames per recording, shape (batch,); all frames where None.
        threshold: a column is active where its value is above this; `measure="soft"` does not use it.
        measure: "hard", the first frame above the threshold, or "soft", `expected_arrival`.
        causal: break ties without looking past the arrival frame.

    Returns:
        Shape (batch, slots), int64: entry r is the column that arrives r-th. It has no gradient.

    Raises:
        ValueError: a shape is wrong, `measure` is unknown, or it is "soft" and `causal` is set.

    Example:
        >>> arrival_order(torch.tensor([[[0, 0, 1], [0, 1, 1]]]))
        tensor([[2, 1, 0]])
    """
    if torch.compiler.is_exporting():  # no stable argsort in ONNX: each place looks for the column of its rank
        ranks = sort_ranks(labels, lengths, threshold=threshold, measure=measure, causal=causal)
        index = torch.arange(ranks.shape[1], device=ranks.device)
        return torch.where(ranks[:, None, :] == index[:, None], index, 0).sum(dim=2)
    arrival, tie_key = _sort_keys(labels, lengths, threshold, measure, causal)
    order = tie_key.argsort(dim=-1, descending=True, stable=True)
    return order.gather(1, arrival.gather(1, order).argsort(dim=-1, stable=True))


def sort_ranks(
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    threshold: float = 0.5,
    measure: Measure = "hard",
    causal: bool = False,
) -> Tensor:
    """Give the rank of each column, the inverse of `arrival_order`, by comparing all pairs of columns.

    It uses comparisons and sums only, which exports where a stable argsort does not:
    ``labels @ one_hot(sort_ranks(labels))`` is ``sort_by_arrival(labels)``. Arguments are those of `arrival_order`.

    Returns:
        Shape (batch, slots), int64: entry s is the rank of column s.
    """
    arrival, tie_key = _sort_keys(labels, lengths, threshold, measure, causal)
    earlier = arrival[:, None, :] < arrival[:, :, None]  # [b, s, other]
    same = arrival[:, None, :] == arrival[:, :, None]
    louder = tie_key[:, None, :] > tie_key[:, :, None]
    equal = tie_key[:, None, :] == tie_key[:, :, None]
    index = torch.arange(arrival.shape[1], device=arrival.device)
    before = earlier | (same & (louder | (equal & (index[None, :] < index[:, None]))))
    return before.sum(dim=2)


def gather_columns(x: Tensor, order: Tensor) -> Tensor:
    """Put the columns of `x` in the given order.

    Args:
        x: any values, shape (batch, frames, slots).
        order: entry r is the column that goes to place r, shape (batch, slots), int64.

    Returns:
        Same shape and dtype as `x`; the gradient flows through the values.
    """
    return x.gather(2, order[:, None, :].expand(-1, x.shape[1], -1))


def sort_by_arrival(
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    threshold: float = 0.5,
    measure: Measure = "hard",
    causal: bool = False,
) -> Tensor:
    """Order the columns by when each is first active; silent columns go last.

    Arguments are those of `arrival_order`.

    Returns:
        The same columns in order of arrival, same shape and dtype. The gradient flows through the values, not through
        the order. Padding frames are moved with their columns and are never read.

    Raises:
        ValueError: as `arrival_order`.

    Example:
        >>> sort_by_arrival(torch.tensor([[[0, 1], [1, 0]]]))  # column 1 is active first
        tensor([[[1, 0],
                 [0, 1]]])
    """
    order = arrival_order(labels, lengths, threshold=threshold, measure=measure, causal=causal)
    return gather_columns(labels, order)


def arrival_gate(probs: Tensor, lengths: Tensor | None = None, *, threshold: float = 0.5) -> Tensor:
    """Mark the frames from the arrival of each column on.

    Sorted labels times this gate are causal: the only thing that one sort over all frames knows too early is where
    the columns stand that have not arrived yet, and the gate closes these.

    Args:
        probs: speech probabilities, shape (batch, frames, slots).
        lengths: valid frames per recording, shape (batch,); all frames where None.
        threshold: a column is active where its value is above this.

    Returns:
        1 where the column has been active at this frame or before, else 0; shape and dtype of `probs` (float32 if
        that is no floating point), no gradient.

    Raises:
        ValueError: a shape is wrong.
    """
    arrival = arrival_frames(probs, lengths, threshold=threshold)
    frame = torch.arange(probs.shape[1], device=probs.device)[None, :, None]
    return (frame >= arrival[:, None, :]).to(probs.dtype if probs.is_floating_point() else torch.float32)


def _masked(values: Tensor, lengths: Tensor | None) -> Tensor:
    """Zero the padding, whatever stands there (a product would keep NaN)."""
    if lengths is None:
        return values
    return values.masked_fill(~lengths_to_mask(lengths, values.shape[1])[:, :, None], 0)


def _active(values: Tensor, lengths: Tensor | None, threshold: float) -> Tensor:
    active = values.detach() > threshold
    if lengths is None:
        return active
    return active & lengths_to_mask(lengths, values.shape[1])[:, :, None]


def _first_true(active: Tensor) -> Tensor:
    """(batch, frames, slots) bool -> (batch, slots) int64, `frames` where there is none."""
    if active.shape[1] == 0:
        return torch.zeros((active.shape[0], active.shape[2]), dtype=torch.int64, device=active.device)
    ever, first = active.to(torch.uint8).max(dim=1)  # the first of equal values, and faster than argmax or amin
    return torch.where(ever.bool(), first, active.shape[1])


def _sort_keys(
    labels: Tensor, lengths: Tensor | None, threshold: float, measure: Measure, causal: bool
) -> tuple[Tensor, Tensor]:
    """Arrival (smaller first) and tie key (larger first), each (batch, slots), both without a column index in them."""
    if measure not in ("hard", "soft"):
        raise ValueError(f'`measure` must be "hard" or "soft", but is {measure!r}.')
    if measure == "soft" and causal:
        raise ValueError('`measure` "soft" reads all frames, so it cannot be causal. Set `measure="hard"`.')
    check_rank(3, labels=labels)
    check_lengths(lengths, labels.shape[0])
    with torch.no_grad():
        values = _masked(labels.detach().float(), lengths)
        speech = _weighted_speech(values)
        if measure == "soft":
            return expected_arrival(values, lengths), speech
        arrival = _first_true(_active(labels, lengths, threshold))
        if not causal or values.shape[1] == 0:
            return arrival, speech
        arrived = arrival < values.shape[1]
        onset = values.gather(1, arrival.clamp(max=values.shape[1] - 1)[:, None, :])[:, 0]
        return arrival, torch.where(arrived, onset.to(speech.dtype), speech)


def _weighted_speech(values: Tensor) -> Tensor:
    """Speech of each column in frames, plus less than one frame that depends on which frames they are.

    (batch, frames, slots) float32 -> (batch, slots). In float64, where the sum of 0/1 labels is exact and so does not
    depend on the order of summation; float32 where the device has no float64.
    """
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    frame = torch.arange(values.shape[1], device=values.device, dtype=dtype)
    scale = 2**_SPREAD_BITS
    spread = (frame * _GOLDEN).frac().mul(scale).floor() / (scale * 2 * scale)
    return torch.matmul(1.0 + spread, values.to(dtype))
