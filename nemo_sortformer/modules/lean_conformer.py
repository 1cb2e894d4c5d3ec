# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""NeMo's ConformerEncoder at inference in little memory: same parameters and numbers, nothing quadratic in time."""

from __future__ import annotations

import torch
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.parts.submodules.conformer_modules import ConformerConvolution, ConformerLayer
from nemo.collections.asr.parts.submodules.multi_head_attention import (
    MultiHeadAttention,
    RelPositionalEncoding,
    RelPositionMultiHeadAttention,
)
from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling
from torch import Tensor
from torch.nn import functional as F

from nemo_sortformer.functional.attention import relative_attention
from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.modules.lean_products import lean_now, use_lean_products

CHUNK_FRAMES = 1024
"""Output frames of a layer's feed-forward and convolution modules computed at once."""
SUBSAMPLING_FRAMES = 64
"""Output frames of the subsampling computed at once; inside it a frame takes a hundred times as much as after it."""
_FRAMEWISE_NORMS = ("batch_norm", "fused_batch_norm", "layer_norm")
"""Norms of the convolution module that, in evaluation, treat each frame by itself."""


def use_lean_inference(encoder: object) -> object:
    """Let a NeMo ConformerEncoder run without (frames, frames) tensors wherever no gradient is asked for.

    The modules stay what and where they are, parameters, buffers and `state_dict` included: only their classes become
    subclasses that take another way through the same weights. Training, gradients, cached streaming, tracing and
    export take NeMo's way, as do encoders with adapters or local attention.

    Args:
        encoder: any module; one that is not exactly a NeMo ConformerEncoder is left alone.

    Returns:
        The same encoder.
    """
    if type(encoder) is not ConformerEncoder or encoder.self_attention_model not in ("rel_pos", "abs_pos"):
        return encoder
    encoder.__class__ = LeanConformerEncoder
    swaps = {
        ConvSubsampling: LeanConvSubsampling,
        RelPositionalEncoding: LeanRelPositionalEncoding,
        ConformerLayer: LeanConformerLayer,
        RelPositionMultiHeadAttention: LeanRelPositionAttention,
        MultiHeadAttention: LeanAttention,
    }
    for module in encoder.modules():
        lean = swaps.get(type(module))
        if lean is not None:
            module.__class__ = lean
    use_lean_products(encoder)
    return encoder


class LeanConformerEncoder(ConformerEncoder):
    """A ConformerEncoder without tables for lengths that never come and without masks that hide nothing."""

    def update_max_seq_length(self, seq_length: int, device: torch.device) -> None:
        """NeMo makes positions for as many frames as there are hops; here they are made when they are needed."""
        if not lean_now(self) or self.self_attention_model != "rel_pos":
            super().update_max_seq_length(seq_length, device)

    def _create_masks(self, att_context_size, padding_length, max_audio_length, offset, device):  # type: ignore[no-untyped-def]
        unlimited = self.att_context_style in ("regular", "chunked_limited_with_rc") and all(
            size == -1 for size in att_context_size
        )
        if not unlimited or offset is not None or not lean_now(self):
            return super()._create_masks(att_context_size, padding_length, max_audio_length, offset, device)
        padded = ~lengths_to_mask(padding_length, max_audio_length)
        if padded.device.type == "cpu" and not padded.any():  # a look at an accelerator would hold up the host
            return None, None
        return padded, None


class LeanRelPositionalEncoding(RelPositionalEncoding):
    """Relative positions, as many as the states at hand need."""

    def forward(self, x: Tensor, cache_len: int = 0) -> tuple[Tensor, Tensor]:
        """Scaled states (batch, frames, width) and positions (1, 2 frames - 1, width)."""
        if lean_now(self):
            self.extend_pe(x.size(1) + cache_len, x.device, self.pe.dtype)
        return super().forward(x, cache_len)


