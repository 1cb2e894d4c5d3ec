# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The affinity head gives unit vectors, in any precision, for any input."""

import pytest
import torch
from torch.testing import assert_close

from nemo_sortformer.modules import AffinityHead


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_have_length_one(dtype):
    head = AffinityHead(32, dim=8).to(dtype)
    embeddings = head(states=torch.randn(2, 7, 32, dtype=dtype))
    assert embeddings.shape == (2, 7, 8)
    assert embeddings.dtype == torch.float32
    assert_close(embeddings.norm(dim=-1), torch.ones(2, 7))


def test_under_autocast_they_still_have_length_one():
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = AffinityHead(32)(states=torch.randn(2, 7, 32))
    assert embeddings.dtype == torch.float32
    assert_close(embeddings.norm(dim=-1), torch.ones(2, 7))


def test_a_zero_vector_makes_no_nan():
    head = AffinityHead(4)
    torch.nn.init.zeros_(head.projection.bias)
    states = torch.zeros(1, 2, 4, requires_grad=True)
    head(states=states).sum().backward()
    assert states.grad.isfinite().all()


def test_every_parameter_learns():
    head = AffinityHead(32)
    (head(states=torch.randn(2, 7, 32)) * torch.randn(2, 7, 64)).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in head.parameters())
