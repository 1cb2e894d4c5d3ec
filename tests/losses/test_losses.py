# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Loss modules: the pure functions with NeMo's ports, and weights that are used as given."""

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch.testing import assert_close

from nemo_sortformer.functional.losses import affinity_loss, permutation_invariant_loss, sorted_label_cross_entropy
from nemo_sortformer.losses import AffinityLoss, SortedLabelLoss


def random_batch(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 20, 4, generator=generator)
    labels = (torch.rand(3, 20, 4, generator=generator) < 0.3).float()
    return {"logits": logits, "labels": labels, "lengths": torch.tensor([20, 7, 0])}


@pytest.mark.parametrize("sort_weight, pil_weight", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (2.0, 3.0)])
def test_weights_are_used_as_given(sort_weight, pil_weight):
    batch = random_batch()
    value = SortedLabelLoss(sort_weight=sort_weight, pil_weight=pil_weight)(**batch)
    expected = sort_weight * sorted_label_cross_entropy(**batch) + pil_weight * permutation_invariant_loss(**batch)
    assert_close(value, expected)


def test_parts_are_apart_and_unweighted():
    batch = random_batch()
    loss = SortedLabelLoss(sort_weight=0.25, pil_weight=4.0)
    parts = loss.parts(**batch)
    assert_close(parts["sort"], sorted_label_cross_entropy(**batch))
    assert_close(parts["pil"], permutation_invariant_loss(**batch))
    assert_close(loss.total(parts), loss(**batch))
    assert set(SortedLabelLoss(1.0, 0.0).parts(**batch)) == {"sort"}
    assert set(SortedLabelLoss(0.0, 1.0).parts(**batch)) == {"pil"}


def test_a_loss_of_weight_zero_is_not_computed():
    batch = random_batch()
    batch["logits"] = batch["logits"] * float("nan")  # the search for the best order would raise
    assert SortedLabelLoss(1.0, 0.0)(**batch).isnan()


def test_tolerance_and_speech_weight_arrive():
    batch = random_batch()
    value = SortedLabelLoss(1.0, 0.0, tie_tolerance=5)(**batch)
    assert_close(value, sorted_label_cross_entropy(**batch, tie_tolerance=5))
    assert value < SortedLabelLoss(1.0, 0.0)(**batch)
    one = SortedLabelLoss(0.5, 0.5, pos_weight=2)(**batch)
    four = SortedLabelLoss(0.5, 0.5, pos_weight=OmegaConf.create([2, 2, 2, 2]))(**batch)
    assert_close(one, four)
    assert one > SortedLabelLoss(0.5, 0.5)(**batch)


def test_the_speech_weight_moves_with_the_module_and_is_not_saved():
    loss = SortedLabelLoss(pos_weight=2.0)
    assert loss.to("meta").pos_weight.device.type == "meta"
    assert loss.state_dict() == {}


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 2.0), (1.0, -0.5)])
def test_weights_that_make_no_loss_are_named(weights):
    with pytest.raises(ValueError, match="`sort_weight` and `pil_weight` must be 0 or more"):
        SortedLabelLoss(*weights)


def test_ports_are_checked():
    batch = random_batch()
    with pytest.raises(TypeError):
        SortedLabelLoss()(batch["logits"], batch["labels"], batch["lengths"])  # NeMo wants keywords
    with pytest.raises(TypeError):
        SortedLabelLoss()(**batch, something_else=batch["logits"])
    with pytest.raises(TypeError):
        SortedLabelLoss()(**{**batch, "lengths": batch["labels"]})


def test_affinity_loss_is_the_function():
    batch = random_batch()
    embeddings = F.normalize(torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(1)), dim=2)
    inputs = {"embeddings": embeddings, "labels": batch["labels"], "lengths": batch["lengths"]}
    assert_close(AffinityLoss()(**inputs), affinity_loss(**inputs))
    assert_close(AffinityLoss(scale=2.0, margin=0.1)(**inputs), affinity_loss(**inputs, scale=2.0, margin=0.1))
    torch.manual_seed(0)
    few = AffinityLoss(max_frames=3)(**inputs)
    assert not torch.allclose(few, affinity_loss(**inputs))
