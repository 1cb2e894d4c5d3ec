# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What makes a Transformer layer a SortFormer layer: estimate labels, sort them by arrival, add them back."""

import torch
from torch import Tensor, nn

from nemo_sortformer.functional.arrival import arrival_gate, arrival_order, gather_columns
from nemo_sortformer.modules.permutation_encoding import PermutationEncoding


class LabelFeedback(nn.Module):
    """Estimates speaker labels from hidden states and adds them, in order of arrival, to the states.

    The order carries no gradient, the label values do, so the estimates learn from the final loss alone. As the
    columns are sorted, the rows of `labels` may come in any order: a layer after this one cannot tell.

    Args:
        hidden_size: width D of the states.
        num_labels: number of label columns S.
        measure: what "arrival" means: "hard", the first frame with a probability above one half, or "soft", the
            expected first frame.
        causal: the addition at frame t depends on frames <= t only; then `measure` is "hard".
        sort: false leaves the columns as they are: the control that shows what the sort is worth.
    """

    def __init__(self, hidden_size: int, num_labels: int, *, measure: str, causal: bool, sort: bool) -> None:
        super().__init__()
        self.measure, self.causal, self.sort = measure, causal, sort
        self.norm = nn.LayerNorm(hidden_size)
        self.labels = nn.Linear(hidden_size, num_labels)
        nn.init.constant_(self.labels.bias, -1.0)  # before training, a speaker is more likely silent than not
        self.encoding = PermutationEncoding(num_labels, hidden_size)

    def forward(
        self, states: Tensor, mask: Tensor | None, lengths: Tensor | None, embeddings: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Estimate, sort, add.

        Args:
            states: shape (batch, frames, hidden_size).
            mask: bool, true = valid, shape (batch, frames), with the padding at the end; none = all valid.
            lengths: the number of valid frames, shape (batch,); none with `mask`.
            embeddings: not read; :class:`AffinityFeedback` needs them.

        Returns:
            The states with the permutation encoding added, and the logits of the estimates, shape
            (batch, frames, num_labels), in order of arrival (unless `sort` is false), in float32 or wider.
        """
        logits = self.labels(self.norm(states))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probs = logits.sigmoid()
        if mask is not None:
            probs = probs.masked_fill(~mask.unsqueeze(-1), 0.0)
        if self.sort:
            order = arrival_order(probs, lengths, measure=self.measure, causal=self.causal)
            if self.causal:  # where a column lands before its arrival is knowledge of the future, so it is hidden
                probs = probs * arrival_gate(probs, lengths)
            probs, logits = gather_columns(probs, order), gather_columns(logits, order)
        return states + self.encoding(sorted_probs=probs).to(states.dtype), logits
