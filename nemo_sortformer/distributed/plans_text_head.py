# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""How the layers of NeMo's Transformer decoder are split: attention by heads, feed-forward by inner units.

All processes have the states of all tokens, with sequence parallelism too: texts are short beside the audio. What is
written next decides how often the layers run, so that all processes must choose the same token.
"""

from __future__ import annotations

from typing import Any

from nemo.collections.asr.modules.transformer.transformer_modules import MultiHeadAttention, PositionWiseFF
from torch import Tensor
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module

from nemo_sortformer.distributed.split_layers import (
    Both,
    InGroup,
    InputSplitLinear,
    SplitChannels,
    check_class,
    check_divides,
    split_dropout,
)
from nemo_sortformer.distributed.tensor_group import TensorGroup
from nemo_sortformer.modules.attention_text_head import AttentionTextHead, GeneratedTokens


class SplitDecoderAttention(MultiHeadAttention):
    """Attention of this process's heads, of tokens to tokens or to states."""

    group: TensorGroup

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, attention_mask: Tensor | None) -> Any:
        """As in NeMo; the attention weights that it returns are those of this process's heads."""
        given = (queries, keys, values)
        entered = {id(states): self.group.enter(states) for states in given}  # keys are the values
        return super().forward(*(entered[id(states)] for states in given), attention_mask)


class SplitDecoderUnits(PositionWiseFF):
    """Feed-forward network of which each process has some inner units."""

    group: TensorGroup

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As in NeMo."""
        return super().forward(self.group.enter(hidden_states))


class SplitTextHead(AttentionTextHead):
    """A head whose processes write the same tokens, to the last bit of their scores."""

    group: TensorGroup

    def generate(self, states: Tensor, mask: Tensor, max_tokens: Tensor) -> GeneratedTokens:
        """As :class:`AttentionTextHead`."""
        return super().generate(states, mask, self.group.agree(max_tokens))

    def next_scores(self, hidden: Tensor) -> Tensor:
        """As :class:`AttentionTextHead`."""
        return self.group.agree(super().next_scores(hidden))


def check_text_head(head: AttentionTextHead, where: str, *, size: int, sequence_parallel: bool) -> None:
    """Find what cannot be split, before anything is.

    Raises:
        ValueError: a number of heads or inner units that `size` does not divide, or a class without a plan.
    """
    for index, layer in enumerate(head.transf_decoder.decoder.layers):
        place = f"{where}.transf_decoder._decoder.layers.{index}"
        for name in ("first_sub_layer", "second_sub_layer"):
            attention = getattr(layer, name)
            check_class(attention, (MultiHeadAttention,), f"{place}.{name}")
            check_divides(size, "attention heads", attention.num_attention_heads, f"{place}.{name}")
        check_class(layer.third_sub_layer, (PositionWiseFF,), f"{place}.third_sub_layer")
        check_divides(size, "inner units", layer.third_sub_layer.dense_in.out_features, f"{place}.third_sub_layer")


def split_text_head(head: AttentionTextHead, group: TensorGroup) -> None:
    """Split the layers of a checked head among the processes, in place."""
    group = TensorGroup(group.mesh, sequence_parallel=False)
    plan: dict[str, ParallelStyle] = {}
    for name in ("first_sub_layer", "second_sub_layer"):
        for net in ("query_net", "key_net", "value_net"):
            plan[f"{name}.{net}"] = SplitChannels()
        plan[f"{name}.attn_dropout"] = split_dropout(group)
        plan[f"{name}.out_projection"] = InGroup(InputSplitLinear, group, columns=("weight",))
        plan[name] = Both(InGroup(SplitDecoderAttention, group), SplitChannels((), sizes=("num_attention_heads",)))
    plan["third_sub_layer.dense_in"] = SplitChannels()
    plan["third_sub_layer.dense_out"] = InGroup(InputSplitLinear, group, columns=("weight",))
    plan["third_sub_layer"] = InGroup(SplitDecoderUnits, group)
    for layer in head.transf_decoder.decoder.layers:
        parallelize_module(layer, group.mesh, plan)
    InGroup(SplitTextHead, group)._apply(head, group.mesh)
