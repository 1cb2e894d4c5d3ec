# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Permutation encoding: who is speaking, by order of arrival, as a vector that is added to the hidden states."""

import torch
from nemo.core.classes import NeuralModule, typecheck
from nemo.core.neural_types import EncodedRepresentation, NeuralType, ProbsType
from torch import Tensor, nn


class PermutationEncoding(NeuralModule):
    """Linear map without bias from label columns sorted by arrival to the width of the hidden states.

    Row r of the weight is the vector of the r-th to arrive; silence maps to zero, so it changes no state.

    Args:
        num_labels: number of label columns S.
        hidden_size: width D of the hidden states.

    Source: equal, within noise, to a small network and to fixed sinusoids at the training length, and better than
        both on longer sequences; the scale N(0, 1 / S) keeps the sum of all rows near unit variance.
    """

    def __init__(self, num_labels: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_labels, hidden_size) / num_labels**0.5)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {"sorted_probs": NeuralType(("B", "T", "C"), ProbsType())}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"encoding": NeuralType(("B", "T", "D"), EncodedRepresentation())}

    @typecheck()
    def forward(self, sorted_probs: Tensor) -> Tensor:
        """(batch, frames, num_labels) in [0, 1], columns in order of arrival -> (batch, frames, hidden_size)."""
        return sorted_probs.to(self.weight.dtype) @ self.weight

    def extra_repr(self) -> str:
        return f"num_labels={self.weight.shape[0]}, hidden_size={self.weight.shape[1]}"
