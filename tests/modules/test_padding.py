# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Masks: of any type, never read as NaN, left out where nothing is padded."""

import pytest
import torch

from nemo_sortformer.modules.padding import checked_mask, clear_padding, key_mask


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_a_mask_without_padding_is_left_out(dtype):
    states, mask = torch.zeros(2, 3, 4), torch.tensor([[1, 1, 1], [1, 1, 0]]).to(dtype)
    assert checked_mask(states, None) is None
    assert checked_mask(states, torch.ones(2, 3, dtype=dtype)) is None
    assert torch.equal(checked_mask(states, mask), mask.bool())


def test_a_mask_of_another_shape_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"\(2, 3\), but has \(2, 4\)\. Make it with"):
        checked_mask(torch.zeros(2, 3, 4), torch.ones(2, 4))


def test_padding_is_cleared_whatever_it_holds():
    states, mask = torch.full((1, 3, 2), float("nan")), torch.tensor([[True, False, False]])
    assert clear_padding(states, mask)[0].isnan().tolist() == [[True, True], [False, False], [False, False]]
    assert clear_padding(states, None) is states


def test_no_row_of_keys_is_empty():
    mask = torch.tensor([[True, False], [False, False]])
    assert key_mask(mask)[:, 0, 0].tolist() == [[True, False], [True, True]]
    assert key_mask(None) is None
