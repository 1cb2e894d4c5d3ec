# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Labels in order of arrival out of embeddings: whoever is not explained by those before opens the next column."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-6


def labels_from_affinities(
    embeddings: Tensor,
    speech: Tensor,
    num_labels: int,
    mask: Tensor | None = None,
    *,
    scale: float | Tensor = 16.0,
    margin: float | Tensor = 0.5,
    smooth_frames: int = 13,
    seed_frames: int = 13,
    seed_threshold: float = 0.6,
    seed_sharpness: float = 32.0,
    refinements: int = 2,
    causal: bool = False,
) -> Tensor:
    """Estimate label columns in order of arrival from what is alike.

    Column by column, with e the smoothed embeddings and r the speech that no column before explains:

        g_t = sigmoid(seed_sharpness * (mean of r around t - seed_threshold))     is somebody unexplained here?
        w_t = g_t * prod_{s<t} (1 - g_s)                                          ... for the first time?
        p   = normalize(sum_t w_t r_t e_t)                                        how they sound
        a_t = sigmoid(scale * (e_t . p - margin)) * sum_t w_t                     where else they are heard
        p   = normalize(sum_t a_t r_t e_t), and a again                           `refinements` times
        y_t = speech_t * a_t;  r_t <- r_t * (1 - a_t)

    It is differentiable, parallel over time, linear in the number of frames, and needs no sort: column k is who is
    first unexplained after columns 1 to k - 1 are. So arrivals are in order wherever classes are apart; classes that
    are alike share a column. All is computed in float32.

    Args:
        embeddings: unit vectors, near for frames of one class, shape (batch, frames, dim).
        speech: probability that any class is active, shape (batch, frames).
        num_labels: number of columns S.
        mask: bool, true = valid, shape (batch, frames), padding at the end; none = all valid.
        scale: how fast the probability of "the same class" rises with the cosine.
        margin: cosine at which same and different are equally likely.
        smooth_frames: embeddings are averaged over so many frames, odd.
        seed_frames: a class opens a column where it is unexplained over about so many frames, odd.
        seed_threshold: share of unexplained speech in these frames above which it is somebody new.
        seed_sharpness: how sharp that threshold is.
        refinements: how often a class's mean is made anew from the frames that it attracts.
        causal: row t depends on frames <= t only; all means are running means then.

    Returns:
        Probabilities, shape (batch, frames, num_labels), float32 or wider; a column is near zero throughout where
        nobody is left for it.

    Raises:
        ValueError: a shape or number is wrong.

    Source: our own; docs/claims.md has what it is worth. Explaining away one class after the other is what EEND-EDA's
        attractors and leader-follower clustering do in sequence over classes or frames.
    """
    _check(embeddings, speech, num_labels, smooth_frames, seed_frames, refinements)
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    embeddings, speech = embeddings.to(dtype), speech.to(dtype)
    if mask is not None:
        embeddings, speech = embeddings.masked_fill(~mask[..., None], 0.0), speech.masked_fill(~mask, 0.0)
    voices_BTD = F.normalize(_box(embeddings * speech[..., None], smooth_frames, causal=causal), dim=-1, eps=_TINY)

    def total(values: Tensor) -> Tensor:
        return values.cumsum(dim=1) if causal else values.sum(dim=1, keepdim=True)

    def likeness(mean: Tensor, found: Tensor) -> Tensor:
        cosine = (voices_BTD * F.normalize(mean + _TINY, dim=-1)).sum(dim=-1)
        return torch.sigmoid(scale * (cosine - margin)) * found

    heard = _box(speech[..., None], seed_frames, causal=True)[..., 0] if causal else None
    left, columns = speech, []
    for _ in range(num_labels):
        if heard is not None:  # the frames just before an arrival were nobody's when they were heard, and are not asked again
            unexplained = heard * left / speech.clamp(min=_TINY)
        else:
            unexplained = _box(left[..., None], seed_frames, causal=False)[..., 0]
        start = torch.sigmoid(seed_sharpness * (unexplained - seed_threshold)).clamp(max=1 - 1e-4)
        if mask is not None:
            start = start.masked_fill(~mask, 0.0)
        not_before = F.pad(torch.log1p(-start).cumsum(dim=1), (1, 0))[:, :-1].exp()
        first = start * not_before
        found = total(first).clamp(max=1.0)
        seed = first if causal else _box(first[..., None], seed_frames, causal=False)[..., 0]
        seed = (seed * left)[..., None] * voices_BTD
        same = likeness(total(seed), found)
        for _ in range(refinements):
            attracted = (same * left)[..., None] * voices_BTD
            same = likeness(total(attracted + seed if causal else attracted), found)
        columns.append(speech * same)
        left = left * (1 - same)
    return torch.stack(columns, dim=-1)


def _box(values: Tensor, frames: int, *, causal: bool) -> Tensor:
    """Mean over `frames` frames around each, or that end with each; beyond the ends there are zeros. (B, T, D)."""
    if frames == 1:
        return values
    pad = (frames - 1, 0) if causal else (frames // 2, frames // 2)
    return F.avg_pool1d(F.pad(values.mT, pad), frames, stride=1).mT


def _check(
    embeddings: Tensor, speech: Tensor, num_labels: int, smooth_frames: int, seed_frames: int, refinements: int
) -> None:
    if embeddings.ndim != 3 or speech.shape != embeddings.shape[:2]:
        raise ValueError(
            "`embeddings` and `speech` must be (batch, frames, dim) and (batch, frames) of the same frames, but are "
            f"{tuple(embeddings.shape)} and {tuple(speech.shape)}."
        )
    if num_labels < 1 or refinements < 0:
        raise ValueError(
            f"`num_labels` must be at least 1 and `refinements` at least 0, but are {num_labels} and {refinements}."
        )
    for name, value in (("smooth_frames", smooth_frames), ("seed_frames", seed_frames)):
        if value < 1 or value % 2 == 0:
            raise ValueError(f"`{name}` must be odd and at least 1, as it has a middle frame, but is {value}.")
