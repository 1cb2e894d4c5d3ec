# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What all state encoders are to a model: states in, states and label estimates out."""

from abc import abstractmethod

from nemo.core.classes import NeuralModule, typecheck
from nemo.core.neural_types import EncodedRepresentation, MaskType, NeuralType
from torch import Tensor


class StateEncoder(NeuralModule):
    """The base of the state encoders: one frame in, one frame out, with typed ports as NeMo's modules have them."""

    hidden_size: int
    """Width D of input and output."""

    @property
    def input_types(self) -> dict[str, NeuralType]:
        """States (batch, frames, width) and an optional mask (batch, frames), true = valid."""
        return {
            "encoder_states": NeuralType(("B", "T", "D"), EncodedRepresentation()),
            "encoder_mask": NeuralType(("B", "T"), MaskType(), optional=True),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        """States (batch, frames, width)."""
        return {"states": NeuralType(("B", "T", "D"), EncodedRepresentation())}

    @typecheck()
    def forward(self, encoder_states: Tensor, encoder_mask: Tensor | None = None) -> Tensor:
        """Encode; see :meth:`forward_with_labels`, of which this is the first result."""
        return self.forward_with_labels(encoder_states, encoder_mask)[0]

    @abstractmethod
    def forward_with_labels(
        self, encoder_states: Tensor, encoder_mask: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode, and give the label estimates of the layers as well.

        Args:
            encoder_states: shape (batch, frames, hidden_size).
            encoder_mask: true or 1 = valid, shape (batch, frames), padding at the end; none = all valid.

        Returns:
            The states, of the shape of the input and zero in the padding, and the logits (batch, frames, labels) of
            each layer that estimates labels: an empty list where none does.
        """