class LeanConvSubsampling(ConvSubsampling):
    """Convolutional subsampling in stretches of time; each begins a frame early, as far as the convolutions reach."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, hops, bands) to (batch, frames, width), and the valid frames of each recording."""
        factor = self.subsampling_factor
        frames = -(-x.shape[1] // factor)
        if not lean_now(self) or self.is_causal or self._subsampling not in ("striding", "dw_striding"):
            return super().forward(x, lengths)
        step = max(16, SUBSAMPLING_FRAMES // x.shape[0])
        parts = []
        for first in range(0, frames, step):
            start = max(first - 1, 0)
            stop = min(first + step, frames)
            # hops are counted from the stretch's beginning, a multiple of the factor: so every stage's mask stays
            hops = (lengths - start * factor).clamp(min=0)
            part = self._stretch(x[:, start * factor : stop * factor], hops)
            parts.append(part[:, first - start :])
        out_lengths = lengths
        for _ in range(self._sampling_num):
            out_lengths = torch.div(out_lengths + 1, 2, rounding_mode="floor")
        return torch.cat(parts, dim=1), out_lengths

    def _stretch(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The frames of one stretch of hops, shape (batch, hops, bands); masked only where something is padded."""
        if x.device.type == "cpu" and bool((lengths >= x.shape[1]).all()):
            maps = x.unsqueeze(1)
            for layer in self.conv:
                maps = layer(maps)
        else:
            maps, _ = self.conv(x, lengths.clamp(max=x.shape[1]))
        return self.out(maps.transpose(1, 2).flatten(2))


class LeanConformerLayer(ConformerLayer):
    """A Conformer layer whose wide inner states exist for one stretch of time at once."""

    def forward(self, x, att_mask=None, pos_emb=None, pad_mask=None, cache_last_channel=None, cache_last_time=None):  # type: ignore[no-untyped-def]
        """(batch, frames, width) to the same; masks are true where something is hidden, as in NeMo."""
        if cache_last_channel is not None or cache_last_time is not None or not self._lean():
            if att_mask is None and pad_mask is not None:
                att_mask = pad_mask[:, None, :] | pad_mask[:, :, None]
            return super().forward(x, att_mask, pos_emb, pad_mask, cache_last_channel, cache_last_time)
        states = torch.empty_like(x)
        for stretch in _stretches(x):
            part = x[:, stretch]
            states[:, stretch] = part + self.feed_forward1(self.norm_feed_forward1(part)) * self.fc_factor
        visible = None
        if att_mask is not None:
            visible = ~att_mask
        elif pad_mask is not None:
            visible = ~pad_mask
        states += self.self_attn.attend(self.norm_self_att(states), pos_emb, visible)
        out = torch.empty_like(states)
        for stretch in _stretches(x):
            part = states[:, stretch] + self._convolved(states, pad_mask, stretch)
            part += self.feed_forward2(self.norm_feed_forward2(part)) * self.fc_factor
            out[:, stretch] = self.norm_out(part)
        return out

    def _lean(self) -> bool:
        if not lean_now(self) or self.conv.norm_type not in _FRAMEWISE_NORMS or self.is_adapter_available():
            return False
        if type(self.conv) is not ConformerConvolution or not isinstance(self.self_attn, _LEAN_ATTENTION):
            return False  # somebody else has put a part of his own here
        hooked = any(part._forward_hooks or part._forward_pre_hooks for part in (self.conv, self.self_attn))
        return not hooked and not self.is_access_enabled(getattr(self, "model_guid", None))

    def _convolved(self, states: Tensor, pad_mask: Tensor | None, stretch: slice) -> Tensor:
        """What the convolution module adds to a stretch of the states, shape (batch, frames of it, width)."""
        conv: ConformerConvolution = self.conv
        depthwise = conv.depthwise_conv
        left, right = depthwise._left_padding, depthwise._right_padding
        first, last = max(stretch.start - left, 0), min(stretch.stop + right, states.shape[1])
        wide = conv.pointwise_conv1(self.norm_conv(states[:, first:last]).mT)
        wide = F.glu(wide, dim=1) if conv.pointwise_activation == "glu_" else conv.pointwise_activation(wide)
        if pad_mask is not None:
            wide = wide.masked_fill(pad_mask[:, None, first:last], 0.0)
        wide = F.pad(wide, (left - (stretch.start - first), right - (last - stretch.stop)))
        wide = F.conv1d(wide, depthwise.weight, depthwise.bias, groups=depthwise.groups)
        wide = conv.batch_norm(wide.mT).mT if conv.norm_type == "layer_norm" else conv.batch_norm(wide)
        return conv.pointwise_conv2(conv.activation(wide)).mT


class LeanAttention(MultiHeadAttention):
    """Multi-head attention on the fused kernel; on a CPU it takes no (frames, frames) tensor."""

    def attend(self, states: Tensor, pos_emb: Tensor | None, visible: Tensor | None) -> Tensor:
        """Mix (batch, frames, width); `visible` as in :func:`relative_attention`, `pos_emb` is not used."""
        query, key, value = self.forward_qkv(states, states, states)
        mask = visible
        if visible is not None:
            mask = visible[:, None, None, :] if visible.dim() == 2 else visible[:, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        if visible is not None:  # who sees nothing, and who is padding, gets zeros, as in NeMo
            seeing = visible if visible.dim() == 2 else visible.any(dim=-1)
            mixed = mixed.masked_fill(~seeing[:, None, :, None], 0.0)
        return self.linear_out(mixed.transpose(1, 2).flatten(2))


class LeanRelPositionAttention(RelPositionMultiHeadAttention):
    """Multi-head attention with relative positions, in blocks of queries."""

    def attend(self, states: Tensor, pos_emb: Tensor, visible: Tensor | None) -> Tensor:
        """Mix (batch, frames, width); positions (1, 2 frames - 1, width); `visible` is that of the function used."""
        query, key, value = self.forward_qkv(states, states, states)
        positions = self.linear_pos(pos_emb)[0].unflatten(-1, (self.h, self.d_k)).transpose(0, 1)
        with torch.autocast(states.device.type, enabled=False):  # the products are in the type of the projections
            u, v = self.pos_bias_u.to(query.dtype), self.pos_bias_v.to(query.dtype)
            mixed = relative_attention(query, key, value, positions.to(query.dtype), u, v, visible=visible)
        return self.linear_out(mixed.transpose(1, 2).flatten(2))


_LEAN_ATTENTION = (LeanAttention, LeanRelPositionAttention)


def _stretches(states: Tensor) -> list[slice]:
    """Stretches of the frames that hold, over the batch, about `CHUNK_FRAMES` frames each."""
    step = max(64, CHUNK_FRAMES // states.shape[0])
    return [slice(first, min(first + step, states.shape[1])) for first in range(0, states.shape[1], step)]
