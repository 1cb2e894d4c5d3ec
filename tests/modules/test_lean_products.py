# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Products by oneDNN and in 8 bits: numbers, shapes, what is left as it was, and what a scale may depend on."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from nemo_sortformer.modules import lean_products
from nemo_sortformer.modules.int8_products import Int8Linear, Int8Pointwise, use_int8_products
from nemo_sortformer.modules.lean_products import LeanLinear, LeanPointwise, use_lean_products

sizes = {"batch": st.integers(1, 3), "frames": st.integers(0, 9), "outputs": st.integers(1, 40)}


def both(module):
    """A module and a lean copy of it."""
    lean = copy.deepcopy(module)
    use_lean_products(lean)
    return module.eval(), lean.eval()


@given(bias=st.booleans(), inputs=st.integers(1, 70), **sizes)
def test_numbers_are_those_of_the_plain_layers(batch, frames, inputs, outputs, bias):
    states = torch.randn(batch, frames, inputs)
    plain, lean = both(nn.Sequential(nn.Linear(inputs, outputs, bias=bias)))
    conv, lean_conv = both(nn.Sequential(nn.Conv1d(inputs, outputs, 1, bias=bias)))
    assert type(lean[0]) is LeanLinear
    assert type(lean_conv[0]) is LeanPointwise
    with torch.inference_mode():
        assert_close(lean(states), plain(states), rtol=0, atol=1e-5)
        if frames:
            assert_close(lean_conv(states.mT), conv(states.mT), rtol=0, atol=1e-5)


def test_the_fast_way_is_taken_without_gradients_in_float32_alone(monkeypatch):
    taken = []
    real = lean_products._ONEDNN
    if real is None:
        pytest.skip("this PyTorch has no oneDNN product")
    monkeypatch.setattr(lean_products, "_ONEDNN", lambda *given: taken.append(1) or real(*given))
    plain, lean = both(nn.Linear(8, 4))
    states = torch.randn(5, 8)
    lean(states).sum().backward()
    assert not taken
    assert lean.weight.grad is not None
    with torch.no_grad():
        lean(states)
        assert len(taken) == 1
        with torch.autocast("cpu", torch.bfloat16):
            assert lean(states).dtype == torch.bfloat16
        assert lean.train()(states).shape == (5, 4)
        half = lean.eval().to(torch.bfloat16)
        assert_close(half(states.bfloat16()), plain.to(torch.bfloat16)(states.bfloat16()))
        assert len(taken) == 1
        monkeypatch.setattr(lean_products, "_ONEDNN", None)
        assert_close(lean.float()(states), plain.float()(states))


def test_only_classes_change_and_other_layers_none():
    module = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1))
    names, kinds = list(module.state_dict()), [type(part) for part in module]
    use_lean_products(module)
    assert list(module.state_dict()) == names
    assert [type(part) for part in module] == [LeanLinear, *kinds[1:]]
    assert type(pickle.loads(pickle.dumps(module))[0]) is LeanLinear


@given(bias=st.booleans(), seed=st.integers(0, 99), inputs=st.integers(2, 70), **sizes)
def test_8_bits_are_the_rounded_numbers_by_a_second_way(batch, frames, inputs, outputs, bias, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    offset = torch.randn(outputs, generator=generator) if bias else None
    states = torch.randn(batch, frames, inputs, generator=generator)
    row = weight.abs().amax(1, keepdim=True) / 127
    frame = states.abs().amax(2, keepdim=True) / 127
    rounded = (states / frame).round().double() @ (weight / row).round().double().T
    expected = rounded * frame * row[:, 0] + (0 if offset is None else offset)
    found = Int8Linear(weight, offset)(states)
    assert found.shape == (batch, frames, outputs)
    assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    assert_close(Int8Pointwise(weight, offset)(states.mT), expected.float().mT, rtol=1e-4, atol=1e-5)


def test_one_input_is_refused():
    with pytest.raises(ValueError, match="`weight` must have at least 2 inputs, but has 1"):
        Int8Linear(torch.randn(4, 1), None)


def test_a_frame_in_8_bits_depends_on_no_other_and_zeros_stay_zeros():
    layer = Int8Linear(torch.randn(24, 32), None)
    states = torch.randn(2, 9, 32)
    alone = layer(states[1:, 4:5])
    states[0] *= 1e6
    states[1, :4] = 0
    found = layer(states)
    assert torch.equal(found[1:, 4:5], alone)
    assert not found[1, :4].any()


def test_8_bits_are_near_and_small():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(256, 512), nn.SiLU(), nn.Linear(512, 64), nn.Linear(4, 4)).eval()
    small = copy.deepcopy(plain)
    use_int8_products(small)
    assert [type(part) for part in small] == [Int8Linear, nn.SiLU, Int8Linear, nn.Linear]
    states = torch.randn(50, 256)
    with torch.no_grad():
        expected = plain[:3](states)
        assert float((small[:3](states) - expected).abs().mean() / expected.abs().mean()) < 0.02
    assert len(pickle.dumps(small)) < 0.3 * len(pickle.dumps(plain))
