# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The paper's properties as exact tests: what is invariant, what is equivariant, and for which part of the network.

Property 1, invariance: the order of the frames changes nothing. Property 2, equivariance (eq. 6, f(x_pi) = pi(f(x))):
the answers move with their frames. Property 3 (eq. 7): the names of the classes change nothing (mapping invariance),
and the answers move with their frames. As written, eq. 7 is false for any f that gives classes in order of arrival:
who moves the frames changes who comes first. It is true after sorting once more, and as written for those reorderings
that keep the order of first appearances. Both are tested, each with the case that breaks it.

A permutation is a bijection, the identity among them; where the paper's definition excludes it we do not.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_sortformer.baselines import DeepSetsEncoder, PoolingHead, SetTransformerEncoder
from nemo_sortformer.functional.affinity_labels import labels_from_affinities
from nemo_sortformer.functional.arrival import arrival_frames, sort_by_arrival
from nemo_sortformer.functional.counts import der_counts, speaker_count_counts
from nemo_sortformer.functional.losses import (
    deep_clustering_loss,
    permutation_invariant_loss,
    sorted_label_cross_entropy,
)
from nemo_sortformer.modules import SortformerEncoder, TransformerStateEncoder
from nemo_sortformer.modules.label_feedback import LabelFeedback

FRAMES, CLASSES, WIDTH = 30, 4, 24
class_orders = st.permutations(range(CLASSES))
seeds = st.integers(0, 9999)


