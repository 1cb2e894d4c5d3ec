# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Losses on tokens whose speaker tags stand in order of arrival: each is a mean over tokens, so that weights compare.

As the losses on frames they take scores before the softmax, compute in float32, never read padding, and give 0 with a
gradient where there is nothing to learn from.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_sortformer.functional.frames import lengths_to_mask


def token_cross_entropy(
    logits: Tensor, labels: Tensor, lengths: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of each token.

    Args:
        logits: scores before the softmax, shape (batch, tokens, vocabulary).
        labels: numbers of the right tokens, shape (batch, tokens); past each length they may be anything.
        lengths: valid tokens per recording, shape (batch,), each in [0, tokens]; all tokens where None.
        label_smoothing: share of the target given to all tokens alike, in [0, 1).

    Returns:
        Mean over the valid tokens of the batch: a float32 scalar, in nats.

    Raises:
        ValueError: a shape is wrong.
    """
    if logits.dim() != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"`logits` must be (batch, tokens, vocabulary) and `labels` (batch, tokens), but they are "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    scores = logits.float()
    if lengths is None:
        count = torch.full((), labels.numel(), device=logits.device)
        valid = torch.ones_like(labels, dtype=torch.bool)
    else:
        valid = lengths_to_mask(lengths, labels.shape[1])
        count = lengths.sum()
        scores = torch.where(valid[:, :, None], scores, 0.0)  # a product with 0 would keep NaN
    labels = torch.where(valid, labels, 0)
    each = F.cross_entropy(scores.transpose(1, 2), labels, reduction="none", label_smoothing=label_smoothing)
    return torch.where(valid, each, 0.0).sum() / count.clamp(min=1)


def ctc_count(labels: Tensor, label_lengths: Tensor, input_lengths: Tensor) -> Tensor:
    """Over how many tokens :func:`ctc_loss` is a mean, a scalar; arguments as there without the logits."""
    fits = ctc_fits(labels, label_lengths, input_lengths)
    return torch.where(fits, label_lengths.clamp(min=1), 0).sum()


def ctc_fits(labels: Tensor, label_lengths: Tensor, input_lengths: Tensor) -> Tensor:
    """Whether there are frames enough: one per token, and one between two equal tokens.

    Args:
        labels: shape (batch, tokens).
        label_lengths: valid tokens per recording, shape (batch,).
        input_lengths: valid frames per recording, shape (batch,).

    Returns:
        Shape (batch,), bool.
    """
    valid = lengths_to_mask(label_lengths, labels.shape[1])
    repeats = ((labels[:, 1:] == labels[:, :-1]) & valid[:, 1:]).sum(dim=1)
    return label_lengths + repeats <= input_lengths


def ctc_loss(logits: Tensor, labels: Tensor, label_lengths: Tensor, input_lengths: Tensor) -> Tensor:
    """Connectionist temporal classification; the last token of the vocabulary is the blank.

    Args:
        logits: scores before the softmax, shape (batch, frames, tokens and blank).
        labels: shape (batch, tokens), none of them the blank; past each length they may be anything.
        label_lengths: valid tokens per recording, shape (batch,); 0 asks for blanks alone.
        input_lengths: valid frames per recording, shape (batch,).

    Returns:
        The sum over recordings by the number of tokens, in which an empty label counts as one: a float32 scalar, in
        nats. A recording with too few frames for its tokens (:func:`ctc_fits`) is left out, its tokens too.

    Source: Graves et al. 2006.
    """
    blank = logits.shape[2] - 1
    fits = ctc_fits(labels, label_lengths, input_lengths)
    valid = lengths_to_mask(input_lengths, logits.shape[1])
    scores = torch.where(valid[:, :, None], logits.float(), 0.0)
    label_lengths = torch.where(fits, label_lengths, 0)
    labels = torch.where(lengths_to_mask(label_lengths, labels.shape[1]), labels, 0)
    if labels.shape[1] == 0:  # torch wants one column or more
        labels = labels.new_zeros(len(labels), 1)
    each = F.ctc_loss(
        scores.log_softmax(dim=-1).transpose(0, 1), labels, input_lengths, label_lengths, blank=blank, reduction="none"
    )
    total = torch.where(fits, each, 0.0).sum()
    return total / torch.where(fits, label_lengths.clamp(min=1), 0).sum().clamp(min=1)


def transducer_loss(logits: Tensor, labels: Tensor, label_lengths: Tensor, input_lengths: Tensor) -> Tensor:
    """Recurrent neural network transducer; the last token of the vocabulary is the blank.

    Frame by frame, over all numbers of tokens at once: what NeMo's loss does for one place after another on a CPU,
    where this one is many times as fast.

    Args:
        logits: scores before the softmax at each frame and behind each number of tokens, shape (batch, frames,
            tokens + 1, tokens and blank); log-probabilities are as good.
        labels: shape (batch, tokens), none of them the blank; past each length they may be anything.
        label_lengths: valid tokens per recording, shape (batch,).
        input_lengths: valid frames per recording, shape (batch,), each 1 or more.

    Returns:
        The sum over recordings by the number of tokens, in which an empty label counts as one: a float32 scalar, in
        nats.

    Source: Graves 2012 (arXiv:1211.3711), equations 16 to 18. Along the tokens the recursion is a running sum of
        exponentials, with the probabilities of the tokens divided out.
    """
    valid = lengths_to_mask(input_lengths, logits.shape[1])[:, :, None, None]
    log_probs = torch.where(valid, logits.float(), 0.0).log_softmax(dim=-1)
    labels = torch.where(lengths_to_mask(label_lengths, labels.shape[1]), labels, 0)
    blanks_BTU = log_probs[..., -1].double()
    index = labels[:, None, :, None].expand(-1, logits.shape[1], -1, 1)
    tokens_BTU = log_probs[:, :, :-1].gather(3, index)[..., 0].double()
    written_BTU = F.pad(tokens_BTU, (1, 0)).cumsum(dim=2)
    row_BU = written_BTU[:, 0]
    rows = [row_BU]
    for t in range(1, logits.shape[1]):
        row_BU = written_BTU[:, t] + torch.logcumsumexp(row_BU + blanks_BTU[:, t - 1] - written_BTU[:, t], dim=1)
        rows.append(row_BU)
    ends_BTU = torch.stack(rows, dim=1) + blanks_BTU
    batch = torch.arange(len(logits), device=logits.device)
    total = -ends_BTU[batch, input_lengths - 1, label_lengths].sum()
    return (total / label_lengths.clamp(min=1).sum().clamp(min=1)).float()
