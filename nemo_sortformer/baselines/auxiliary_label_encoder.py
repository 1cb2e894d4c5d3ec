# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A loss in every layer, and nothing fed back: what supervision of the layers is worth by itself."""

from typing import Any

from torch import Tensor, nn

from nemo_sortformer.functional.arrival import arrival_order, gather_columns
from nemo_sortformer.modules.label_feedback import LabelFeedback
from nemo_sortformer.modules.sortformer_encoder import SortformerEncoder


class LabelEstimate(nn.Module):
    """The estimates of a :class:`LabelFeedback`, without its permutation encoding."""

    def __init__(self, feedback: LabelFeedback) -> None:
        super().__init__()
        self.measure, self.causal, self.sort = feedback.measure, feedback.causal, feedback.sort
        self.norm, self.labels = feedback.norm, feedback.labels

    def forward(self, states: Tensor, mask: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """The states as they came, and the logits as :class:`LabelFeedback` gives them."""
        logits = self.labels(self.norm(states)).float()
        if self.sort:
            order = arrival_order(logits.sigmoid(), lengths, measure=self.measure, causal=self.causal)
            logits = gather_columns(logits, order)
        return states, logits


class AuxiliaryLabelEncoder(SortformerEncoder):
    """A :class:`SortformerEncoder` whose layers estimate labels for the loss alone; train it with `layer_weight` > 0.

    The arguments are those of :class:`SortformerEncoder`. It has fewer parameters by the permutation encodings only.

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
                layer.feedback = LabelEstimate(layer.feedback)
