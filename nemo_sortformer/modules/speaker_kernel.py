# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who speaks, added to what is heard: kernels of the speakers on the states that a text head reads."""

import torch
from nemo.core.classes import NeuralModule, typecheck
from nemo.core.neural_types import EncodedRepresentation, NeuralType, ProbsType
from torch import Tensor, nn

from nemo_sortformer.functional.kernels import add_speaker_kernel, sinusoidal_kernel


class SpeakerKernel(NeuralModule):
    """Adds to L2-normalized states, at each frame, the kernels of those who speak, weighted by how surely they do.

    Args:
        width: of the states.
        num_slots: number of speaker slots.
        kind: "sinusoidal" (fixed) or "learned" (starts there).
        norm: length that the states are brought to. At the 1 of the paper a sine outweighs them, as its own length is
            the root of half the width.

    Raises:
        ValueError: an unknown `kind`, or a number out of range.

    Source: Sortformer, Park et al. 2024 (arXiv:2409.06656); the learned kernels are our addition.
    """

    def __init__(self, width: int, num_slots: int, *, kind: str = "sinusoidal", norm: float = 1.0) -> None:
        super().__init__()
        if kind not in ("sinusoidal", "learned"):
            raise ValueError(f"`kind` must be 'sinusoidal' or 'learned', but is {kind!r}.")
        if norm <= 0:
            raise ValueError(f"`norm` must be above 0, but is {norm}.")
        self.norm = norm
        start = sinusoidal_kernel(num_slots, width)
        if kind == "learned":
            self.kernel = nn.Parameter(start)
        else:
            self.register_buffer("kernel", start, persistent=False)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "states": NeuralType(("B", "T", "D"), EncodedRepresentation()),
            "labels": NeuralType(("B", "T", "C"), ProbsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"states": NeuralType(("B", "T", "D"), EncodedRepresentation())}

    @typecheck()
    def forward(self, states: Tensor, labels: Tensor) -> Tensor:
        """States (batch, frames, width) and activity in [0, 1] (batch, frames, slots) -> states."""
        return add_speaker_kernel(states, labels, self.kernel, norm=self.norm)


def mixed_labels(true: Tensor, predicted: Tensor, true_share: float) -> Tensor:
    """Take the true labels of a part of the recordings, drawn at random, and the predicted ones of the others.

    Args:
        true: shape (batch, frames, slots).
        predicted: same shape.
        true_share: probability that a recording has its true labels, in [0, 1]; nothing is drawn at 0 and 1.
    """
    if true_share <= 0:
        return predicted
    if true_share >= 1:
        return true.to(predicted.dtype)
    chosen = torch.rand(len(true), 1, 1, device=true.device) < true_share
    return torch.where(chosen, true.to(predicted.dtype), predicted)
