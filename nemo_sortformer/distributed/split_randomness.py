# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Random numbers under tensor parallelism: other ones per process where the work is split, the same where it is not.

All processes of a tensor-parallel group run with one torch seed, so that what they compute alike stays alike. Where
each has other heads, channels or frames, the same numbers would drop the same units of all parts, which is no dropout
of the whole. There the generator is turned aside: its next state comes from the common one and the rank, and behind it
the common one goes on. Nothing is remembered in between, so activation checkpointing, which restores the common state,
draws the same numbers when it computes again, and a checkpoint of the common state is enough to resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nemo_sortformer.distributed.tensor_group import TensorGroup

_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64: every bit of the input moves all
_WORD = 2**64 - 1


def seed_of_rank(common_seed: int, rank: int) -> int:
    """A seed for one process, in [0, 2^63): far from those of the others and of the neighbouring `common_seed`.

    Source: the finalizer of splitmix64, Steele et al. 2014 (doi:10.1145/2714064.2660195).
    """
    value = (common_seed + (rank + 1) * _MIX[0]) & _WORD
    value = ((value ^ (value >> 30)) * _MIX[1]) & _WORD
    value = ((value ^ (value >> 27)) * _MIX[2]) & _WORD
    return (value ^ (value >> 31)) >> 1


@contextmanager
def split_randomness(group: TensorGroup, device: torch.device, *, active: bool = True) -> Iterator[None]:
    """Draw other random numbers on each process of `group` inside the block; the common numbers go on behind it.

    Args:
        group: the processes, whose generators stand alike.
        device: where the numbers are drawn.
        active: false changes nothing: for evaluation, and where no dropout is asked for.
    """
    if not active:
        yield
        return
    generator = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
    common_seed = _draw_seed(generator)
    state = generator.get_state()
    generator.manual_seed(seed_of_rank(common_seed, group.rank))
    try:
        yield
    finally:
        generator.set_state(state)


def _draw_seed(generator: torch.Generator) -> int:
    """A number from the common generator, which moves on. On a GPU only its counter is read, with no wait for it."""
    if generator.device.type != "cuda":
        return int(torch.randint(2**62, (), generator=generator))
    offset = generator.get_offset()
    generator.set_offset(offset + 4)  # Philox counts in fours
    return seed_of_rank(generator.initial_seed(), offset)


class SplitDropout(nn.Dropout):
    """Dropout of a tensor of which each process holds another part."""

    group: TensorGroup

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's own name
        """Any shape -> same shape."""
        with split_randomness(self.group, input.device, active=self.training and self.p > 0):
            return super().forward(input)
