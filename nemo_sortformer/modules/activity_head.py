# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""How many speak at a frame, whoever they are: what no permutation can disturb."""

from nemo.core.classes import NeuralModule, typecheck
from nemo.core.neural_types import EncodedRepresentation, LogitsType, NeuralType
from torch import Tensor, nn


class ActivityHead(NeuralModule):
    """Scores for "at least one speaks" and "at least two speak".

    The columns of a speaker head are each unsure while it is open who is who, so that little is left of a frame's
    speech or overlap when they are combined. These two are learnt from the first step on.

    Args:
        d_model: width of the states that it reads.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.scores = nn.Linear(d_model, 2)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {"states": NeuralType(("B", "T", "D"), EncodedRepresentation())}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"logits": NeuralType(("B", "T", "C"), LogitsType())}

    @typecheck()
    def forward(self, states: Tensor) -> Tensor:
        """(batch, frames, d_model) -> logits (batch, frames, 2) of at least one, and at least two speakers."""
        return self.scores(self.norm(states))
