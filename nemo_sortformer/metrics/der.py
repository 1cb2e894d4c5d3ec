# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Frame-level diarization error rate."""

import torch
from torch import Tensor
from torchmetrics import Metric

from nemo_sortformer.functional.counts import der_counts


class DiarizationErrorRate(Metric):
    """Missed, false alarm and confused speaker frames over the true ones, pooled over batches and ranks; no collar.

    A slot speaks where its probability is above `threshold`. It is compared with the speaker that the best mapping of
    its recording gives it or, with `as_is`, slot k with the k-th to arrive. Without any true speech the rate is 0
    where the answer is silent too, else 1.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    counts: Tensor

    def __init__(self, *, threshold: float = 0.5, as_is: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.as_is = as_is
        self.add_state("counts", default=torch.zeros(4, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probs: Tensor, labels: Tensor, lengths: Tensor | None = None) -> None:
        """Add a batch: probs and labels (batch, frames, slots), lengths (batch,)."""
        self.counts = self.counts + der_counts(probs, labels, lengths, threshold=self.threshold, as_is=self.as_is)

    def compute(self) -> Tensor:
        """Give the error rate, a float32 scalar, 0.1 for 10 %; above 1 where false alarms abound."""
        return _rates(self.counts)[0]

    def components(self) -> dict[str, Tensor]:
        """Give the rates "der", "missed", "false_alarm" and "confusion"; every rank has to call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return dict(zip(("der", "missed", "false_alarm", "confusion"), _rates(self.counts).unbind()))


def _rates(counts: Tensor) -> Tensor:
    """(missed, false alarm, confused, scored) -> (der, missed, false alarm, confusion) as rates."""
    errors, scored = counts[:3].float(), counts[3].float()
    errors = torch.cat((errors.sum(dim=0, keepdim=True), errors))
    return torch.where(scored > 0, errors / scored.clamp(min=1), (errors > 0).float())
