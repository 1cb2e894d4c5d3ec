# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The task of class prototypes: what is drawn is what was promised, and the same seed draws the same."""

import pytest
import torch

from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.prototypes import PrototypeTask
from nemo_sortformer.functional.arrival import arrival_frames


def draw(task, *, batch=200, frames=96, seed=0, unseen=False):
    return task.draw(batch, frames, torch.Generator().manual_seed(seed), unseen=unseen)


def test_the_same_seed_draws_the_same_recordings_and_another_seed_others():
    task = PrototypeTask()
    for one, two in zip(draw(task), draw(task), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(draw(task).embeddings, draw(task, seed=1).embeddings)


def test_without_noise_a_frame_is_the_sum_of_its_prototypes_times_gains_near_one():
    data = draw(PrototypeTask(noise=0.0, dim=32))
    gains = torch.linalg.lstsq(data.prototypes.mT, data.embeddings.mT).solution.mT
    active = data.labels > 0.5
    assert gains[active].min() > 0.799
    assert gains[active].max() < 1.201
    assert gains[~active].abs().max() < 1e-3
    rebuilt = torch.einsum("btk,bkd->btd", gains, data.prototypes)
    torch.testing.assert_close(rebuilt, data.embeddings, rtol=0, atol=1e-3)


def test_seen_classes_are_of_the_pool_and_unseen_ones_are_not():
    task = PrototypeTask(pool_size=8)
    pool = task.pool()
    seen, unseen = draw(task).prototypes.flatten(0, 1), draw(task, unseen=True).prototypes.flatten(0, 1)
    assert torch.cdist(seen, pool).min(dim=1).values.max() < 0.01
    assert torch.cdist(unseen, pool).min() > 0.5
    distinct = torch.cdist(draw(task).prototypes, draw(task).prototypes) + 9 * torch.eye(4)
    assert distinct.min() > 0.5  # four different classes in a recording


def test_an_unlimited_pool_makes_no_difference_between_seen_and_unseen():
    task = PrototypeTask(pool_size=None)
    assert torch.equal(draw(task).embeddings, draw(task, unseen=True).embeddings)


def test_seen_and_unseen_have_the_same_turns():
    assert torch.equal(draw(PrototypeTask()).labels, draw(PrototypeTask(), unseen=True).labels)


def test_counts_silence_overlap_and_lengths_are_those_of_the_settings():
    task = PrototypeTask(min_classes=3, silence=0.15, overlap=0.2, mean_segment_frames=8.0)
    labels = draw(task, batch=400, frames=1200).labels
    per_recording = labels.any(dim=1).sum(dim=1)
    assert set(per_recording.tolist()) == {3, 4}
    assert abs((per_recording == 3).float().mean() - 0.5) < 0.1
    at_once = labels.sum(dim=2)
    assert at_once.max() == 2
    assert abs((at_once == 0).float().mean() - 0.15) < 0.01
    assert abs((at_once == 2).float().mean() - 0.2 * 0.85) < 0.01  # an overlap is lost where silence came before


def test_no_segment_is_shorter_than_three_frames_and_no_two_classes_arrive_together():
    labels = draw(PrototypeTask(silence=0.3), batch=300).labels
    change = (labels[:, 1:] != labels[:, :-1]).any(dim=2)
    for row in change:
        places = row.nonzero()[:, 0]
        assert (places.diff() >= 3).all()
    arrival = arrival_frames(labels).sort(dim=1).values
    there = arrival[:, 1:] < labels.shape[1]
    assert (arrival.diff(dim=1)[there] > 0).all()
    assert (arrival[:, 0] == 0).all()  # the first segment is never silent


def test_columns_stand_in_random_order():
    first = draw(PrototypeTask(), batch=2000).labels[:, 0].argmax(dim=1)
    assert (first.bincount(minlength=4) > 400).all()


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"min_classes": 5}, "min_classes"),
        ({"pool_size": 3}, "pool_size"),
        ({"noise": -1.0}, "noise"),
        ({"dim": 0}, "dim"),
        ({"mean_segment_frames": 3.0}, "mean_segment_frames"),
        ({"silence": 0.9}, "silence"),
    ],
)
def test_settings_that_make_no_task_are_named(settings, match):
    with pytest.raises(ConfigError, match=match):
        PrototypeTask(**settings)


def test_one_class_alone_and_short_recordings_can_be_drawn():
    data = draw(PrototypeTask(num_slots=1, min_classes=1, pool_size=1), frames=1)
    assert data.labels.shape == (200, 1, 1)
    assert data.labels.all()
