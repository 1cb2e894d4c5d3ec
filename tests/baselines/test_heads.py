# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Attractors, pooling and clustering as label heads: shapes, order, existence, invariance, and values by hand."""

import math

import numpy as np
import pytest
import torch

from nemo_sortformer.baselines import AttractorHead, DeepClusteringHead, PoolingHead
from nemo_sortformer.baselines.attractor_head import SILENT_LOGIT
from nemo_sortformer.baselines.deep_clustering_head import best_centroids, count_classes
from nemo_sortformer.functional.losses import permutation_invariant_loss


def states(batch=3, frames=11, width=12, seed=1):
    return torch.randn(batch, frames, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def attractor_head(**settings):
    torch.manual_seed(0)
    return AttractorHead(12, 4, **settings).double().eval()


def labels_of(counts, frames=11):
    """Labels (batch, frames, 4) in which the last `count` columns are active."""
    labels = torch.zeros(len(counts), frames, 4)
    for row, count in zip(labels, counts, strict=True):
        row[:, 4 - count :] = 1.0
    return labels


def test_attractor_logits_are_products_of_states_and_attractors():
    head, x = attractor_head(threshold=0.0), states()
    attractors, existence = head.attractors(x)
    assert attractors.shape == (3, 5, 12)
    assert existence.shape == (3, 5)
    torch.testing.assert_close(head(states=x), torch.einsum("btd,bkd->btk", x, attractors[:, :4]))


def test_attractors_are_the_two_lstms_of_the_paper_in_the_order_of_time():
    head, x = attractor_head(shuffle=False), states(batch=1)
    cell = torch.nn.LSTMCell(12, 12).double()
    hidden = memory = torch.zeros(1, 12, dtype=torch.float64)
    found = []
    for lstm, inputs in ((head.encoder, x[0]), (head.decoder, torch.zeros(5, 12, dtype=torch.float64))):
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})
        for row in inputs:
            hidden, memory = cell(row[None], (hidden, memory))
            found.append(hidden[0])
    torch.testing.assert_close(head.attractors(x)[0][0], torch.stack(found[-5:]))


def test_only_the_slots_before_the_first_doubtful_attractor_speak():
    head, x = attractor_head(), states()
    existence = torch.tensor([[3.0, 3.0, -1.0, 3.0, 3.0], [-1.0, 3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0, -1.0]])
    attractors = head.attractors(x)[0]
    head.attractors = lambda states, mask: (attractors, existence)
    silent = (head(states=x) == SILENT_LOGIT).all(dim=1)
    assert silent.tolist() == [[False, False, True, True], [True] * 4, [False] * 4]


def test_training_has_as_many_slots_as_classes_and_the_existence_loss_of_the_paper():
    head, x = attractor_head(existence_weight=2.0), states()
    counts = [0, 2, 4]
    logits, losses = head.forward_with_losses(x, None, labels_of(counts))
    assert (logits == SILENT_LOGIT).all(dim=1).sum(dim=1).tolist() == [4 - count for count in counts]
    probs = head.attractors(x)[1].sigmoid().tolist()
    expected = [-math.log(1 - probs[0][0])]  # no class: the first attractor must not exist
    expected += [-math.log(probs[1][0]), -math.log(probs[1][1]), -math.log(1 - probs[1][2])]
    expected += [-math.log(p) for p in probs[2][:4]] + [-math.log(1 - probs[2][4])]
    assert losses["existence"].item() == pytest.approx(2.0 * sum(expected) / len(expected))


def test_silent_slots_leave_the_permutation_invariant_loss_to_the_classes_that_are_there():
    head, x = attractor_head(), states(batch=1)
    labels = torch.zeros(1, 11, 4)
    labels[0, :5, 3] = labels[0, 4:, 1] = 1.0
    logits, _ = head.forward_with_losses(x, None, labels)
    two = permutation_invariant_loss(logits[:, :, :2], labels[:, :, [1, 3]])
    torch.testing.assert_close(permutation_invariant_loss(logits, labels), two / 2)  # a mean over 4 slots, not 2


def test_attractors_do_not_read_padding_nor_neighbours():
    for shuffle in (True, False):
        head, x = attractor_head(shuffle=shuffle), states()
        mask = torch.arange(11) < torch.tensor([11, 6, 0])[:, None]
        filled = torch.where(mask[:, :, None], x, torch.nan)
        attractors, existence = head.attractors(filled, mask)
        torch.testing.assert_close(attractors[1:2], head.attractors(x[1:2, :6])[0])
        assert existence.isfinite().all()


def test_frames_are_shuffled_at_random_in_training_and_in_one_way_otherwise():
    head, x = attractor_head(), states()
    assert torch.equal(head.attractors(x)[0], head.attractors(x)[0])
    order = head._order(x, None)[0]
    assert sorted(order.tolist()) == list(range(11))
    assert (order.diff().abs() > 1).all()  # neighbours are not read one after the other
    head.train()
    assert not torch.equal(head.attractors(x)[0], head.attractors(x)[0])
    assert not torch.equal(attractor_head(shuffle=False).attractors(x)[0], attractor_head().attractors(x)[0])


def test_the_existence_of_attractors_can_be_learnt():
    head = attractor_head().float().train()
    x, labels = states(batch=4).float(), labels_of([1, 2, 3, 4])
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2)
    for _ in range(150):
        logits, losses = head.forward_with_losses(x, None, labels)
        optimizer.zero_grad()
        losses["existence"].backward()
        optimizer.step()
    head.eval()
    silent = (head(states=x) == SILENT_LOGIT).all(dim=1)
    assert (~silent).sum(dim=1).tolist() == [1, 2, 3, 4]


