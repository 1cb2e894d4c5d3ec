# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Stacking items with texts of any lengths."""

import pytest
import torch

from nemo_sortformer.data.batch import DiarizationBatch
from nemo_sortformer.data.joint_batch import JointItem, TextLabels, collate_joint

PADS = {"asr": 9, "mt": 7}


def item(samples, frames, serialized, streams, slots=2):
    texts = {"asr": TextLabels(serialized, streams), "mt": TextLabels([], [[], []])}
    return JointItem(torch.ones(samples), torch.ones(frames, slots), texts, "a")


def test_sounds_are_padded_with_zeros_and_tokens_with_their_own_padding():
    batch = collate_joint([item(5, 2, [1, 2, 3], [[2, 3], []]), item(3, 1, [4], [[], [4]])], pad_ids=PADS)
    assert DiarizationBatch(*batch[:4]).audio_lengths.tolist() == [5, 3]
    assert batch.target_lengths.tolist() == [2, 1]
    assert batch.audio[1, 3:].abs().sum() == batch.targets[1, 1:].sum() == 0
    asr = batch.texts["asr"]
    assert asr.tokens.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert asr.lengths.tolist() == [3, 1]
    assert asr.streams.tolist() == [[[2, 3], [9, 9]], [[9, 9], [4, 9]]]
    assert asr.stream_lengths.tolist() == [[2, 0], [0, 1]]
    assert {tensor.dtype for tensor in asr} == {torch.int64}


def test_texts_of_which_nobody_has_a_token_have_width_zero():
    mt = collate_joint([item(5, 2, [1], [[1], []])] * 3, pad_ids=PADS).texts["mt"]
    assert mt.tokens.shape == (3, 0)
    assert mt.streams.shape == (3, 2, 0)
    assert mt.stream_lengths.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize(
    "items, pads, match",
    [
        ([], PADS, "one item or more"),
        ([item(5, 2, [], [[], []])], {"ctc": 0}, "a text `ctc`, but `a` has none"),
        ([item(5, 2, [], [[], []]), item(5, 2, [], [[], []], slots=3)], PADS, "one number of slots"),
    ],
)
def test_what_cannot_be_stacked_is_named(items, pads, match):
    with pytest.raises(ValueError, match=match):
        collate_joint(items, pad_ids=pads)
