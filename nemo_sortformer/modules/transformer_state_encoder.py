# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""NeMo's Transformer encoder, with the same parameters and numbers, on fused attention."""

import torch
from nemo.core.classes import typecheck
from torch import Tensor, nn

from nemo_sortformer.modules.feed_forward import FeedForward
from nemo_sortformer.modules.padding import checked_mask, clear_padding, key_mask
from nemo_sortformer.modules.self_attention import SelfAttention
from nemo_sortformer.modules.state_encoder import StateEncoder


class TransformerStateLayer(nn.Module):
    """One Transformer layer, norms before (`pre_ln`) or after the sub-layers; parameters named as in NeMo."""

    def __init__(self, attention: SelfAttention, feed_forward: FeedForward, *, hidden_size: int, pre_ln: bool) -> None:
        super().__init__()
        self.pre_ln = pre_ln
        self.layer_norm_1 = nn.LayerNorm(hidden_size)
        self.first_sub_layer = attention
        self.layer_norm_2 = nn.LayerNorm(hidden_size)
        self.second_sub_layer = feed_forward

    def forward(self, states: Tensor, *, mask: Tensor | None, is_causal: bool) -> Tensor:
        """(batch, frames, hidden_size) -> same shape; `mask` and `is_causal` as in :class:`SelfAttention`."""
        if self.pre_ln:
            states = states + self.first_sub_layer(self.layer_norm_1(states), mask=mask, is_causal=is_causal)
            return states + self.second_sub_layer(self.layer_norm_2(states))
        states = self.layer_norm_1(states + self.first_sub_layer(states, mask=mask, is_causal=is_causal))
        return self.layer_norm_2(states + self.second_sub_layer(states))


class TransformerStateEncoder(StateEncoder):
    """The Transformer of NVIDIA's Sortformer: weights of NeMo's `TransformerEncoder` load strictly, outputs are equal.

    Equal on the valid frames, to rounding; padded frames are zero here. NeMo's adapters and cached memories are not
    offered. The attribute `diag` is NeMo's: none = each frame sees all, n = each frame sees up to n frames ahead.

    Args:
        num_layers: number of layers.
        hidden_size: width D of input and output.
        inner_size: inner width of the feed-forward networks.
        mask_future: frame t looks at frames <= t only.
        num_attention_heads: number of attention heads; divides `hidden_size`.
        attn_score_dropout: probability of zeroing an attention weight while training. Above zero, attention on a CPU
            takes time and memory quadratic in the frames, as it does in NeMo.
        attn_layer_dropout: probability of zeroing a unit of the attention's output while training.
        ffn_dropout: probability of zeroing a unit of the feed-forward network's output while training.
        hidden_act: "relu" or "gelu".
        pre_ln: norms before the sub-layers instead of after the residual sums.
        pre_ln_final_layer_norm: a last norm at the end; with `pre_ln` only.

    Raises:
        ValueError: `num_layers` below one, heads that do not divide the width, an unknown `hidden_act`.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        inner_size: int,
        mask_future: bool = False,
        num_attention_heads: int = 1,
        attn_score_dropout: float = 0.0,
        attn_layer_dropout: float = 0.0,
        ffn_dropout: float = 0.0,
        hidden_act: str = "relu",
        pre_ln: bool = False,
        pre_ln_final_layer_norm: bool = True,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be at least 1, but is {num_layers}.")
        self.hidden_size = hidden_size
        self.diag = 0 if mask_future else None
        self.layers = nn.ModuleList(
            TransformerStateLayer(
                SelfAttention(
                    hidden_size,
                    num_attention_heads,
                    score_dropout=attn_score_dropout,
                    layer_dropout=attn_layer_dropout,
                ),
                FeedForward(hidden_size, inner_size, hidden_act=hidden_act, dropout=ffn_dropout),
                hidden_size=hidden_size,
                pre_ln=pre_ln,
            )
            for _ in range(num_layers)
        )
        self.final_layer_norm = nn.LayerNorm(hidden_size) if pre_ln and pre_ln_final_layer_norm else None

    @typecheck()
    def forward(self, encoder_states: Tensor, encoder_mask: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            encoder_states: shape (batch, frames, hidden_size).
            encoder_mask: true or 1 = valid, shape (batch, frames), bool or numbers; none = all valid.

        Returns:
            The states, shape (batch, frames, hidden_size), zero in the padding.
        """
        valid = checked_mask(encoder_states, encoder_mask)
        states = clear_padding(encoder_states, valid)
        is_causal = self.diag == 0 and valid is None
        mask = key_mask(valid) if self.diag is None or is_causal else band_mask(valid, self.diag, like=states)
        for layer in self.layers:
            states = layer(states, mask=mask, is_causal=is_causal)
        if self.final_layer_norm is not None:
            states = self.final_layer_norm(states)
        return clear_padding(states, valid)

    def forward_with_labels(
        self, encoder_states: Tensor, encoder_mask: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """As :meth:`forward`, with the list of the layers' label estimates: always empty, as there are none."""
        return self(encoder_states=encoder_states, encoder_mask=encoder_mask), []


def band_mask(valid: Tensor | None, frames_ahead: int, *, like: Tensor) -> Tensor:
    """Which frames each frame may look at: valid ones, up to `frames_ahead` ahead, and always itself.

    Returns:
        A bool tensor, shape (batch or 1, 1, frames, frames), shared by heads and layers. A padded frame sees itself,
        so that no row is empty.
    """
    num_frames = like.shape[1]
    band = torch.ones(num_frames, num_frames, dtype=torch.bool, device=like.device).tril(frames_ahead)
    if valid is None:
        return band[None, None]
    itself = torch.eye(num_frames, dtype=torch.bool, device=like.device)
    return ((band & valid[:, None, :]) | itself)[:, None]
