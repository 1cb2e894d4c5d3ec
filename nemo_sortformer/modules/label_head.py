# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Label heads: encoder states to one logit per frame and class slot; one kind of label, or several side by side."""

from collections.abc import Mapping

import torch
from nemo.core.classes import NeuralModule, typecheck
from nemo.core.neural_types import EncodedRepresentation, LogitsType, MaskType, NeuralType
from torch import Tensor, nn


class StateHead(NeuralModule):
    """The base of all that makes label logits of an encoder's states, with typed ports as NeMo's modules have them."""

    @property
    def input_types(self) -> dict[str, NeuralType]:
        """States (batch, frames, width) and an optional mask (batch, frames), true = valid."""
        return {
            "states": NeuralType(("B", "T", "D"), EncodedRepresentation()),
            "mask": NeuralType(("B", "T"), MaskType(), optional=True),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        """Logits (batch, frames, slots)."""
        return {"logits": NeuralType(("B", "T", "C"), LogitsType())}


class LabelHead(StateHead):
    """A linear map from states to label logits; slot k is for the k-th class to arrive.

    Any module that is built with `hidden_size` and `num_classes` and called as this one can stand in its place; one
    that looks at whole sequences needs the mask, which a linear map does not.

    Args:
        hidden_size: width of the states.
        num_classes: number of slots.
        dropout: probability of zeroing a unit of the states while training, in [0, 1).

    Raises:
        ValueError: `num_classes` is below one, or `dropout` is outside [0, 1).
    """

    def __init__(self, hidden_size: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"`num_classes` must be at least 1, but is {num_classes}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), but is {dropout}.")
        self.num_classes = num_classes
        self.dropout = nn.Dropout(dropout)
        self.labels = nn.Linear(hidden_size, num_classes)
        nn.init.constant_(self.labels.bias, -1.0)  # before training, a class is more likely absent than not

    @typecheck()
    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, frames, hidden_size) -> (batch, frames, num_classes); `mask` (batch, frames) is not needed here."""
        return self.labels(self.dropout(states))


class LabelHeads(StateHead):
    """Several kinds of labels on the same states, for example speaker and language: their slots side by side.

    Args:
        heads: by the name of their kind of label; each as :class:`LabelHead`. The order is that of the slots.
    """

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(dict(heads))

    @typecheck()
    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, frames, hidden_size) -> (batch, frames, slots of all heads); `mask` (batch, frames), or none."""
        return torch.cat([head(states=states, mask=mask) for head in self.heads.values()], dim=-1)

    def forward_with_losses(
        self, states: Tensor, mask: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As :func:`forward_with_losses` on each head, with its columns of the labels."""
        logits, losses = [], {}
        first = 0
        for name, head in self.heads.items():
            own_labels = labels[..., first : first + head.num_classes]
            own_logits, own_losses = forward_with_losses(head, states, mask, own_labels)
            logits.append(own_logits)
            losses |= {f"{loss}_{name}": value for loss, value in own_losses.items()}
            first += head.num_classes
        return torch.cat(logits, dim=-1), losses


def has_own_losses(head: nn.Module) -> bool:
    """Whether a head brings losses beside those on its logits; see :func:`forward_with_losses`."""
    if isinstance(head, LabelHeads):
        return any(has_own_losses(one) for one in head.heads.values())
    return hasattr(head, "forward_with_losses")


def forward_with_losses(
    head: nn.Module, states: Tensor, mask: Tensor | None, labels: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a head as training needs it.

    Args:
        head: any label head; one that has losses of its own, or looks at the labels, has a method of this name.
        states: shape (batch, frames, hidden_size).
        mask: true = valid, shape (batch, frames); none = all valid.
        labels: activity, shape (batch, frames, num_classes).

    Returns:
        Logits, shape (batch, frames, num_classes), and the head's own losses by name, each times its weight.
    """
    if has_own_losses(head):
        return head.forward_with_losses(states, mask, labels)
    return head(states=states, mask=mask), {}
