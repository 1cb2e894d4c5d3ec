# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The position-wise feed-forward network of a Transformer layer."""

from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}
"""Functions between the two linear maps, by NeMo's names."""


class FeedForward(nn.Module):
    """Two linear maps with a nonlinearity between; parameters named as in NeMo's `PositionWiseFF`.

    Args:
        hidden_size: width D of the states.
        inner_size: width between the two maps.
        hidden_act: "relu" or "gelu".
        dropout: probability of zeroing an output unit while training.

    Raises:
        ValueError: an unknown `hidden_act`.
    """

    def __init__(self, hidden_size: int, inner_size: int, *, hidden_act: str = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        if hidden_act not in ACTIVATIONS:
            raise ValueError(f"`hidden_act` must be one of {sorted(ACTIVATIONS)}, but is {hidden_act!r}.")
        self.hidden_act = hidden_act
        self.dense_in = nn.Linear(hidden_size, inner_size)
        self.dense_out = nn.Linear(inner_size, hidden_size)
        self.layer_dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(batch, frames, hidden_size) -> same shape."""
        return self.layer_dropout(self.dense_out(ACTIVATIONS[self.hidden_act](self.dense_in(states))))