def random_labels(seed, *, silent=0):
    """Activity (3, FRAMES, CLASSES) whose columns arrive at different frames, the last `silent` never."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(3, FRAMES, CLASSES, generator=generator) < 0.3).float()
    start = torch.rand(3, FRAMES // 2, generator=generator).argsort(dim=1)[:, :CLASSES]
    frame = torch.arange(FRAMES)[None, :, None]
    labels = torch.where(frame < start[:, None], 0.0, labels).scatter(1, start[:, None], 1.0)
    labels[:, :, CLASSES - silent :] = 0.0
    return labels


def random_logits(seed):
    return torch.randn(3, FRAMES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))


def frame_order(seed):
    return torch.randperm(FRAMES, generator=torch.Generator().manual_seed(seed + 2))


def random_states(seed=0):
    return torch.randn(3, FRAMES, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build_encoder(**settings):
    """A SortFormer encoder in float64 whose label estimates become active at different frames."""
    torch.manual_seed(0)
    encoder = SortformerEncoder(4, WIDTH, 48, 3, CLASSES, **settings).double().eval()
    for module in encoder.modules():
        if isinstance(module, LabelFeedback):
            torch.nn.init.normal_(module.labels.weight, std=0.4)
            torch.nn.init.constant_(module.labels.bias, -3.0)
    return encoder


# Example 1: the same turns under other names


def test_example_1_sequences_of_the_same_turns_have_the_same_sorted_labels_whatever_the_names():
    turns = one_hot("aabcb")
    for names in ("aabcb", "ccaba", "bbaca", "zzxyx", "ccbab"):
        assert torch.equal(sort_by_arrival(one_hot(names)), turns), names
    for names in ("aabcc", "abbcb"):  # other turns
        assert not torch.equal(sort_by_arrival(one_hot(names)), turns), names


def one_hot(names):
    """A class per frame by name -> activity (1, frames, classes), columns in the order of the alphabet."""
    return torch.tensor([[[float(name == column) for column in sorted(set(names))] for name in names]])


# Property 1: the order of the frames changes nothing


@given(seed=seeds)
def test_losses_and_counts_without_order_do_not_depend_on_the_order_of_the_frames(seed):
    labels, logits, order = random_labels(seed), random_logits(seed), frame_order(seed)
    moved = labels[:, order], logits[:, order]
    torch.testing.assert_close(
        permutation_invariant_loss(moved[1], moved[0]), permutation_invariant_loss(logits, labels)
    )
    torch.testing.assert_close(deep_clustering_loss(moved[1], moved[0]), deep_clustering_loss(logits, labels))
    assert torch.equal(der_counts(moved[1].sigmoid(), moved[0]), der_counts(logits.sigmoid(), labels))
    assert torch.equal(
        speaker_count_counts(moved[1].sigmoid(), moved[0]), speaker_count_counts(logits.sigmoid(), labels)
    )


def test_pooled_classes_do_not_depend_on_the_order_of_the_frames():
    torch.manual_seed(0)
    head = PoolingHead(WIDTH, CLASSES, num_attention_heads=3).double()
    torch.testing.assert_close(head.pool(random_states()[:, frame_order(0)]), head.pool(random_states()))


def test_the_sorted_loss_does_depend_on_the_order_of_the_frames_as_arrival_does():
    labels, logits, order = random_labels(0), random_logits(0), frame_order(0)
    moved = sorted_label_cross_entropy(logits[:, order], labels[:, order])
    assert abs(moved - sorted_label_cross_entropy(logits, labels)) > 1e-3


# Property 2: the answers move with their frames

EQUIVARIANT = {
    "Transformer without positions": lambda: TransformerStateEncoder(3, WIDTH, 48, num_attention_heads=3, pre_ln=True),
    "our encoder without positions, convolution and feedback": lambda: build_encoder(
        positions="none", conv_kernel=0, feedback=False
    ),
    "Deep Sets": lambda: DeepSetsEncoder(3, WIDTH, 48),
    "Set Transformer": lambda: SetTransformerEncoder(2, WIDTH, 48, 3, num_inducing_points=4),
}
NOT_EQUIVARIANT = {
    "rotary positions": {"positions": "rope", "conv_kernel": 0, "feedback": False},
    "convolution": {"positions": "none", "conv_kernel": 7, "feedback": False},
    "sorted feedback": {"positions": "none", "conv_kernel": 0},
    "causal": {"causal": True, "conv_kernel": 0, "feedback": False},
}


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_what_knows_no_positions_is_equivariant(name):
    torch.manual_seed(0)
    encoder, order = EQUIVARIANT[name]().double().eval(), frame_order(0)
    moved = encoder(encoder_states=random_states()[:, order])
    torch.testing.assert_close(moved, encoder(encoder_states=random_states())[:, order])


@pytest.mark.parametrize("name", NOT_EQUIVARIANT)
def test_what_knows_positions_or_arrival_is_not_equivariant(name):
    encoder, order = build_encoder(**NOT_EQUIVARIANT[name]), frame_order(0)
    moved = encoder(encoder_states=random_states()[:, order])
    assert (moved - encoder(encoder_states=random_states())[:, order]).abs().max() > 1e-3


def test_sorted_feedback_is_equivariant_for_reorderings_that_keep_the_order_of_first_appearances():
    encoder = build_encoder(positions="none", conv_kernel=0, measure="hard")
    states = random_states()[:1]
    _, layers = encoder.forward_with_labels(states)
    arrivals = torch.cat([arrival_frames(logits.sigmoid()) for logits in layers])
    first = int(arrivals[arrivals < FRAMES].max()) + 1  # from here on nobody arrives in any layer
    assert 3 <= first <= FRAMES - 5
    order = torch.arange(FRAMES)
    order[first:] = order[first:].flip(0)
    moved = encoder(encoder_states=states[:, order])
    torch.testing.assert_close(moved, encoder(encoder_states=states)[:, order])


# Property 3: the names of the classes change nothing


@given(order=class_orders, seed=seeds, silent=st.integers(0, 2))
def test_sorted_labels_and_all_losses_do_not_depend_on_the_names_of_the_classes(order, seed, silent):
    labels, logits = random_labels(seed, silent=silent), random_logits(seed)
    renamed = labels[:, :, list(order)]
    assert torch.equal(sort_by_arrival(renamed), sort_by_arrival(labels))  # to the bit
    for loss in (sorted_label_cross_entropy, permutation_invariant_loss, deep_clustering_loss):
        torch.testing.assert_close(loss(logits, renamed), loss(logits, labels))


@given(order=class_orders, seed=seeds)
def test_with_ties_too_the_sorted_labels_do_not_depend_on_the_names(order, seed):
    labels = (torch.rand(2, FRAMES, CLASSES, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    labels[:, 0] = 1.0  # all arrive at once
    assert torch.equal(sort_by_arrival(labels[:, :, list(order)]), sort_by_arrival(labels))


@pytest.mark.parametrize(
    "settings", [{}, {"measure": "hard"}, {"causal": True}, {"positions": "none", "conv_kernel": 0}]
)
def test_the_rows_of_a_layer_s_label_head_may_stand_in_any_order(settings):
    encoder, states = build_encoder(**settings), random_states()
    before = encoder(encoder_states=states)
    order = [2, 0, 3, 1]
    for layer in encoder.layers[:-1]:
        with torch.no_grad():
            layer.feedback.labels.weight.copy_(layer.feedback.labels.weight[order])
            layer.feedback.labels.bias.copy_(layer.feedback.labels.bias[order])
    torch.testing.assert_close(encoder(encoder_states=states), before)


def test_without_the_sort_the_rows_of_a_layer_s_label_head_matter():
    encoder, states = build_encoder(sort=False), random_states()
    before = encoder(encoder_states=states)
    with torch.no_grad():
        head = encoder.layers[0].feedback.labels
        head.weight.copy_(head.weight[[1, 2, 3, 0]])
    assert (encoder(encoder_states=states) - before).abs().max() > 1e-3


def test_for_the_embeddings_of_the_classes_mapping_invariance_is_not_built_in():
    """Two classes exchange their embeddings: the turns are the same, the states are not; training has to do it."""
    encoder = build_encoder(positions="none", conv_kernel=0)
    labels = sort_by_arrival(random_labels(0))
    vectors = torch.randn(CLASSES, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    exchanged = vectors[[1, 0, 2, 3]]
    one, other = encoder(encoder_states=labels.double() @ vectors), encoder(encoder_states=labels.double() @ exchanged)
    assert (one - other).abs().max() > 1e-3


@given(seed=seeds)
@pytest.mark.parametrize("causal", [False, True])
def test_for_labels_from_affinities_mapping_invariance_is_built_in(causal, seed):
    """They depend on who is alike only: any rotation of the embeddings, two classes' exchange for one, is the same."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(1, FRAMES, CLASSES, dtype=torch.float64, generator=generator)
    embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
    speech = torch.rand(1, FRAMES, dtype=torch.float64, generator=generator)
    rotation = torch.linalg.qr(torch.randn(CLASSES, CLASSES, dtype=torch.float64, generator=generator))[0]
    exchanged = embeddings[..., [1, 0, 2, 3]]
    labels = labels_from_affinities(embeddings, speech, CLASSES, causal=causal)
    for other in (exchanged, embeddings @ rotation):
        # to about the tiny number that keeps a mean of nothing away from zero
        torch.testing.assert_close(
            labels_from_affinities(other, speech, CLASSES, causal=causal), labels, atol=1e-3, rtol=0
        )


