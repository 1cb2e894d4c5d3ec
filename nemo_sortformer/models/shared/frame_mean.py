# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The mean of a loss over frames, pooled over batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class FrameMean(Metric):
    """Pools means of batches by their number of frames: sums over batches and ranks, divided once.

    Torchmetrics' `MeanMetric` loses its weights where it is told to let NaN through, and a NaN loss must be seen.
    """

    full_state_update, higher_is_better, is_differentiable = False, False, False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", default=torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, num_frames: Tensor) -> None:
        """Add a batch: the mean over its frames, and their number, both scalars."""
        self.sums += torch.stack([mean.detach().double() * num_frames, num_frames.double()])

    def compute(self) -> Tensor:
        """The mean, a scalar; NaN where there was no frame."""
        return (self.sums[0] / self.sums[1]).float()
