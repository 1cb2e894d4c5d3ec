# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""NeMo's ConformerEncoder on its way into a graph: the same parameters and numbers, for any batch and any time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.parts.submodules.multi_head_attention import (
    INF_VAL,
    RelPositionalEncoding,
    RelPositionMultiHeadAttention,
)
from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.modules import lean_conformer, lean_products
from nemo_sortformer.modules.stacking import Stacking


class _AnyLengthEncoder(ConformerEncoder):
    """Makes no tables for lengths seen while the graph is recorded: they would be its longest."""

    def update_max_seq_length(self, seq_length: int, device: torch.device) -> None:
        """Positions are made inside the graph."""

    def _create_masks(self, att_context_size, padding_length, max_audio_length, offset, device):  # type: ignore[no-untyped-def]
        if self.att_context_style == "regular" and all(size == -1 for size in att_context_size) and offset is None:
            valid = lengths_to_mask(padding_length, max_audio_length)
            return ~valid, ~(valid[:, None] & valid[:, :, None])
        return super()._create_masks(att_context_size, padding_length, max_audio_length, offset, device)


class _AnyLengthPositions(RelPositionalEncoding):
    """Relative positions computed from the frames at hand, not looked up in a table of fixed size."""

    def forward(self, x: Tensor, cache_len: int = 0) -> tuple[Tensor, Tensor]:
        """Scaled states (batch, frames, width) and positions (1, 2 frames - 1, width)."""
        if self.xscale:
            x = x * self.xscale
        place = torch.arange(2 * x.shape[1] - 1, device=x.device)
        distance = (x.shape[1] - 1 - place).to(torch.float32)
        pairs = torch.arange(0, self.d_model, 2, device=x.device, dtype=torch.float32)
        angles = distance[:, None] * torch.exp(pairs * -(math.log(INF_VAL) / self.d_model))
        return x, torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None].to(x.dtype)


class _AnyLengthAttention(RelPositionMultiHeadAttention):
    """Attention with relative positions by plain products; each distance is looked up, not shifted into place."""

    def forward(self, query, key, value, mask, pos_emb, cache=None):  # type: ignore[no-untyped-def]
        """(batch, frames, width) to the same; `mask` is true where something is hidden."""
        query, key, value = self.forward_qkv(query, key, value)
        positions = self.linear_pos(pos_emb).unflatten(-1, (self.h, self.d_k)).transpose(1, 2)
        content = torch.matmul(query + self.pos_bias_u[:, None], key.transpose(-2, -1))
        by_distance = torch.matmul(query + self.pos_bias_v[:, None], positions.transpose(-2, -1))
        scores = (content + self.rel_shift(by_distance)[..., : query.shape[2]]) / self.s_d_k
        if mask is not None:
            scores = scores.masked_fill(mask[:, None], -INF_VAL)
        weights = scores.softmax(dim=-1)
        if mask is not None:
            weights = weights.masked_fill(mask[:, None], 0.0)
        return self.linear_out(torch.matmul(weights, value).transpose(1, 2).flatten(2))


class _AnyLengthConvSubsampling(ConvSubsampling):
    """Convolutions that are never split by size, which is not known while the graph is recorded."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, hops, bands) to (batch, frames, width), and the valid frames of each recording."""
        maps, lengths = self.conv(x, lengths)
        return self.out(maps.transpose(1, 2).flatten(2)), lengths


class _AnyLengthStacking(Stacking):
    """Stacked hops; the last frame is filled up with silence."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, hops, bands) to (batch, frames, width), and the valid frames of each recording."""
        factor = self.subsampling_factor
        frames = (x.shape[1] + factor - 1) // factor
        x = F.pad(x, (0, 0, 0, factor - 1))[:, : frames * factor]
        x = x if self.pre_norm is None else self.pre_norm(x)
        lengths = torch.div(lengths + factor - 1, factor, rounding_mode="floor")
        return self.proj_out(x.reshape(x.shape[0], frames, -1)), lengths


_SWAPS: dict[type[nn.Module], type[nn.Module]] = {
    ConformerEncoder: _AnyLengthEncoder,
    RelPositionalEncoding: _AnyLengthPositions,
    RelPositionMultiHeadAttention: _AnyLengthAttention,
    ConvSubsampling: _AnyLengthConvSubsampling,
    Stacking: _AnyLengthStacking,
}


_LEAN = (lean_conformer.__name__, lean_products.__name__)


@contextmanager
def exportable(model: nn.Module) -> Iterator[None]:
    """Let the parts of a model take ways through the same weights that export; afterwards they are as before.

    Only classes are changed, as in :mod:`nemo_sortformer.modules.lean_conformer`; parts of other classes stay.
    """
    before = {module: type(module) for module in model.modules()}
    try:
        for module, kind in before.items():
            theirs = kind.__base__ if kind.__module__ in _LEAN else kind
            module.__class__ = kind if theirs is None else _SWAPS.get(theirs, theirs)
        yield
    finally:
        for module, kind in before.items():
            module.__class__ = kind
