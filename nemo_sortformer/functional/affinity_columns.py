# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The columns of `labels_from_affinities`, one after the other, with a backward pass of few large tensors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TINY = 1e-6
MOST_CERTAIN = math.log((1 - 1e-4) / 1e-4)
"""The largest score of "somebody new": its sigmoid is 1 - 1e-4."""


class Rules(NamedTuple):
    """The numbers of `labels_from_affinities` that are no tensors."""

    num_labels: int
    seed_frames: int
    seed_sharpness: float
    refinements: int


class Column(NamedTuple):
    """What became of one column; its label without the speech is `alike[-1] * found`."""

    left: Tensor  # speech that no column before explains, (B, T)
    score: Tensor  # of "somebody new", (B, T)
    opens: Tensor  # its sigmoid, (B, T)
    first: Tensor  # that it is true here for the first time, (B, T)
    found: Tensor  # that it is true anywhere, (B, 1)
    seed: Tensor  # `first` spread over the frames around, (B, T)
    weights: tuple[Tensor, ...]  # of the frames in each guess at the mean, (B, T)
    lengths: tuple[Tensor, ...]  # of these means, (B, 1, 1)
    means: tuple[Tensor, ...]  # of length one, (B, 1, D)
    alike: tuple[Tensor, ...]  # who is like it, (B, T)


def make_columns(
    voices: Tensor, speech: Tensor, never: Tensor, scale: Tensor, margin: Tensor, rules: Rules
) -> list[Column]:
    """All columns; see :func:`affinity_columns`."""
    left, columns = speech, []
    for _ in range(rules.num_labels):
        column = _column(voices, left, never, scale, margin, rules)
        columns.append(column)
        left = torch.addcmul(left, left, column.alike[-1] * column.found, value=-1)
    return columns


def _column(voices: Tensor, left: Tensor, never: Tensor, scale: Tensor, margin: Tensor, rules: Rules) -> Column:
    unexplained = box(left[:, None], rules.seed_frames)[:, 0]
    score = torch.add(never, unexplained, alpha=rules.seed_sharpness).clamp(max=MOST_CERTAIN)
    refused = F.softplus(score)  # -log(1 - g)
    so_far = refused.cumsum(dim=1)
    opens = score.sigmoid()
    first = opens * torch.exp(refused - so_far)
    found = -torch.expm1(-so_far[:, -1:])
    seed = box(first[:, None], rules.seed_frames)[:, 0]
    weights: list[Tensor] = [seed * left]
    lengths: list[Tensor] = []
    means: list[Tensor] = []
    alike: list[Tensor] = []
    for guess in range(rules.refinements + 1):
        if guess:
            weights.append(alike[-1] * found * left)
        mean = torch.bmm(weights[-1][:, None], voices) + TINY
        lengths.append(mean.norm(dim=-1, keepdim=True).clamp(min=TINY**2))
        means.append(mean / lengths[-1])
        alike.append(torch.sigmoid(scale * (torch.bmm(voices, means[-1].mT)[..., 0] - margin)))
    return Column(left, score, opens, first, found, seed, tuple(weights), tuple(lengths), tuple(means), tuple(alike))


def affinity_columns(
    voices: Tensor, speech: Tensor, never: Tensor, scale: Tensor, margin: Tensor, rules: Rules
) -> Tensor:
    """Who is heard where, column after column in order of arrival, all frames at once.

    Args:
        voices: e, unit vectors or zeros, shape (batch, frames, dim).
        speech: probability that any class is active, shape (batch, frames).
        never: score of "somebody new" where all is explained, shape (batch, frames); has no gradient.
        scale: a number.
        margin: a number.
        rules: the settings.

    Returns:
        The labels without the factor `speech`, shape (batch, frames, num_labels).
    """
    tensors = (voices, speech, scale, margin)
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and any(one.requires_grad for one in tensors)):
        return _together(make_columns(voices, speech, never, scale, margin, rules))
    labels: Tensor = _Columns.apply(voices, speech, never, scale, margin, rules)  # type: ignore[no-untyped-call]
    return labels


def _together(columns: list[Column]) -> Tensor:
    return torch.stack([column.alike[-1] * column.found for column in columns], dim=-1)