def pooling_head(**settings):
    torch.manual_seed(0)
    return PoolingHead(12, 3, num_attention_heads=2, **settings).double().eval()


def test_pooled_classes_do_not_depend_on_the_order_of_the_frames_and_labels_move_with_them():
    head, x = pooling_head(), states()
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(head.pool(x[:, order]), head.pool(x))
    torch.testing.assert_close(head(states=x[:, order]), head(states=x)[:, order])


def test_the_order_of_the_seeds_is_the_order_of_the_columns():
    head, x = pooling_head(num_seed_layers=2), states()
    before = head(states=x)
    with torch.no_grad():
        head.seeds.copy_(head.seeds[[2, 0, 1]])
    torch.testing.assert_close(head(states=x), before[:, :, [2, 0, 1]])


def test_pooling_does_not_read_padding():
    head, x = pooling_head(), states()
    mask = torch.arange(11) < torch.tensor([11, 6, 0])[:, None]
    filled = torch.where(mask[:, :, None], x, torch.nan)
    torch.testing.assert_close(head(states=filled, mask=mask)[1:2, :6], head(states=x[1:2, :6]))


def clustering_head(**settings):
    """A head that reads embeddings off the first four states and activity off the last two."""
    head = DeepClusteringHead(6, 3, embedding_dim=4, **settings).double().eval()
    with torch.no_grad():
        for net in (head.embedding.projection, head.activity.scores):
            net.weight.zero_()
            net.bias.zero_()
        head.embedding.projection.weight[:, :4] = torch.eye(4)
        head.activity.scores.weight[:, 4:] = torch.eye(2)
    head.activity.norm = torch.nn.Identity()
    return head


def clusters(pattern, activity):
    """States whose frame t lies near axis pattern[t] (two axes for a pair), with activity[t] = (one, two)."""
    noise = 0.05 * torch.randn(len(pattern), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    axes = torch.stack([torch.eye(4, dtype=torch.float64)[list(np.atleast_1d(axis))].sum(dim=0) for axis in pattern])
    return torch.cat([axes + noise, torch.tensor(activity, dtype=torch.float64)], dim=1)[None]


def test_clusters_become_columns_in_order_of_arrival():
    one, two, none = (5.0, -5.0), (5.0, 5.0), (-5.0, -5.0)
    pattern = [3] * 6 + [1] * 6 + [(1, 2)] * 3 + [2] * 6 + [0] * 3
    activity = [one] * 12 + [two] * 3 + [one] * 6 + [none] * 3
    probs = clustering_head()(states=clusters(pattern, activity)).sigmoid()[0] > 0.5
    expected = torch.zeros(24, 3, dtype=torch.bool)
    expected[:6, 0] = expected[6:15, 1] = expected[12:21, 2] = True
    assert torch.equal(probs, expected)


def test_silence_padding_and_one_frame_are_clustered_too():
    head = clustering_head()
    assert (head(states=clusters([0, 1], [(-5.0, -5.0)] * 2)) < 0).all()
    probs = head(states=clusters([1], [(5.0, -5.0)])).sigmoid()
    assert (probs > 0.5).tolist() == [[[True, False, False]]]
    mask = torch.tensor([[True, True, False]])
    padded = head(states=clusters([1, 1, 2], [(5.0, -5.0)] * 3), mask=mask).sigmoid() > 0.5
    assert padded.sum() == 2


def test_the_number_of_classes_is_the_number_of_large_eigenvalues():
    vectors = np.eye(5)[[0] * 50 + [2] * 40 + [4] * 9 + [1]]
    assert count_classes(vectors, most=5, min_share=0.06) == 3
    assert count_classes(vectors, most=2, min_share=0.06) == 2
    assert count_classes(vectors, most=5, min_share=0.005) == 4


def test_there_are_no_more_centroids_than_vectors():
    assert best_centroids(np.eye(3)[[0, 0, 1]], 3, seed=0).shape == (2, 3)
    found = best_centroids(np.eye(3)[[0, 1, 0, 1, 1]], 2, seed=0)
    np.testing.assert_allclose(found[found[:, 0].argsort()], np.eye(3)[[1, 0]], atol=1e-12)


def test_deep_clustering_learns_to_tell_apart_what_its_labels_tell_apart():
    torch.manual_seed(0)
    head = DeepClusteringHead(8, 3, embedding_dim=4)
    labels = torch.zeros(2, 60, 3)
    for number in range(3):
        labels[:, 20 * number + (5 if number else 0) : 20 * number + 20, number] = 1.0
    x = torch.cat([labels, torch.zeros(2, 60, 4), torch.ones(2, 60, 1)], dim=2) + 0.05 * torch.randn(2, 60, 8)
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2)
    for _ in range(200):
        logits, losses = head.forward_with_losses(x, None, labels)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert logits.shape == labels.shape
    assert set(losses) == {"embedding", "activity"}
    answer = head.eval()(states=x).sigmoid() > 0.5
    assert (answer != (labels > 0.5)).float().mean() < 0.02


@pytest.mark.parametrize("make", [AttractorHead, PoolingHead, DeepClusteringHead])
def test_a_head_without_classes_is_an_error(make):
    with pytest.raises(ValueError, match="num_classes"):
        make(12, 0)
