# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Deep Sets: each frame sees itself and the mean of all frames, nothing else."""

from torch import Tensor, nn
from torch.nn import functional as F

from nemo_sortformer.modules.padding import checked_mask, clear_padding
from nemo_sortformer.modules.state_encoder import StateEncoder


class DeepSetsLayer(nn.Module):
    """h + W relu(A norm(h_t) + B mean_t norm(h_t)): a permutation-equivariant layer with a residual around it."""

    def __init__(self, hidden_size: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.itself = nn.Linear(hidden_size, inner_size)
        self.pooled = nn.Linear(hidden_size, inner_size, bias=False)
        self.output = nn.Linear(inner_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frames, hidden_size) -> same shape; `mask` bool, true = valid, none = all valid."""
        normed = clear_padding(self.norm(states), mask)
        if mask is None:
            mean = normed.mean(dim=1, keepdim=True)
        else:
            mean = normed.sum(dim=1, keepdim=True) / mask.sum(dim=1).clamp(min=1)[:, None, None]
        return states + self.dropout(self.output(F.relu(self.itself(normed) + self.pooled(mean))))


class DeepSetsEncoder(StateEncoder):
    """Permutation-equivariant layers: an answer for each frame, for which the order of the frames is nothing.

    It cannot know who came first, so it learns with a permutation invariant loss. All that a frame knows of the
    others is one mean vector per layer.

    Args:
        num_layers: number of layers.
        hidden_size: width D of input and output.
        inner_size: width inside a layer.
        dropout: probability of zeroing a unit of a layer's output while training.

    Raises:
        ValueError: `num_layers` below one.

    Source: Zaheer et al. 2017 (arXiv:1703.06114), the permutation-equivariant layer lambda x + gamma pool(x), with
        matrices for its two scalars as the states have many channels, and the mean as pooling; norm and residual
        around it are ours.
    """

    def __init__(self, num_layers: int, hidden_size: int, inner_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be at least 1, but is {num_layers}.")
        self.hidden_size = hidden_size
        self.layers = nn.ModuleList(DeepSetsLayer(hidden_size, inner_size, dropout) for _ in range(num_layers))
        self.final_layer_norm = nn.LayerNorm(hidden_size)

    def forward_with_labels(
        self, encoder_states: Tensor, encoder_mask: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """As :meth:`StateEncoder.forward_with_labels`; the list is empty."""
        mask = checked_mask(encoder_states, encoder_mask)
        states = clear_padding(encoder_states, mask)
        for layer in self.layers:
            states = layer(states, mask)
        return clear_padding(self.final_layer_norm(states), mask), []
