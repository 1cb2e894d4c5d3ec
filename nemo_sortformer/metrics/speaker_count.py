# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""How often the number of speakers is right."""

import torch
from torch import Tensor
from torchmetrics import Metric

from nemo_sortformer.functional.counts import speaker_count_counts


class SpeakerCountAccuracy(Metric):
    """Share of the recordings whose number of speakers is right, pooled over batches and ranks.

    A column counts as a speaker from `min_active_frames` active frames on, in the answer (probability above
    `threshold`) and in the truth alike.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    counts: Tensor

    def __init__(self, *, threshold: float = 0.5, min_active_frames: int = 3) -> None:
        super().__init__()
        self.threshold = threshold
        self.min_active_frames = min_active_frames
        self.add_state("counts", default=torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probs: Tensor, labels: Tensor, lengths: Tensor | None = None) -> None:
        """Add a batch: probs and labels (batch, frames, slots), lengths (batch,)."""
        self.counts = self.counts + speaker_count_counts(
            probs, labels, lengths, threshold=self.threshold, min_active_frames=self.min_active_frames
        )

    def compute(self) -> Tensor:
        """Give the share in [0, 1], a float32 scalar; 0 before the first recording."""
        return self.counts[0].float() / self.counts[1].clamp(min=1)
