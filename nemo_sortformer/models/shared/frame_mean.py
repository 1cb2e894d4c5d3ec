# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The mean of a loss over frames, pooled over batches and ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class FrameMean(Metric):
    """Pools means of batches by their number of frames: sums over batches and ranks, divided once.

    Torchmetrics' `MeanMetric` loses its weights where it is told to let NaN through, and a NaN loss must be seen.

    Args:
        empty: the mean of nothing.
    """

    full_state_update, higher_is_better, is_differentiable = False, False, False
    sums: Tensor

    def __init__(self, *, empty: float = math.nan) -> None:
        super().__init__()
        self.empty = empty
        self.add_state("sums", default=torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, num_frames: Tensor) -> None:
        """Add a batch: the mean over its frames, and their number, both scalars."""
        self.sums += torch.stack([mean.detach().double() * num_frames, num_frames.double()])

    def compute(self) -> Tensor:
        """The mean, a scalar; `empty` where there was no frame."""
        mean = self.sums[0] / self.sums[1]
        return torch.where(self.sums[1] == 0, self.empty, mean).float()
