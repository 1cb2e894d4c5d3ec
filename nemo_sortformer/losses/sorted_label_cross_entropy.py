# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One loss for all heads of a joint model: frames and tokens, both labelled in order of arrival."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from nemo.core.classes import Loss
from torch import Tensor

from nemo_sortformer.functional.losses import sorted_label_cross_entropy
from nemo_sortformer.functional.token_losses import ctc_count, ctc_fits, ctc_loss, token_cross_entropy, transducer_loss

Kind = Literal["binary", "categorical", "ctc", "transducer"]


class HeadLabels(NamedTuple):
    """What one head says about a batch, and the sorted labels that it should say."""

    kind: Kind
    """``binary``: frames by speaker slots, each active or not. ``categorical``: one token per position. ``ctc``: one
    token or none per frame, in the order of the labels. ``transducer``: any number of tokens per frame."""
    logits: Tensor
    """Scores: (batch, frames, slots), (batch, tokens, vocabulary), or (batch, frames, vocabulary), the blank last; of
    a transducer (batch, frames, tokens + 1, vocabulary)."""
    labels: Tensor
    """Activity (batch, frames, slots), or numbers of tokens (batch, tokens)."""
    lengths: Tensor
    """Valid frames or tokens of the labels, shape (batch,)."""
    input_lengths: Tensor | None = None
    """Valid frames of the scores, shape (batch,); for ``ctc`` and ``transducer``."""
    label_smoothing: float = 0.0
    """For ``categorical``."""
    pos_weight: float | Tensor | None = None
    """For ``binary``: factor on the speech term."""


class SortedLabelCrossEntropy(Loss):
    """Weighted sum of the cross-entropies of several heads whose labels are all sorted by arrival.

    Since the labels are sorted, and not matched to what a head says, each head has an ordinary loss, and all agree on
    who is speaker 0. The parts do not depend on each other: leave one out, and the others keep their numbers.

    Args:
        weights: factor on the loss of each head, by name; used as given, never rescaled.

    Raises:
        ValueError: a weight is not above 0.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        for name, weight in weights.items():
            if weight <= 0:
                raise ValueError(f"`weights` must be above 0, but that of `{name}` is {weight}. Leave it out.")
        self.weights = dict(weights)

    def forward(self, heads: Mapping[str, HeadLabels]) -> Tensor:
        """Give the total, a float32 scalar, of heads by name."""
        return self.total(self.parts(heads))

    def parts(self, heads: Mapping[str, HeadLabels]) -> dict[str, Tensor]:
        """Give the loss of each head, unweighted: means over frames and slots, or over tokens, in nats."""
        return {name: head_loss(head) for name, head in heads.items()}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Add the results of `parts` by their weights."""
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()


def head_loss(head: HeadLabels) -> Tensor:
    """The loss of one head, a float32 scalar."""
    if head.kind == "binary":
        return sorted_label_cross_entropy(head.logits, head.labels, head.lengths, pos_weight=head.pos_weight)
    if head.kind == "categorical":
        return token_cross_entropy(head.logits, head.labels, head.lengths, label_smoothing=head.label_smoothing)
    loss = ctc_loss if head.kind == "ctc" else transducer_loss
    return loss(head.logits, head.labels, head.lengths, _input_lengths(head))


def head_count(head: HeadLabels) -> Tensor:
    """Over how many frames or tokens :func:`head_loss` is a mean, a scalar."""
    if head.kind in ("binary", "categorical"):
        return head.lengths.sum()
    if head.kind == "transducer":
        return head.lengths.clamp(min=1).sum()
    return ctc_count(head.labels, head.lengths, _input_lengths(head))


def left_out(head: HeadLabels) -> Tensor | None:
    """Share of the texts that are left out of a CTC loss as they have more tokens than frames; None elsewhere."""
    if head.kind != "ctc":
        return None
    return (~ctc_fits(head.labels, head.lengths, _input_lengths(head))).float().mean()


def _input_lengths(head: HeadLabels) -> Tensor:
    if head.input_lengths is None:
        raise ValueError(f"A head of the kind `{head.kind}` needs `input_lengths`, the valid frames of its scores.")
    return head.input_lengths
