# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Pooling by multi-head attention: learnt seeds collect one vector per class, and frames are compared with them."""

import torch
from nemo.core.classes import typecheck
from torch import Tensor, nn

from nemo_sortformer.baselines.set_transformer_encoder import AttentionBlock
from nemo_sortformer.modules.feed_forward import FeedForward
from nemo_sortformer.modules.label_head import StateHead
from nemo_sortformer.modules.padding import checked_mask, clear_padding, key_mask


class PoolingHead(StateHead):
    """PMA_k: `num_classes` seeds look at all frames and become the classes; a logit is frame times class.

    The class vectors are a function of the set of frames; which class a seed finds is the seed's choice, so training
    needs a permutation invariant loss. Hyper-parameters that a plain linear head has not: the number of seeds, of
    heads, and of layers between the seeds, and the width of two more feed-forward networks.

    Args:
        hidden_size: width D of the states.
        num_classes: label columns S, and seeds k.
        num_attention_heads: heads of the pooling; divides `hidden_size`.
        inner_size: inner width of the feed-forward networks; `hidden_size` where none.
        num_seed_layers: layers of self-attention between the class vectors (the decoder's SAB).

    Raises:
        ValueError: `num_classes` below one, or heads that do not divide the width.

    Source: Lee et al. 2019 (arXiv:1810.00825), PMA eq. 11, PMA_k(Z) = MAB(S, rFF(Z)), and the decoder of eq. 12,
        SAB(PMA_k(Z)). The product of frame and class, which turns classes into labels of frames, is ours.
    """

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        *,
        num_attention_heads: int = 4,
        inner_size: int | None = None,
        num_seed_layers: int = 1,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"`num_classes` must be at least 1, but is {num_classes}.")
        inner_size = inner_size or hidden_size
        self.num_classes = num_classes
        self.seeds = nn.Parameter(torch.empty(num_classes, hidden_size))
        nn.init.xavier_uniform_(self.seeds)
        self.feed_forward = FeedForward(hidden_size, inner_size)
        self.pooling = AttentionBlock(hidden_size, inner_size, num_attention_heads)
        self.seed_layers = nn.ModuleList(
            AttentionBlock(hidden_size, inner_size, num_attention_heads) for _ in range(num_seed_layers)
        )
        self.query = nn.Linear(hidden_size, hidden_size)
        self.bias = nn.Parameter(torch.tensor(-1.0))  # before training, a class is more likely silent than not

    @typecheck()
    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """States (batch, frames, hidden_size), mask (batch, frames) -> logits (batch, frames, num_classes)."""
        classes = self.pool(states, mask)
        return torch.bmm(self.query(states), classes.mT) / states.shape[2] ** 0.5 + self.bias

    def pool(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Collect the classes, shape (batch, num_classes, hidden_size); the order of the frames changes nothing."""
        valid = checked_mask(states, mask)
        frames = self.feed_forward(clear_padding(states, valid))
        classes = self.pooling(self.seeds.expand(states.shape[0], -1, -1), frames, key_mask(valid))
        for layer in self.seed_layers:
            classes = layer(classes, classes)
        return classes
