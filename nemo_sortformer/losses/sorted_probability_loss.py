# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The diarization loss where NeMo's own diarizer class expects one: on probabilities."""

import torch
from nemo.core.classes import typecheck
from nemo.core.neural_types import LabelsType, LengthsType, LossType, NeuralType, ProbsType
from torch import Tensor

from nemo_sortformer.losses.sorted_label_loss import SortedLabelLoss

_CLOSEST = 1e-6
"""Probabilities are taken to be at least so far from 0 and 1, so that the loss stays finite."""


class SortedProbabilityLoss(SortedLabelLoss):
    """As :class:`SortedLabelLoss`, with the ports of NeMo's `BCELoss`: a `loss._target_` of `SortformerEncLabelModel`.

    That class permutes the labels itself, once by arrival and once by fit, and calls its loss on both. This one sorts
    and assigns anew, for which the order it is given does not matter: both calls give the same value, and NeMo's mean
    of the two by `ats_weight` and `pil_weight` is that value. The weights that count are `sort_weight`, `pil_weight`.

    Where the model's float type has rounded a probability to 0 or 1 no loss can give a gradient any more: that is why
    :class:`SortedLabelLoss` takes logits. NeMo's class does not hand them out.
    """

    @property
    def input_types(self) -> dict[str, NeuralType]:
        axes = ("B", "T", "C")
        return {
            "probs": NeuralType(axes, ProbsType()),
            "labels": NeuralType(axes, LabelsType()),
            "target_lens": NeuralType(("B",), LengthsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"loss": NeuralType(elements_type=LossType())}

    @typecheck()
    def forward(self, probs: Tensor, labels: Tensor, target_lens: Tensor) -> Tensor:
        """Probabilities and labels (batch, frames, slots), labels in any order of the slots, lengths (batch,)."""
        num_frames = min(probs.shape[1], labels.shape[1])
        logits = torch.logit(probs[:, :num_frames].float(), eps=_CLOSEST)
        lengths = target_lens.clamp(max=num_frames)
        return self.total(self.parts(logits, labels[:, :num_frames].float(), lengths))
