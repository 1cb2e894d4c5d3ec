# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Labels of any classes over frames: stored forms, segments, targets in order of arrival."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.data.class_labels import TooManyClassesError, class_targets, label_matrix, segment_labels
from nemo_sortformer.data.embedding_files import EmbeddingError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.functional.arrival import sort_by_arrival


@given(seed=st.integers(0, 999), num_classes=st.integers(1, 6))
def test_class_numbers_and_activity_say_the_same(seed, num_classes):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-1, num_classes, size=12)
    matrix = (numbers[:, None] == np.arange(num_classes)).astype(np.float64)
    by_numbers, by_matrix = class_targets(label_matrix(numbers), 6), class_targets(label_matrix(matrix), 6)
    np.testing.assert_array_equal(by_numbers, by_matrix)


@given(order=st.permutations(range(5)), seed=st.integers(0, 999))
def test_targets_do_not_depend_on_the_order_of_the_columns_and_are_sorted(order, seed):
    labels = (np.random.default_rng(seed).random((20, 5)) > 0.8).astype(np.float32)
    targets = class_targets(labels, 8)
    np.testing.assert_array_equal(class_targets(labels[:, list(order)], 8), targets)
    np.testing.assert_array_equal(sort_by_arrival(torch.from_numpy(targets)[None])[0].numpy(), targets)
    assert targets.sum() == labels.sum()


def test_columns_that_are_never_active_need_no_slot():
    labels = np.zeros((6, 100), dtype=np.float32)
    labels[3, 70] = labels[1, 99] = 1
    targets = class_targets(labels, 2)
    assert targets.nonzero()[0].tolist() == [1, 3]
    assert targets.nonzero()[1].tolist() == [0, 1]


def test_a_sequence_without_classes_has_targets_of_zeros():
    assert not class_targets(np.zeros((4, 0), dtype=np.float32), 3).any()
    assert class_targets(label_matrix(np.full(4, -1)), 3).shape == (4, 3)


def test_more_classes_than_slots_are_an_error_or_lose_the_latest():
    labels = np.eye(3, dtype=np.float32)
    with pytest.raises(TooManyClassesError, match="3 classes are active within 3 frames, but the model has 2 slots"):
        class_targets(labels, 2)
    np.testing.assert_array_equal(class_targets(labels, 2, keep_earliest=True), np.eye(3)[:, :2])


@pytest.mark.parametrize(
    "labels, match",
    [
        (np.array([[0.0, np.nan]]), r"must be in \[0, 1\], but are nan at frame 0, column 1"),
        (np.array([[0, 1], [0, 2]]), r"must be in \[0, 1\], but are 2 at frame 1, column 1"),
        (np.array([0.5, 1.0]), "whole numbers"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.array([["a", "b"]]), "must be activity"),
    ],
)
def test_labels_of_another_form_are_refused(labels, match):
    with pytest.raises(EmbeddingError, match=match):
        label_matrix(labels)


def test_segments_fill_the_frames_that_they_cover_by_half():
    segments = [Segment(0.0, 1.5, "b"), Segment(1.4, 2.6, "b"), Segment(2.4, 9.0, "a"), Segment(3.0, 3.0, "c")]
    labels = segment_labels(segments, num_frames=4, frame_seconds=1.0)
    assert labels.tolist() == [[0, 1, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]]
    assert segment_labels(segments, num_frames=4, frame_seconds=1.0, threshold=1.0)[:, 0].tolist() == [0, 0, 0, 1]
    assert segment_labels([], num_frames=4, frame_seconds=0.1).shape == (4, 0)


@given(seed=st.integers(0, 999), frame_seconds=st.sampled_from([0.04, 1 / 30, 0.5]))
def test_segments_agree_with_a_fine_grid(seed, frame_seconds):
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, 3, size=4)
    segments = [Segment(float(s), float(s + rng.uniform(0, 1.5)), "x") for s in starts]
    num_frames, fine = 20, 400
    labels = segment_labels(segments, num_frames=num_frames, frame_seconds=frame_seconds)[:, 0]
    times = (np.arange(num_frames * fine) + 0.5) * frame_seconds / fine
    inside = np.any([(times >= s.start) & (times < s.end) for s in segments], axis=0)
    share = inside.reshape(num_frames, fine).mean(axis=1)
    clear = abs(share - 0.5) > 0.02
    np.testing.assert_array_equal(labels[clear], (share > 0.5)[clear])
