# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The pure functions give on a GPU, under autocast, what they give on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from nemo_sortformer.functional.arrival import (
    arrival_frames,
    arrival_gate,
    arrival_order,
    expected_arrival,
    sort_ranks,
)
from nemo_sortformer.functional.counts import der_counts, f1_counts, speaker_count_counts
from nemo_sortformer.functional.losses import (
    affinity_loss,
    deep_clustering_loss,
    permutation_invariant_loss,
    sorted_label_cross_entropy,
)

pytestmark = pytest.mark.gpu

SLOTS = 6


def random_batch():
    """Dense labels: many columns arrive together, and some frames are silent."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 200, SLOTS, generator=generator) * 3
    labels = (torch.rand(8, 200, SLOTS, generator=generator) < 0.2).float()
    labels[0] = 0
    lengths = torch.randint(0, 201, (8,), generator=generator)
    return logits, labels, lengths


@pytest.mark.parametrize("causal", [False, True])
def test_orders_are_those_of_the_cpu(causal):
    logits, labels, lengths = random_batch()
    for values in (labels, torch.sigmoid(logits)):
        for function, options in (
            (arrival_frames, {}),
            (arrival_order, {"causal": causal}),
            (sort_ranks, {"causal": causal}),
            (arrival_gate, {}),
        ):
            expected = function(values, lengths, **options)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                result = function(values.cuda(), lengths.cuda(), **options)
            assert torch.equal(result.cpu(), expected), function.__name__
    assert_close(expected_arrival(labels.cuda(), lengths.cuda()).cpu(), expected_arrival(labels, lengths))


@pytest.mark.parametrize("options", [{}, {"tie_tolerance": 0}, {"tie_tolerance": 2}])
def test_losses_and_gradients_are_those_of_the_cpu(options):
    logits, labels, lengths = random_batch()
    for loss in (sorted_label_cross_entropy, permutation_invariant_loss):
        more = options if loss is sorted_label_cross_entropy else {}
        here, there = logits.clone().requires_grad_(), logits.cuda().requires_grad_()
        expected = loss(here, labels, lengths, **more)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            result = loss(there, labels.cuda(), lengths.cuda(), **more)
        assert_close(result.cpu(), expected, rtol=1e-5, atol=1e-6)
        expected.backward()
        result.backward()
        assert_close(there.grad.cpu(), here.grad, rtol=1e-4, atol=1e-7)


def test_embedding_losses_are_those_of_the_cpu():
    logits, labels, lengths = random_batch()
    embeddings = F.normalize(logits, dim=2)
    for loss, options in ((affinity_loss, {"max_frames": 200}), (deep_clustering_loss, {})):
        expected = loss(embeddings, labels, lengths, **options)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            result = loss(embeddings.cuda(), labels.cuda(), lengths.cuda(), **options)
        assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-6)


def test_counts_are_those_of_the_cpu():
    logits, labels, lengths = random_batch()
    probs = torch.sigmoid(logits)
    for counts in (der_counts, f1_counts, speaker_count_counts):
        expected = counts(probs, labels, lengths)
        assert torch.equal(counts(probs.cuda(), labels.cuda(), lengths.cuda()).cpu(), expected)
