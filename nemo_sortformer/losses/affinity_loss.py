# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Same-speaker or different-speaker loss on the embeddings of a middle layer."""

from nemo.core.classes import Loss, typecheck
from nemo.core.neural_types import EncodedRepresentation, LabelsType, LengthsType, LossType, NeuralType
from torch import Tensor

from nemo_sortformer.functional.embedding_losses import affinity_loss


class AffinityLoss(Loss):
    """Module form of :func:`~nemo_sortformer.functional.embedding_losses.affinity_loss`.

    A pair of frames has the logit `scale * (cosine - margin)`; `max_frames` frames are drawn from each recording.
    """

    def __init__(self, scale: float = 8.0, margin: float = 0.4, max_frames: int = 64) -> None:
        super().__init__()
        self.scale = scale
        self.margin = margin
        self.max_frames = max_frames

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "embeddings": NeuralType(("B", "T", "D"), EncodedRepresentation()),
            "labels": NeuralType(("B", "T", "C"), LabelsType()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"loss": NeuralType(elements_type=LossType())}

    @typecheck()
    def forward(self, embeddings: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings (batch, frames, dim), labels (batch, frames, slots), lengths (batch,) -> scalar."""
        return affinity_loss(
            embeddings, labels, lengths, scale=self.scale, margin=self.margin, max_frames=self.max_frames
        )