# Equation 7: f(tau(x)) = tau(f(x)) with f the sort by arrival


@given(seed=seeds)
def test_equation_7_holds_after_sorting_once_more(seed):
    labels, order = random_labels(seed), frame_order(seed)
    assert torch.equal(sort_by_arrival(labels[:, order]), sort_by_arrival(sort_by_arrival(labels)[:, order]))


def test_equation_7_as_written_is_false():
    labels = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # a, then b
    swapped = labels[:, [1, 0]]  # b, then a
    assert torch.equal(sort_by_arrival(swapped), labels)  # whoever comes first is the first
    assert torch.equal(sort_by_arrival(labels)[:, [1, 0]], swapped)
    assert not torch.equal(sort_by_arrival(swapped), sort_by_arrival(labels)[:, [1, 0]])


@given(seed=seeds)
def test_equation_7_as_written_holds_where_the_order_of_first_appearances_stays(seed):
    labels = random_labels(seed)
    last = int(arrival_frames(labels).max())
    order = torch.arange(FRAMES)
    later = torch.randperm(FRAMES - last - 1, generator=torch.Generator().manual_seed(seed))
    order[last + 1 :] = order[last + 1 :][later]  # what comes after the last arrival may stand in any order
    assert torch.equal(sort_by_arrival(labels[:, order]), sort_by_arrival(labels)[:, order])
