# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Exact attention with Transformer-XL's relative positions, in blocks of queries: memory linear in the frames."""

import torch
from torch import Tensor

_HIDDEN = -1e4
"""NeMo's score of a frame that must not be seen; far enough below others that its weight is exactly zero."""
_CPU_BLOCK = 1 << 19
"""Scores in a block on a CPU, per thread: two such blocks of float32 stay in the cache of a core."""
_GPU_BLOCK = 1 << 26
"""Scores in a block on an accelerator: enough to keep it busy."""


def relative_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    *,
    visible: Tensor | None = None,
    block_elements: int | None = None,
) -> Tensor:
    """Self-attention whose scores know how far apart two frames are, without a (frames, frames) tensor.

    The score of frame j for frame i is `(query_i + content_bias) . key_j + (query_i + position_bias) . positions[i-j]`
    over the square root of the head's width. A block of queries is multiplied with the positions that lie between it
    and some key, and no others; shifted row by row, as a view without a copy, that product is what the content scores
    are added to. So the work is that of one whole matrix for each of the terms, and the memory that of a block.

    Args:
        query: shape (batch, heads, frames, width per head).
        key: same shape.
        value: same shape.
        positions: keys of the distances, from frames - 1 down to 1 - frames, shape (heads, 2 frames - 1, width).
        content_bias: added to queries that meet keys, shape (heads, width).
        position_bias: added to queries that meet positions, shape (heads, width).
        visible: bool, true = may be looked at; (batch, frames) marks the valid frames, (batch or 1, frames, frames)
            says it pair by pair. A frame that sees nothing, as a padded one, gets zeros.
        block_elements: scores computed at once; more than that only where a single query has more. None takes what
            is fast on the device. The result does not depend on it, but for rounding.

    Returns:
        The mixed values, shape (batch, heads, frames, width). Differentiable, with memory that is quadratic then.

    Raises:
        ValueError: the number of positions does not fit the frames.

    Source: Dai et al. 2019 (arXiv:1901.02860), section 3.3; numbers as NeMo's `RelPositionMultiHeadAttention`.
    """
    batch, heads, frames, width = query.shape
    if positions.shape[-2] != 2 * frames - 1:
        raise ValueError(
            f"`positions` must have 2 x {frames} - 1 = {2 * frames - 1} rows for {frames} frames, but has "
            f"{positions.shape[-2]}."
        )
    scale = width**-0.5
    # heads outside, so that one product serves the whole batch: the positions are the same for all recordings
    by_head_HBTW = query.transpose(0, 1)
    content = ((by_head_HBTW + content_bias[:, None, None]) * scale).contiguous()
    place = ((by_head_HBTW + position_bias[:, None, None]) * scale).contiguous()
    keys = key.transpose(0, 1).contiguous()
    values = value.transpose(0, 1).contiguous()
    together, rows = _block_shape(query, block_elements)
    parts_by_head = []
    for h in range(0, heads, together):
        some = slice(h, h + together)
        parts = []
        for first in range(0, frames, rows):
            last = min(first + rows, frames)
            seen = _seen(visible, first, last)
            near = positions[some, frames - last : 2 * frames - 1 - first]
            parts.append(
                _one_block(
                    content[some, :, first:last], place[some, :, first:last], keys[some], values[some], near, seen
                )
            )
        parts_by_head.append(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2))
    return torch.cat(parts_by_head, dim=0).transpose(0, 1)


def _one_block(
    content: Tensor, place: Tensor, keys: Tensor, values: Tensor, near: Tensor, seen: Tensor | None
) -> Tensor:
    """Mixed values (heads, batch, rows, width) of some queries; `near`: (heads, frames + rows - 1, width)."""
    heads, batch, rows, width = content.shape
    frames, span = keys.shape[2], near.shape[1]
    by_distance = torch.bmm(place.reshape(heads, batch * rows, width), near.transpose(1, 2))
    # row i of a block begins at its own distance to the first key: one column further left than the row above
    by_key = by_distance.as_strided((heads * batch, rows, frames), (rows * span, span - 1, 1), rows - 1)
    scores = torch.baddbmm(
        by_key, content.reshape(heads * batch, rows, width), keys.reshape(heads * batch, frames, width).mT
    )
    if seen is not None:
        scores = scores.view(heads, batch, rows, frames).masked_fill(~seen, _HIDDEN).view_as(scores)
    mixed = torch.bmm(scores.softmax(dim=-1), values.reshape(heads * batch, frames, width)).view_as(content)
    return mixed if seen is None else mixed.masked_fill(~seen.any(dim=-1, keepdim=True), 0.0)


def _seen(visible: Tensor | None, first: int, last: int) -> Tensor | None:
    """Which frames the queries `first` to `last` see, shape (batch or 1, rows, frames)."""
    if visible is None:
        return None
    if visible.dim() == 3:
        return visible[:, first:last]
    return visible[:, first:last, None] & visible[:, None, :]


def _block_shape(query: Tensor, block_elements: int | None) -> tuple[int, int]:
    """How many heads, and how many queries of each, are computed at once."""
    batch, heads, frames, _ = query.shape
    on_cpu = query.device.type == "cpu"
    together = min(heads, torch.get_num_threads()) if on_cpu else heads
    budget = block_elements or (_CPU_BLOCK * together if on_cpu else _GPU_BLOCK)
    return together, max(1, min(frames, budget // max(1, together * batch * frames)))
