# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Attention in blocks: the numbers of the whole matrices for any block, gradients, and no tensor of frames squared."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from nemo_sortformer.functional.attention import relative_attention


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any tensor had which an operation made or was given."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [part.numel() for part in tree_iter((args, result)) if isinstance(part, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return result


def inputs(batch, heads, frames, width, *, seed=0, dtype=torch.float64):
    """Query, key, value, positions and the two biases."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, frames, width)] * 3 + [(heads, 2 * frames - 1, width)] + [(heads, width)] * 2
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def by_definition(query, key, value, positions, content_bias, position_bias, visible=None):
    """Every score one by one, as the formula says it."""
    batch, heads, frames, width = query.shape
    scores = torch.empty(batch, heads, frames, frames, dtype=query.dtype)
    for i in range(frames):
        for j in range(frames):
            place = positions[:, frames - 1 - (i - j)]
            content = ((query[:, :, i] + content_bias) * key[:, :, j]).sum(-1)
            scores[:, :, i, j] = (content + ((query[:, :, i] + position_bias) * place).sum(-1)) / width**0.5
    if visible is None:
        return scores.softmax(-1) @ value
    pairs = visible if visible.dim() == 3 else visible[:, :, None] & visible[:, None, :]
    weights = scores.masked_fill(~pairs[:, None], -torch.inf).softmax(-1).nan_to_num(0.0)
    return weights @ value


@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    frames=st.integers(1, 13),
    width=st.sampled_from([1, 4]),
    block=st.integers(1, 200),
    masked=st.sampled_from(["no", "frames", "pairs"]),
    seed=st.integers(0, 99),
)
def test_any_block_gives_the_formula(batch, heads, frames, width, block, masked, seed):
    arguments = inputs(batch, heads, frames, width, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    shape = {"no": None, "frames": (batch, frames), "pairs": (batch, frames, frames)}[masked]
    visible = None if shape is None else torch.rand(shape, generator=generator) < 0.6
    found = relative_attention(*arguments, visible=visible, block_elements=block)
    torch.testing.assert_close(found, by_definition(*arguments, visible), rtol=1e-10, atol=1e-10)


def test_the_default_block_is_right_where_there_are_many():
    arguments = inputs(1, 2, 1100, 8, dtype=torch.float32)
    whole = relative_attention(*arguments, block_elements=2 * 1100 * 1100)
    assert (relative_attention(*arguments) - whole).abs().max() < 1e-5
    visible = torch.arange(1100)[None] < 900
    padded = relative_attention(*arguments, visible=visible)
    assert padded[:, :, 900:].abs().max() == 0
    shorter = [part[:, :, :900] for part in arguments[:3]] + [arguments[3][:, 200:-200], *arguments[4:]]
    assert (padded[:, :, :900] - relative_attention(*shorter)).abs().max() < 1e-5


def test_gradients_are_those_of_the_formula():
    arguments = [part.requires_grad_() for part in inputs(2, 2, 7, 4)]
    visible = torch.arange(7) < torch.tensor([[7], [5]])
    weight = torch.randn(2, 2, 7, 4, dtype=torch.float64)
    wanted = torch.autograd.grad((by_definition(*arguments, visible) * weight).sum(), arguments)
    found = torch.autograd.grad(
        (relative_attention(*arguments, visible=visible, block_elements=20) * weight).sum(), arguments
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_no_tensor_has_frames_squared(masked):
    frames = 2000
    visible = torch.arange(frames)[None] < frames - 7 if masked else None
    with torch.no_grad(), LargestTensor() as seen:
        relative_attention(*inputs(1, 2, frames, 4, dtype=torch.float32), visible=visible, block_elements=1 << 16)
    assert seen.largest < frames * frames / 16


def test_positions_must_fit_the_frames():
    arguments = inputs(1, 2, 5, 4)
    arguments[3] = arguments[3][:, 1:]
    with pytest.raises(ValueError, match=r"`positions` must have 2 x 5 - 1 = 9 rows.*has 8"):
        relative_attention(*arguments)
