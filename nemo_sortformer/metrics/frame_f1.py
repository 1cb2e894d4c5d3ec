# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Frame-level F1 of speaker activity."""

import torch
from torch import Tensor
from torchmetrics import Metric

from nemo_sortformer.functional.counts import f1_counts


class FrameF1(Metric):
    """Harmonic mean of precision and recall of speaker frames, pooled over batches, ranks and slots.

    A slot speaks where its probability is above `threshold`. It is compared with the speaker that the best mapping of
    its recording gives it or, with `as_is`, slot k with the k-th to arrive. 1 where truth and answer are silent.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    counts: Tensor

    def __init__(self, *, threshold: float = 0.5, as_is: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.as_is = as_is
        self.add_state("counts", default=torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probs: Tensor, labels: Tensor, lengths: Tensor | None = None) -> None:
        """Add a batch: probs and labels (batch, frames, slots), lengths (batch,)."""
        self.counts = self.counts + f1_counts(probs, labels, lengths, threshold=self.threshold, as_is=self.as_is)

    def compute(self) -> Tensor:
        """Give F1 in [0, 1], a float32 scalar."""
        right, answered, true = self.counts.float().unbind()
        either = answered + true
        return torch.where(either > 0, 2 * right / either.clamp(min=1), 1.0)
