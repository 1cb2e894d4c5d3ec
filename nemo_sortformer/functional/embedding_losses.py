# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Losses on frame embeddings that know which frames share a speaker, and nothing of slots or their order."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_sortformer.functional.checks import check_lengths, check_rank
from nemo_sortformer.functional.frames import lengths_to_mask

_RAREST = 0.02  # a kind of pair rarer than this is not weighted up further: a handful of pairs would make the loss


def affinity_loss(
    embeddings: Tensor,
    labels: Tensor,
    lengths: Tensor | None = None,
    *,
    scale: float = 8.0,
    margin: float = 0.4,
    max_frames: int = 64,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Same-speaker or different-speaker cross-entropy on pairs of frames of one recording.

    A pair has the logit `scale * (cosine - margin)`. Up to `max_frames` frames in which exactly one speaker is active
    are drawn from each recording; same and different pairs weigh half each.

    Args:
        embeddings: unit-norm frame embeddings, shape (batch, frames, dim).
        labels: speech activity in [0, 1], active above 0.5, shape (batch, frames, slots), columns in any order.
        lengths: valid frames per recording, shape (batch,); all frames where None.
        scale: steepness.
        margin: the cosine at which same and different are equally likely.
        max_frames: frames drawn per recording; the pairs grow with its square.
        generator: source of the draw; torch's global one where None.

    Returns:
        Mean over the recordings that have a pair: a float32 scalar, in nats. 0, with a gradient, where there is none.

    Raises:
        ValueError: a shape is wrong, or `max_frames` is below 2.
    """
    _check_embeddings(embeddings, labels, lengths)
    if max_frames < 2:
        raise ValueError(f"`max_frames` must be 2 or more, as a pair has two frames, but is {max_frames}.")
    batch, frames, _ = embeddings.shape
    active = labels > 0.5
    single = active.sum(dim=2) == 1
    if lengths is not None:
        single &= lengths_to_mask(lengths, frames)
    key = torch.rand((batch, frames), device=embeddings.device, generator=generator)
    key, chosen = key.masked_fill(~single, -1.0).topk(min(max_frames, frames), dim=1)
    drawn = key >= 0

    with torch.autocast(embeddings.device.type, enabled=False):
        picked = embeddings.gather(1, chosen[:, :, None].expand(-1, -1, embeddings.shape[2])).float()
        picked = torch.where(drawn[:, :, None], picked, 0.0)  # padding may hold anything
        speaker = active.gather(1, chosen[:, :, None].expand(-1, -1, active.shape[2])).float()
        logits = scale * (torch.bmm(picked, picked.mT) - margin)
        same = torch.bmm(speaker, speaker.mT)
        pair = (drawn[:, :, None] & drawn[:, None, :]).triu(diagonal=1).float()
        loss = F.binary_cross_entropy_with_logits(logits, same, reduction="none")

    num_pairs = pair.sum(dim=(1, 2))
    rarest = (num_pairs * _RAREST).clamp(min=1.0)
    alike, unlike = pair * same, pair * (1.0 - same)
    of_alike = (loss * alike).sum(dim=(1, 2)) / torch.maximum(alike.sum(dim=(1, 2)), rarest)
    of_unlike = (loss * unlike).sum(dim=(1, 2)) / torch.maximum(unlike.sum(dim=(1, 2)), rarest)
    return (0.5 * (of_alike + of_unlike)).sum() / (num_pairs > 0).sum().clamp(min=1)


def count_paired(labels: Tensor, lengths: Tensor | None = None) -> Tensor:
    """How many recordings have a pair for :func:`affinity_loss`, which is the mean over these: an integer scalar.

    Args:
        labels: speech activity in [0, 1], active above 0.5, shape (batch, frames, slots).
        lengths: valid frames per recording, shape (batch,); all frames where None.
    """
    single = (labels > 0.5).sum(dim=2) == 1
    if lengths is not None:
        single &= lengths_to_mask(lengths, labels.shape[1])
    return (single.sum(dim=1) >= 2).sum()


def deep_clustering_loss(embeddings: Tensor, labels: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Weighted squared error between the affinities of the embeddings and those of the labels, ||VV' - YY'||_W^2.

    Labels may have several active classes in a frame: their rows are scaled to unit norm, so that a pair of frames
    has the affinity 1 where the classes are the same and 0 where they share none. The weight of a pair is
    1 / sqrt(d_i d_j), where d_i is the summed affinity of frame i to all frames, so that a class that is active for
    long does not outweigh the others. Frames without an active class have no weight.

    Args:
        embeddings: unit-norm frame embeddings, shape (batch, frames, dim).
        labels: speech activity in [0, 1], active above 0.5, shape (batch, frames, slots), columns in any order.
        lengths: valid frames per recording, shape (batch,); all frames where None.

    Returns:
        Weighted mean over the pairs of each recording, mean over the recordings with an active frame: a float32
        scalar. 0, with a gradient, where there is none. Memory grows with frames, not with their square.

    Raises:
        ValueError: a shape is wrong.

    Source: Hershey et al. 2016 (arXiv:1508.04306), eq. 1 and its low-rank form.
    """
    _check_embeddings(embeddings, labels, lengths)
    active = labels > 0.5
    if lengths is not None:
        active = active & lengths_to_mask(lengths, labels.shape[1])[:, :, None]
    with torch.autocast(embeddings.device.type, enabled=False):
        heard = active.any(dim=2, keepdim=True)
        wanted = F.normalize(active.float(), dim=2)
        given = torch.where(heard, embeddings.float(), 0.0)
        affinity_sum = torch.bmm(wanted, wanted.sum(dim=1)[:, :, None])  # (batch, frames, 1), at least 1 where heard
        weight = torch.where(heard, affinity_sum.clamp(min=1.0).rsqrt(), 0.0)
        half = weight.sqrt()
        given, wanted = given * half, wanted * half
        error = (
            torch.bmm(given.mT, given).square().sum(dim=(1, 2))
            - 2.0 * torch.bmm(given.mT, wanted).square().sum(dim=(1, 2))
            + torch.bmm(wanted.mT, wanted).square().sum(dim=(1, 2))
        )
        total = weight.sum(dim=(1, 2))
        return (error / total.square().clamp(min=1.0)).sum() / (total > 0).sum().clamp(min=1)


def _check_embeddings(embeddings: Tensor, labels: Tensor, lengths: Tensor | None) -> None:
    check_rank(3, embeddings=embeddings, labels=labels)
    check_lengths(lengths, embeddings.shape[0])
    if embeddings.shape[:2] != labels.shape[:2]:
        raise ValueError(
            f"`labels` must have the batch and frames of `embeddings`, {tuple(embeddings.shape[:2])}, "
            f"but has {tuple(labels.shape[:2])}."
        )
