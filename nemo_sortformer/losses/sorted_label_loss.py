# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The diarization loss: sorted-label cross-entropy, permutation invariant loss, or both."""

from collections.abc import Sequence

import torch
from nemo.core.classes import Loss, typecheck
from nemo.core.neural_types import LabelsType, LengthsType, LogitsType, LossType, NeuralType
from torch import Tensor

from nemo_sortformer.functional.losses import permutation_invariant_loss, sorted_label_cross_entropy


class SortedLabelLoss(Loss):
    """Weighted sum of the sorted-label cross-entropy and the permutation invariant loss on logits.

    `sort_weight` and `pil_weight` are used as given, never rescaled; a loss of weight 0 is not computed.
    `tie_tolerance`, in frames, lets speakers who arrive so close together take the order that fits best (None: never).
    `pos_weight` multiplies the speech term: one number, or one per slot.
    """

    def __init__(
        self,
        sort_weight: float = 0.5,
        pil_weight: float = 0.5,
        tie_tolerance: int | None = None,
        pos_weight: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if sort_weight < 0 or pil_weight < 0 or sort_weight + pil_weight == 0:
            raise ValueError(
                "`sort_weight` and `pil_weight` must be 0 or more, and one of them above 0, "
                f"but are {sort_weight} and {pil_weight}."
            )
        self.sort_weight = sort_weight
        self.pil_weight = pil_weight
        self.tie_tolerance = tie_tolerance
        if pos_weight is not None:
            one = isinstance(pos_weight, float | int)
            pos_weight = torch.tensor(float(pos_weight) if one else [float(weight) for weight in pos_weight])
        self.register_buffer("pos_weight", pos_weight, persistent=False)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        axes = ("B", "T", "C")
        return {
            "logits": NeuralType(axes, LogitsType()),
            "labels": NeuralType(axes, LabelsType()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"loss": NeuralType(elements_type=LossType())}

    @typecheck()
    def forward(self, logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """Logits and labels (batch, frames, slots), lengths (batch,) -> scalar."""
        return self.total(self.parts(logits, labels, lengths))

    def parts(self, logits: Tensor, labels: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Give the losses apart and unweighted, under the names "sort" and "pil", those of weight 0 left out."""
        parts = {}
        if self.sort_weight:
            parts["sort"] = sorted_label_cross_entropy(
                logits, labels, lengths, tie_tolerance=self.tie_tolerance, pos_weight=self.pos_weight
            )
        if self.pil_weight:
            parts["pil"] = permutation_invariant_loss(logits, labels, lengths, pos_weight=self.pos_weight)
        return parts

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """Add the results of `parts` by their weights."""
        weights = {"sort": self.sort_weight, "pil": self.pil_weight}
        return torch.stack([weights[name] * part for name, part in parts.items()]).sum()
