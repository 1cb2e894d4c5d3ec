# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What a joint model says about a batch of recordings."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.losses.sorted_label_cross_entropy import HeadLabels


class JointOutput(NamedTuple):
    """The fields of `DiarizerOutput`, what the text heads read, and in training what they say."""

    logits: Tensor
    """Speech scores before the sigmoid, shape (batch, frames, slots); slot k is for the k-th speaker to arrive."""
    lengths: Tensor
    """Valid frames per recording, shape (batch,)."""
    layer_logits: list[Tensor]
    """The label estimates inside the state encoder, each as `logits`."""
    embeddings: Tensor | None
    """Unit vectors, near for frames of one speaker, shape (batch, frames, dim); None without an affinity head."""
    activity_logits: Tensor | None
    """Scores of at least one and at least two speakers, shape (batch, frames, 2); None without an activity head."""
    states: Tensor
    """Of the state encoder, shape (batch, frames, hidden_size)."""
    features: Tensor
    """Of the acoustic encoder, shape (batch, frames, d_model)."""
    heads: dict[str, HeadLabels] | None = None
    """What each text head says and should say; None where no text was given."""

    @property
    def probs(self) -> Tensor:
        """Speech probabilities, shape (batch, frames, slots), zero past each length."""
        return torch.sigmoid(self.logits) * self.mask[:, :, None]

    @property
    def mask(self) -> Tensor:
        """True where a frame is valid, shape (batch, frames)."""
        return lengths_to_mask(self.lengths, self.logits.shape[1])


class LossParts(dict[str, Tensor]):
    """The parts of the loss by name, and of how many tokens those of the text heads are means."""

    def __init__(self, parts: dict[str, Tensor], counts: dict[str, Tensor]) -> None:
        super().__init__(parts)
        self.counts = counts
