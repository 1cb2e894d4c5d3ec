# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Collation: nothing but zeros is added, and nothing is lost."""

import pytest
import torch

from nemo_sortformer.data.batch import DiarizationItem, collate


def item(samples, frames, slots=4):
    return DiarizationItem(torch.randn(samples), torch.rand(frames, slots))


def test_a_batch_is_its_items_padded_with_zeros():
    items = [item(1000, 3), item(400, 1), item(700, 2)]
    batch = collate(items)
    assert batch.audio.shape == (3, 1000)
    assert batch.targets.shape == (3, 3, 4)
    assert batch.audio_lengths.tolist() == [1000, 400, 700]
    assert batch.target_lengths.tolist() == [3, 1, 2]
    assert batch.audio_lengths.dtype == batch.target_lengths.dtype == torch.int64
    for row, one in enumerate(items):
        assert torch.equal(batch.audio[row, : len(one.audio)], one.audio)
        assert torch.equal(batch.targets[row, : len(one.targets)], one.targets)
        assert not batch.audio[row, len(one.audio) :].any()
        assert not batch.targets[row, len(one.targets) :].any()


def test_batches_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match="one item or more"):
        collate([])
    with pytest.raises(ValueError, match=r"one number of slots, but have \[2, 4\]"):
        collate([item(100, 1), item(100, 1, slots=2)])