class _Columns(torch.autograd.Function):
    """:func:`affinity_columns`, whose gradient with respect to all voices is one product at the end.

    By automatic differentiation each column makes several tensors of the size of the voices and adds them up, which is
    most of the time and memory. Here only what has one number per frame is kept and passed on by column.
    """

    @staticmethod
    def forward(
        ctx: Any, voices: Tensor, speech: Tensor, never: Tensor, scale: Tensor, margin: Tensor, rules: Rules
    ) -> Tensor:
        columns = make_columns(voices, speech, never, scale, margin, rules)
        flat = [[field] if torch.is_tensor(field) else field for column in columns for field in column]
        ctx.save_for_backward(voices, scale, margin, *(one for field in flat for one in field))
        ctx.rules = rules
        return _together(columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        voices, scale, margin, *flat = ctx.saved_tensors
        columns = _columns_of(flat, ctx.rules)
        to_left = torch.zeros_like(columns[0].left)
        by_frame, by_width = [], []  # the gradient of the voices is the sum of their outer products
        for column, to_same in zip(reversed(columns), reversed(grad.unbind(dim=-1)), strict=True):
            same = column.alike[-1] * column.found
            to_same = torch.addcmul(to_same, to_left, column.left, value=-1)
            to_left = torch.addcmul(to_left, to_left, same, value=-1)
            to_found: Tensor | float = 0.0
            for guess in reversed(range(len(column.alike))):
                alike, mean, weights = column.alike[guess], column.means[guess], column.weights[guess]
                through = to_same * alike
                to_found = to_found + through.sum(dim=1, keepdim=True)
                to_score = torch.addcmul(through, through, alike, value=-1) * column.found  # before scale
                to_mean = torch.bmm(to_score[:, None], voices)
                along = torch.linalg.vecdot(to_mean, mean)[..., None]
                to_mean = scale * torch.addcmul(to_mean, mean, along, value=-1) / column.lengths[guess]
                to_weights = torch.bmm(voices, to_mean.mT)[..., 0]
                by_frame += [to_score, weights]
                by_width += [mean, to_mean]
                before = column.alike[guess - 1] * column.found if guess else column.seed
                to_left = torch.addcmul(to_left, to_weights, before)
                to_same = to_weights * column.left
            to_left = to_left + _through_arrival(column, to_same, to_found, ctx.rules)
        frames, widths = torch.stack(by_frame, dim=1), torch.cat(by_width, dim=1)
        along_all = torch.bmm(frames[:, ::2], voices).mul_(widths[:, ::2]).sum()
        to_scores = frames[:, ::2].sum()
        widths[:, ::2] *= scale
        to_voices = torch.bmm(frames.mT, widths)
        return to_voices, to_left, None, along_all - margin * to_scores, -scale * to_scores, None


def _through_arrival(column: Column, to_seed: Tensor, to_found: Tensor | float, rules: Rules) -> Tensor:
    """Gradient of what was left, by way of where the column opens."""
    to_first = box(to_seed[:, None], rules.seed_frames)[:, 0] * column.first
    sums = to_first.cumsum(dim=1)
    to_refused = sums + ((1 - column.found) * to_found - sums[:, -1:])
    to_score = torch.addcmul(to_first, column.opens, to_refused - to_first)
    to_score = to_score * (column.score < MOST_CERTAIN)
    return rules.seed_sharpness * box(to_score[:, None], rules.seed_frames)[:, 0]


def _columns_of(flat: list[Tensor], rules: Rules) -> list[Column]:
    """The columns that were saved as one list."""
    guesses = rules.refinements + 1
    size = 6 + 4 * guesses
    columns = []
    for start in range(0, len(flat), size):
        one = flat[start : start + size]
        weights, lengths, means, alike = (tuple(one[6 + i * guesses : 6 + (i + 1) * guesses]) for i in range(4))
        left, score, opens, first, found, seed = one[:6]
        columns.append(Column(left, score, opens, first, found, seed, weights, lengths, means, alike))
    return columns


def box(values: Tensor, frames: int, *, causal: bool = False) -> Tensor:
    """Mean over `frames` frames around each, or that end with each; beyond the ends there are zeros. (B, D, T)."""
    if frames == 1:
        return values
    if causal:
        return F.avg_pool1d(F.pad(values, (frames - 1, 0)), frames, stride=1)
    return F.avg_pool1d(values, frames, stride=1, padding=frames // 2)
