# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Self-attention against the formula, and rotary positions against complex numbers."""

import pytest
import torch
from torch.testing import assert_close

from nemo_sortformer.modules.self_attention import SelfAttention, rotary_tables, rotate


def by_the_formula(attention, states, mask, heads, rotation=None):
    """Softmax of scaled products, head by head, with nothing fused."""
    output = []
    for query, key, value in zip(
        *(net(states).chunk(heads, dim=-1) for net in (attention.query_net, attention.key_net, attention.value_net))
    ):
        if rotation is not None:
            query, key = (turn(part, rotation) for part in (query, key))
        scores = (query @ key.transpose(1, 2) / key.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
        output.append(scores.softmax(-1) @ value)
    return attention.out_projection(torch.cat(output, dim=-1))


def turn(states, frames):
    """Rotary positions as products of complex numbers, frame t by t times the angle of each pair."""
    half = states.shape[-1] // 2
    angles = frames[:, None].double() * torch.tensor([10_000.0 ** (-i / half) for i in range(half)]).double()
    turned = torch.complex(*states.double().chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1).to(states.dtype)


@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("kind", ["all", "keys", "causal"])
def test_it_is_the_formula(rope, kind):
    torch.manual_seed(0)
    attention, states = SelfAttention(24, 3).double(), torch.randn(2, 11, 24, dtype=torch.float64)
    keys = torch.arange(11) < torch.tensor([[11], [4]])
    mask = {"all": torch.ones(1, 11, 11), "keys": keys[:, None, :], "causal": torch.ones(11, 11).tril()}[kind].bool()
    arguments = {"all": {}, "keys": {"mask": keys[:, None, None, :]}, "causal": {"is_causal": True}}[kind]
    output = attention(states, rotation=rotary_tables(11, 8, like=states) if rope else None, **arguments)
    expected = by_the_formula(attention, states, mask, 3, torch.arange(11) if rope else None)
    assert_close(output, expected, atol=1e-6, rtol=1e-5)


def test_rotated_products_depend_on_the_distance_alone():
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    tables = rotary_tables(40, 8, like=query)
    queries, keys = (rotate(part.expand(1, 1, 40, 8), tables) for part in (query, key))
    products = (queries @ keys.transpose(2, 3))[0, 0]
    for distance in (-7, 0, 3):
        diagonal = products.diagonal(distance)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-9, rtol=0)


def test_rotation_keeps_lengths_and_leaves_the_first_frame():
    heads = torch.randn(2, 3, 20, 8)
    turned = rotate(heads, rotary_tables(20, 8, like=heads))
    assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], heads[:, :, 0])


def test_angles_are_exact_for_long_recordings_in_half_precision():
    cos, _ = rotary_tables(5000, 8, like=torch.zeros(1, dtype=torch.bfloat16))
    assert cos.dtype == torch.float32
    assert_close(cos[:, 0], torch.arange(5000).double().cos().float(), atol=1e-3, rtol=0)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="must divide `hidden_size` = 24, but is 5"):
        SelfAttention(24, 5)
