# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Set Transformer: attention between the frames of a set, through a few inducing points where frames are many."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_sortformer.modules.feed_forward import FeedForward
from nemo_sortformer.modules.padding import checked_mask, clear_padding, key_mask
from nemo_sortformer.modules.state_encoder import StateEncoder


class AttentionBlock(nn.Module):
    """The multi-head attention block MAB(X, Y): LayerNorm(H + rFF(H)) with H = LayerNorm(X + Multihead(X, Y, Y)).

    Args:
        hidden_size: width D.
        inner_size: inner width of the row-wise feed-forward network rFF.
        num_heads: attention heads; divides `hidden_size`.

    Raises:
        ValueError: the heads do not divide the width.

    Source: Lee et al. 2019 (arXiv:1810.00825), eq. 6 and 7.
    """

    def __init__(self, hidden_size: int, inner_size: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or hidden_size % num_heads:
            raise ValueError(f"`num_heads` must divide `hidden_size` = {hidden_size}, but is {num_heads}.")
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = FeedForward(hidden_size, inner_size)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let each query look at all keys.

        Args:
            queries: shape (batch, num_queries, hidden_size).
            keys: shape (batch, num_keys, hidden_size).
            mask: bool, true = may be looked at, shape (batch, 1, 1, num_keys); none = all.

        Returns:
            Shape of `queries`.
        """
        heads = (self._split(net(x)) for net, x in ((self.query, queries), (self.key, keys), (self.value, keys)))
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask)
        hidden = self.attention_norm(queries + self.output(mixed.transpose(1, 2).flatten(2)))
        return self.feed_forward_norm(hidden + self.feed_forward(hidden))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class InducedLayer(nn.Module):
    """ISAB: inducing points look at the frames, and the frames at what these have seen; MAB(X, MAB(I, X)).

    Source: Lee et al. 2019, eq. 9 and 10. Its cost is frames times points, not frames squared.
    """

    def __init__(self, hidden_size: int, inner_size: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.empty(num_points, hidden_size))
        nn.init.xavier_uniform_(self.points)
        self.gather = AttentionBlock(hidden_size, inner_size, num_heads)
        self.scatter = AttentionBlock(hidden_size, inner_size, num_heads)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frames, hidden_size) -> same shape; `mask` is that of :class:`AttentionBlock`."""
        points = self.points.expand(states.shape[0], -1, -1)
        return self.scatter(states, self.gather(points, states, mask))


class SetTransformerEncoder(StateEncoder):
    """Layers of attention without positions: permutation-equivariant, so blind to who came first.

    Args:
        num_layers: number of layers.
        hidden_size: width D of input and output.
        inner_size: inner width of the feed-forward networks.
        num_attention_heads: number of attention heads; divides `hidden_size`.
        num_inducing_points: m, the points that frames exchange messages through (ISAB); 0 lets each frame look at each
            (SAB).

    Raises:
        ValueError: a number out of range.

    Source: Lee et al. 2019 (arXiv:1810.00825), SAB eq. 8, ISAB eq. 9. With :class:`PoolingHead` behind it the model
        is the paper's encoder and decoder.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        inner_size: int,
        num_attention_heads: int = 1,
        num_inducing_points: int = 0,
    ) -> None:
        super().__init__()
        if num_layers < 1 or num_inducing_points < 0:
            raise ValueError(
                f"`num_layers` must be at least 1 and `num_inducing_points` at least 0, "
                f"but are {num_layers} and {num_inducing_points}."
            )
        self.hidden_size = hidden_size
        sizes = (hidden_size, inner_size, num_attention_heads)
        self.layers = nn.ModuleList(
            InducedLayer(*sizes, num_inducing_points) if num_inducing_points else AttentionBlock(*sizes)
            for _ in range(num_layers)
        )

    def forward_with_labels(
        self, encoder_states: Tensor, encoder_mask: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """As :meth:`StateEncoder.forward_with_labels`; the list is empty."""
        valid = checked_mask(encoder_states, encoder_mask)
        states, keys = clear_padding(encoder_states, valid), key_mask(valid)
        for layer in self.layers:
            states = layer(states, keys) if isinstance(layer, InducedLayer) else layer(states, states, keys)
        return clear_padding(states, valid), []
