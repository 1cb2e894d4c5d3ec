# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Embeddings in which frames of one speaker are near each other; trained by the affinity loss."""

import torch
from nemo.core.classes import NeuralModule, typecheck
from nemo.core.neural_types import AcousticEncodedRepresentation, EncodedRepresentation, NeuralType
from torch import Tensor, nn
from torch.nn import functional as F


class AffinityHead(NeuralModule):
    """Projects the acoustic encoder's frames to unit vectors whose inner products say "same speaker or not".

    Args:
        d_model: width of the acoustic encoder's output.
        dim: width of the embedding.
    """

    def __init__(self, d_model: int, dim: int = 64) -> None:
        super().__init__()
        self.dim = dim
        self.projection = nn.Linear(d_model, dim)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {"states": NeuralType(("B", "T", "D"), EncodedRepresentation())}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"embeddings": NeuralType(("B", "T", "D"), AcousticEncodedRepresentation())}

    @typecheck()
    def forward(self, states: Tensor) -> Tensor:
        """(batch, frames, d_model) -> (batch, frames, dim), of length one, in float32 or wider."""
        embeddings = self.projection(states)
        return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)
