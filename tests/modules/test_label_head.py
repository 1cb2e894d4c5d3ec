# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Label heads: the linear map, several side by side, heads with losses of their own."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nemo_sortformer.modules import LabelHead, LabelHeads
from nemo_sortformer.modules.label_head import forward_with_losses, has_own_losses


class HeadWithLoss(nn.Module):
    """Says everything is active, and asks for the mean of the labels."""

    num_classes = 2

    def forward(self, states, mask=None):
        return states.new_full((*states.shape[:2], 2), 5.0)

    def forward_with_losses(self, states, mask, labels):
        return self(states=states) - 10.0, {"mean": labels.mean()}


def test_a_head_is_a_linear_map_that_starts_out_silent():
    torch.manual_seed(0)
    head = LabelHead(6, 3)
    states = torch.randn(2, 5, 6)
    assert_close(head(states=states), states @ head.labels.weight.T - 1.0)
    assert head(states=states, mask=torch.zeros(2, 5, dtype=torch.bool)).shape == (2, 5, 3)


def test_dropout_works_in_training_only():
    head, states = LabelHead(64, 1, dropout=0.5), torch.randn(1, 4, 64)
    assert not torch.equal(head(states=states), head(states=states))
    assert torch.equal(head.eval()(states=states), head(states=states))


@pytest.mark.parametrize(
    "options, match",
    [
        ({"num_classes": 0}, "`num_classes` must be at least 1, but is 0"),
        ({"num_classes": 1, "dropout": 1.0}, r"`dropout` must be in \[0, 1\)"),
    ],
)
def test_impossible_heads_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        LabelHead(4, **options)


def test_several_heads_stand_side_by_side_in_their_order():
    heads = LabelHeads({"speaker": LabelHead(4, 3), "language": LabelHead(4, 2)})
    states = torch.randn(2, 5, 4)
    expected = [heads.heads[name](states=states) for name in ("speaker", "language")]
    assert_close(heads(states=states), torch.cat(expected, dim=2))
    assert not has_own_losses(heads)


def test_a_head_with_losses_gets_its_own_columns_of_the_labels():
    heads = LabelHeads({"plain": LabelHead(4, 3), "own": HeadWithLoss()})
    labels = torch.zeros(1, 2, 5)
    labels[..., 3:] = 0.25
    labels[..., :3] = 1.0
    states = torch.randn(1, 2, 4)
    assert has_own_losses(heads)
    logits, losses = forward_with_losses(heads, states, None, labels)
    assert losses == {"mean_own": torch.tensor(0.25)}
    assert_close(logits[..., 3:], torch.full((1, 2, 2), -5.0))
    assert_close(logits[..., :3], heads.heads["plain"](states=states))
    assert forward_with_losses(heads.heads["plain"], states, None, labels[..., :3])[1] == {}
