# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What a labeler says about a batch of sequences."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nemo_sortformer.functional.frames import lengths_to_mask


class LabelerOutput(NamedTuple):
    """What the model says about a batch; the fields of `DiarizerOutput`."""

    logits: Tensor
    """Label scores before the sigmoid, shape (batch, frames, slots); slot k is for the k-th class to arrive. With
    several kinds of labels their slots stand side by side."""
    lengths: Tensor
    """Valid frames per sequence, shape (batch,)."""
    layer_logits: list[Tensor]
    """The label estimates inside the state encoder, each (batch, frames, labels); none for a Transformer."""
    embeddings: Tensor | None
    """Unit vectors, near for frames of one class, shape (batch, frames, dim); None without an affinity head."""

    @property
    def probs(self) -> Tensor:
        """Label probabilities, shape (batch, frames, slots), zero past each length."""
        mask = lengths_to_mask(self.lengths, self.logits.shape[1])
        return torch.sigmoid(self.logits) * mask[:, :, None]
