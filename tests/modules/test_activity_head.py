# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The activity head learns how many speak, whoever they are."""

import torch

from nemo_sortformer.functional.losses import activity_loss
from nemo_sortformer.modules import ActivityHead


def test_it_learns_silence_one_and_several_from_labels_in_any_order():
    torch.manual_seed(0)
    labels = (torch.rand(8, 40, 3) < 0.4).float()
    states = 0.1 * torch.randn(8, 40, 16) + torch.eye(16)[labels.sum(-1).long()]  # the count is there, who it is not
    head = ActivityHead(16)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(200):
        shuffled = labels[:, :, torch.randperm(3)]
        loss = activity_loss(head(states=states), shuffled)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = head(states=states) > 0
    count = labels.sum(-1)
    assert (found[..., 0] == (count >= 1)).float().mean() > 0.98
    assert (found[..., 1] == (count >= 2)).float().mean() > 0.98
