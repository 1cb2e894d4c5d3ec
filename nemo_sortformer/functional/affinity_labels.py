# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Labels in order of arrival out of embeddings: whoever is not explained by those before opens the next column."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_sortformer.functional.affinity_columns import MOST_CERTAIN, TINY, Rules, affinity_columns, box

_NEVER = -1e4
"""A score of "somebody new" of which the sigmoid is zero."""


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
    never = torch.full_like(speech, -seed_sharpness * seed_threshold)
    if mask is not None:
        embeddings, speech = embeddings.masked_fill(~mask[..., None], 0.0), speech.masked_fill(~mask, 0.0)
        never = never.masked_fill(~mask, _NEVER)
    heard = (embeddings * speech[..., None]).mT
    voices = F.normalize(box(heard, smooth_frames, causal=causal).mT, dim=-1, eps=TINY).contiguous()
    scale, margin = (torch.as_tensor(one, dtype=dtype, device=speech.device) for one in (scale, margin))
    make = _columns_without_the_future if causal else affinity_columns
    rules = Rules(num_labels, seed_frames, seed_sharpness, refinements)
    return speech[..., None] * make(voices, speech, never, scale, margin, rules)


def _columns_without_the_future(
    voices: Tensor, speech: Tensor, never: Tensor, scale: Tensor, margin: Tensor, rules: Rules
) -> Tensor:
    """As :func:`affinity_columns`, with running means; these are vectors at each frame, so that it costs more."""

    def likeness(weights: Tensor, found: Tensor) -> Tensor:
        mean = (weights[..., None] * voices).cumsum(dim=1) + TINY
        cosine = torch.linalg.vecdot(voices, mean) / mean.norm(dim=-1).clamp(min=TINY**2)
        return torch.sigmoid(scale * (cosine - margin)) * found

    heard = box(speech[:, None], rules.seed_frames, causal=True)[:, 0] / speech.clamp(min=TINY)
    left, columns = speech, []
    for _ in range(rules.num_labels):
        # the frames just before an arrival were nobody's when they were heard, and are not asked again
        score = torch.add(never, heard * left, alpha=rules.seed_sharpness).clamp(max=MOST_CERTAIN)
        refused = F.softplus(score)  # -log(1 - g)
        so_far = refused.cumsum(dim=1)
        seed = score.sigmoid() * torch.exp(refused - so_far) * left
        found = -torch.expm1(-so_far)
        same = likeness(seed, found)
        for _ in range(rules.refinements):
            same = likeness(torch.addcmul(seed, same, left), found)
        columns.append(same)
        left = torch.addcmul(left, left, same, value=-1)
    return torch.stack(columns, dim=-1)


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
