# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Multi-head self-attention on `scaled_dot_product_attention`, with rotary positions where they are asked for."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Self-attention of all heads at once; no (frames, frames) tensor per head where the kernel needs none.

    The parameters are named as in NeMo's `MultiHeadAttention`.

    Args:
        hidden_size: width D of the states.
        num_attention_heads: number of heads; divides `hidden_size`.
        score_dropout: probability of zeroing an attention weight while training. Above zero the CPU has no fused
            kernel, and time and memory grow with frames squared.
        layer_dropout: probability of zeroing an output unit while training.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(
        self, hidden_size: int, num_attention_heads: int, *, score_dropout: float = 0.0, layer_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if num_attention_heads < 1 or hidden_size % num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` must divide `hidden_size` = {hidden_size}, but is {num_attention_heads}."
            )
        self.num_heads = num_attention_heads
        self.score_dropout = score_dropout
        self.query_net = nn.Linear(hidden_size, hidden_size)
        self.key_net = nn.Linear(hidden_size, hidden_size)
        self.value_net = nn.Linear(hidden_size, hidden_size)
        self.out_projection = nn.Linear(hidden_size, hidden_size)
        self.layer_dropout = nn.Dropout(layer_dropout)

    def forward(
        self,
        states: Tensor,
        *,
        mask: Tensor | None = None,
        is_causal: bool = False,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Mix the frames of each recording.

        Args:
            states: shape (batch, frames, width).
            mask: bool, true = may be looked at, any shape that broadcasts to (batch, heads, frames, frames).
            is_causal: frame t looks at frames <= t only; without `mask`.
            rotation: the tables of :func:`rotary_tables`; none = attention does not know positions.

        Returns:
            Shape (batch, frames, width).
        """
        query, key, value = (self._split(net(states)) for net in (self.query_net, self.key_net, self.value_net))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        dropout = self.score_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=is_causal
        )
        return self.layer_dropout(self.out_projection(mixed.transpose(1, 2).flatten(2)))

    def _split(self, states: Tensor) -> Tensor:
        """(batch, frames, width) -> (batch, heads, frames, width per head)."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def rotary_tables(num_frames: int, head_size: int, *, like: Tensor, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """What :func:`rotate` multiplies by: cosines, and sines with the sign of each half, in float32 or wider.

    Args:
        num_frames: number of frames.
        head_size: width of one attention head; even.
        like: a tensor on the wanted device; float64 gives float64 tables.
        base: the slowest rotation makes one turn in about `6.3 * base` frames.

    Returns:
        Two tables, each of shape (frames, head_size).

    Source: Su et al. 2021 (arXiv:2104.09864).
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    pairs = torch.arange(0, head_size, 2, device=like.device, dtype=dtype)
    frames = torch.arange(num_frames, device=like.device, dtype=dtype)
    angles = frames[:, None] * base ** (-pairs / head_size)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + half) of (batch, heads, frames, head_size) by its frame's angle; same shape and type."""
    cos, sin = (table[:, None] for table in rotation)
    # frame by frame in memory, as queries come from their linear map: attention then gives its result likewise
    frames = heads.to(cos.dtype).transpose(1, 2)
    swapped = frames.roll(frames.shape[-1] // 2, dims=-1)
    # not addcmul, which rounds once or twice by where in memory a number stands: a batch would not equal its items
    return (frames * cos + swapped * sin).to(heads.dtype).transpose(1, 2)
