# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A loss in every layer, and nothing fed back: what supervision of the layers is worth by itself."""

from typing import Any

from torch import Tensor, nn

from nemo_sortformer.modules.sortformer_encoder import SortformerEncoder


class EstimateOnly(nn.Module):
    """The label estimates of a feedback module, whose permutation encoding is left out."""

    def __init__(self, feedback: nn.Module) -> None:
        super().__init__()
        self.feedback = feedback
        feedback.encoding.requires_grad_(False)

    def forward(self, states: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        """The states as they came, and the logits that the feedback module gives."""
        return states, self.feedback(states, *arguments)[1]


class AuxiliaryLabelEncoder(SortformerEncoder):
    """A :class:`SortformerEncoder` whose layers estimate labels for the loss alone; train it with `layer_weight` > 0.

    The arguments are those of :class:`SortformerEncoder`; it trains all of its weights but the permutation encodings.

    Source: RX-EEND (Yu et al. 2022, arXiv:2110.07116), a loss on each block's output, with our labels' order.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        inner_size: int,
        num_attention_heads: int = 1,
        num_labels: int = 4,
        **settings: Any,
    ) -> None:
        super().__init__(num_layers, hidden_size, inner_size, num_attention_heads, num_labels, **settings)
        for layer in self.layers:
            if layer.feedback is not None:
                layer.feedback = EstimateOnly(layer.feedback)
