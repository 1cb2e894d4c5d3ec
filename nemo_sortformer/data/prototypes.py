# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A made task with classes that were never seen: noisy mixtures of class prototypes that take turns.

Each class is a random vector, its prototype. A recording has a few classes that take turns, overlap now and then, and
leave silence between. Training draws its classes from a pool of prototypes, the test from fresh ones: what a network
knows by heart about the pool is of no use there. All is drawn in a few tensor operations, so that the task costs
nothing beside a training step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nemo_sortformer.config.merge import ConfigError

MIN_SEGMENT_FRAMES = 3


class PrototypeBatch(NamedTuple):
    """Recordings of one length, drawn together."""

    embeddings: Tensor
    """Shape (batch, frames, dim), float32."""
    labels: Tensor
    """0/1 activity, shape (batch, frames, num_slots), float32; the columns stand in random order."""
    prototypes: Tensor
    """Of the column's class, shape (batch, num_slots, dim); a column that is never active has one too."""


@dataclass(frozen=True, kw_only=True)
class PrototypeTask:
    """The distribution that recordings are drawn from.

    The embedding of a frame is the sum of the active classes' prototypes, each times a gain in [0.8, 1.2] that is
    constant over a segment, plus noise. Two classes that overlap never begin in the same frame.
    """

    dim: int = 16
    """Width of an embedding; a prototype is N(0, 1) in each."""
    num_slots: int = 4
    """Label columns, and most classes in one recording."""
    min_classes: int = 2
    """Fewest classes in one recording; short recordings may end before all have come."""
    pool_size: int | None = 64
    """Prototypes that training draws from; None: fresh ones each time, so that seen and unseen are the same."""
    noise: float = 0.5
    """Standard deviation of the noise in each dimension."""
    mean_segment_frames: float = 8.0
    """Mean length of a segment; the shortest has 3 frames, the rest is exponential."""
    silence: float = 0.15
    """Share of the segments in which nobody is active."""
    overlap: float = 0.2
    """Share of the segments that the class of the one before runs on into."""
    pool_seed: int = 1234
    """Decides which prototypes the pool has."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_classes <= self.num_slots:
            raise ConfigError(
                f"`min_classes` must be from 1 to `num_slots` = {self.num_slots}, but is {self.min_classes}."
            )
        if self.pool_size is not None and self.pool_size < self.num_slots:
            raise ConfigError(
                f"`pool_size` must be at least `num_slots` = {self.num_slots}, or null, but is {self.pool_size}."
            )
        if self.dim < 1 or self.noise < 0:
            raise ConfigError(f"`dim` must be at least 1 and `noise` at least 0, but are {self.dim} and {self.noise}.")
        if self.mean_segment_frames <= MIN_SEGMENT_FRAMES:
            raise ConfigError(
                f"`mean_segment_frames` must be above {MIN_SEGMENT_FRAMES}, but is {self.mean_segment_frames}."
            )
        if min(self.silence, self.overlap) < 0 or self.silence + self.overlap > 1:
            raise ConfigError(
                "`silence` and `overlap` must be at least 0 and together at most 1, "
                f"but are {self.silence} and {self.overlap}."
            )

    def pool(self) -> Tensor | None:
        """The prototypes of the training classes, shape (pool_size, dim), or None."""
        if self.pool_size is None:
            return None
        return torch.randn(self.pool_size, self.dim, generator=torch.Generator().manual_seed(self.pool_seed))

    def draw(self, batch: int, frames: int, generator: torch.Generator, *, unseen: bool = False) -> PrototypeBatch:
        """Draw recordings.

        Args:
            batch: number of recordings.
            frames: length of each.
            generator: source of chance; the same state gives the same recordings.
            unseen: classes that no training recording has; the turns are of the same distribution.
        """
        activity = self._turns(batch, frames, generator)
        prototypes = torch.randn(batch, self.num_slots, self.dim, generator=generator)
        pool = None if unseen else self.pool()
        if pool is not None:
            chosen = torch.rand(batch, len(pool), generator=generator).argsort(dim=1)[:, : self.num_slots]
            prototypes = pool[chosen]
        noise = torch.randn(batch, frames, self.dim, generator=generator)
        return PrototypeBatch(
            embeddings=torch.bmm(activity, prototypes) + self.noise * noise,
            labels=(activity > 0).float(),
            prototypes=prototypes,
        )

    def _turns(self, batch: int, frames: int, generator: torch.Generator) -> Tensor:
        """The gain of each class at each frame, 0 where it is silent, shape (batch, frames, num_slots)."""
        segments = -(-frames // MIN_SEGMENT_FRAMES)
        extra = torch.empty(batch, segments).exponential_(
            1 / (self.mean_segment_frames - MIN_SEGMENT_FRAMES), generator=generator
        )
        ends = (MIN_SEGMENT_FRAMES + extra.floor()).cumsum(dim=1)
        time = torch.arange(frames, dtype=ends.dtype).expand(batch, -1).contiguous()
        segment = torch.searchsorted(ends, time, right=True)

        classes = torch.randint(self.min_classes, self.num_slots + 1, (batch, 1), generator=generator)
        step = 1 + (torch.rand(batch, segments, generator=generator) * (classes - 1)).floor().long()
        turn = step.cumsum(dim=1) % classes  # never the class of the segment before, unless there is only one
        column = torch.rand(batch, self.num_slots, generator=generator).argsort(dim=1).gather(1, turn)
        chance = torch.rand(batch, segments, generator=generator)
        silent, overlapped = chance < self.silence, chance >= 1 - self.overlap
        silent[:, 0] = overlapped[:, 0] = False
        overlapped &= ~silent.roll(1, dims=1)  # the class runs on, so it must have been active
        gain = torch.empty(batch, segments, self.num_slots).uniform_(0.8, 1.2, generator=generator)

        active = torch.zeros(batch, segments, self.num_slots)
        active.scatter_(2, column.roll(1, dims=1)[:, :, None], overlapped[:, :, None].float())
        active.scatter_(2, column[:, :, None], 1.0)
        active *= ~silent[:, :, None]
        return (active * gain).gather(1, segment[:, :, None].expand(-1, -1, self.num_slots))
