# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Affinity and deep clustering losses against loops over pairs of frames."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nemo_sortformer.functional.losses import affinity_loss, deep_clustering_loss

seeds = st.integers(0, 10_000)


def random_batch(seed: int, batch: int = 3, frames: int = 12, slots: int = 3, dim: int = 5):
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(batch, frames, dim, generator=generator), dim=2)
    labels = (torch.rand(batch, frames, slots, generator=generator) < 0.35).float()
    lengths = torch.randint(0, frames + 1, (batch,), generator=generator)
    return embeddings, labels, lengths


def affinity_by_pairs(embeddings, labels, lengths, scale, margin):
    results = []
    for b, n in enumerate(lengths.tolist()):
        frames = [t for t in range(n) if labels[b, t].sum() == 1]
        alike, unlike = [], []
        for place, t in enumerate(frames):
            for u in frames[place + 1 :]:
                logit = scale * (embeddings[b, t] @ embeddings[b, u] - margin)
                same = torch.equal(labels[b, t], labels[b, u])
                (alike if same else unlike).append(F.softplus(-logit if same else logit))
        if alike or unlike:
            results.append(0.5 * sum(torch.stack(kind).mean() for kind in (alike, unlike) if kind))
    return torch.stack(results).mean() if results else torch.tensor(0.0)


@given(seed=seeds, scale=st.sampled_from([1.0, 8.0]), margin=st.sampled_from([0.0, 0.4]))
def test_affinity_loss_is_the_balanced_mean_over_pairs(seed, scale, margin):
    embeddings, labels, lengths = random_batch(seed)
    value = affinity_loss(embeddings, labels, lengths, scale=scale, margin=margin)
    assert_close(value, affinity_by_pairs(embeddings, labels, lengths, scale, margin), rtol=1e-4, atol=1e-5)


def test_affinity_loss_by_hand():
    embeddings = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    labels = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    alike, unlike = math.log1p(math.exp(-8 * 0.6)), math.log1p(math.exp(-8 * 0.4))
    assert_close(affinity_loss(embeddings, labels).item(), 0.5 * (alike + unlike))
    together = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]])  # overlap and silence make no pair
    assert affinity_loss(embeddings, together).item() == 0


@given(seed=seeds, order=st.permutations(range(3)))
def test_embedding_losses_do_not_depend_on_the_order_of_the_columns(seed, order):
    embeddings, labels, lengths = random_batch(seed)
    for loss in (affinity_loss, deep_clustering_loss):
        assert_close(loss(embeddings, labels[..., list(order)], lengths), loss(embeddings, labels, lengths))


@given(seed=seeds)
def test_padding_is_never_read(seed):
    embeddings, labels, lengths = random_batch(seed)
    padding = torch.arange(12)[None, :, None] >= lengths[:, None, None]
    for loss in (affinity_loss, deep_clustering_loss):
        expected = loss(embeddings, labels, lengths)
        dirty = embeddings.masked_fill(padding, float("nan")).requires_grad_()
        value = loss(dirty, labels.masked_fill(padding, float("nan")), lengths)
        assert_close(value, expected, rtol=1e-5, atol=1e-6)
        value.backward()
        assert dirty.grad.isfinite().all()
        assert (dirty.grad[padding.expand_as(dirty)] == 0).all()


@given(seed=seeds)
def test_a_batch_is_the_mean_of_its_recordings(seed):
    embeddings, labels, lengths = random_batch(seed)
    lengths = lengths.clamp(min=8)
    labels[:, :4] = torch.eye(4, 3)  # every recording has pairs
    for loss in (affinity_loss, deep_clustering_loss):
        alone = [loss(embeddings[b : b + 1, :n], labels[b : b + 1, :n]) for b, n in enumerate(lengths.tolist())]
        assert_close(loss(embeddings, labels, lengths), torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)


def test_the_draw_is_bounded_random_and_repeatable():
    embeddings, labels, _ = random_batch(1, batch=2, frames=300)

    def draw(seed, max_frames):
        generator = torch.Generator().manual_seed(seed)
        return affinity_loss(embeddings, labels, max_frames=max_frames, generator=generator).item()

    assert draw(0, 16) == draw(0, 16)
    assert draw(0, 16) != draw(1, 16)
    assert_close(draw(0, 300), draw(1, 300), rtol=1e-5, atol=0)  # all frames: nothing is drawn


@pytest.mark.parametrize("loss", [affinity_loss, deep_clustering_loss])
def test_without_speech_the_loss_is_zero_with_a_gradient(loss):
    embeddings = torch.randn(2, 5, 4, requires_grad=True)
    value = loss(embeddings, torch.zeros(2, 5, 3))
    value.backward()
    assert value.item() == 0
    assert (embeddings.grad == 0).all()
    assert loss(torch.zeros(0, 5, 4), torch.zeros(0, 5, 3)).item() == 0
    assert loss(torch.zeros(2, 0, 4), torch.zeros(2, 0, 3)).item() == 0


@pytest.mark.parametrize("loss", [affinity_loss, deep_clustering_loss])
def test_autocast_changes_nothing(loss):
    embeddings, labels, _ = random_batch(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(loss(embeddings, labels), loss(embeddings, labels).float(), rtol=1e-6, atol=1e-7)
        assert loss(embeddings.bfloat16(), labels).dtype == torch.float32


@given(seed=seeds)
def test_deep_clustering_is_the_weighted_error_of_all_pairs(seed):
    embeddings, labels, lengths = random_batch(seed)
    results = []
    for b, n in enumerate(lengths.tolist()):
        heard = [t for t in range(n) if labels[b, t].sum() > 0]
        if not heard:
            continue
        v, y = embeddings[b, heard], F.normalize(labels[b, heard], dim=1)
        affinity = y @ y.T
        weight = affinity.sum(dim=1).rsqrt()
        pairs = weight[:, None] * weight[None, :]
        results.append((pairs * (v @ v.T - affinity).square()).sum() / pairs.sum())
    expected = torch.stack(results).mean() if results else torch.tensor(0.0)
    assert_close(deep_clustering_loss(embeddings, labels, lengths), expected, rtol=1e-4, atol=1e-5)


def test_deep_clustering_is_zero_where_embeddings_are_the_labels():
    labels = torch.eye(4).repeat(1, 3, 1)
    assert_close(deep_clustering_loss(labels, labels).item(), 0.0, rtol=0, atol=1e-6)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`max_frames` must be 2 or more"):
        affinity_loss(torch.zeros(1, 5, 4), torch.zeros(1, 5, 2), max_frames=1)
    with pytest.raises(ValueError, match="`labels` must have the batch and frames of `embeddings`"):
        affinity_loss(torch.zeros(1, 5, 4), torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match="`embeddings` must have 3 dimensions"):
        deep_clustering_loss(torch.zeros(5, 4), torch.zeros(1, 5, 2))
