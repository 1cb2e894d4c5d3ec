# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""How the layers of NeMo's FastConformer are split: attention by heads, feed-forward and convolution by channels.

The relative-position biases go with their heads. The convolution mixes no channels but in its two pointwise maps, so
it splits like a feed-forward network, batch statistics included: each channel's are those of one process.
"""

from __future__ import annotations

from typing import Any

from nemo.collections.asr.modules.conformer_encoder import ConformerEncoder
from nemo.collections.asr.parts.submodules.batchnorm import FusedBatchNorm1d
from nemo.collections.asr.parts.submodules.causal_convs import CausalConv1D
from nemo.collections.asr.parts.submodules.conformer_modules import (
    ConformerConvolution,
    ConformerFeedForward,
    ConformerLayer,
)
from nemo.collections.asr.parts.submodules.multi_head_attention import (
    MultiHeadAttention,
    RelPositionMultiHeadAttention,
    RelPositionMultiHeadAttentionLongformer,
)
from torch import Tensor, nn
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module

from nemo_sortformer.distributed.split_layers import (
    Both,
    FrameNorm,
    GatedPointwise,
    InGroup,
    InputSplitLinear,
    InputSplitPointwise,
    SplitChannelNorm,
    SplitChannels,
    check_class,
    check_divides,
    split_dropout,
)
from nemo_sortformer.distributed.split_randomness import split_randomness
from nemo_sortformer.distributed.tensor_group import TensorGroup

_NORMS = ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out")
_CHANNEL_NORMS = (nn.BatchNorm1d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.GroupNorm, nn.LayerNorm, FusedBatchNorm1d)


class SplitAttention(MultiHeadAttention):
    """Attention of this process's heads."""

    group: TensorGroup

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any) -> Any:
        """As in NeMo; with sequence parallelism the states are this process's frames, at both ends."""
        query, key, value = _enter(self.group, (query, key, value), None if mask is None else mask.shape[-1])
        with split_randomness(self.group, query.device, active=self.training and self.dropout_rate > 0):
            return super().forward(query, key, value, mask, **rest)


class SplitRelPositionAttention(RelPositionMultiHeadAttention):
    """Attention of this process's heads, with their relative-position biases."""

    group: TensorGroup

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        pos_emb: Tensor,
        cache: Tensor | None = None,
    ) -> Any:
        """As in NeMo; with sequence parallelism the states are this process's frames, at both ends."""
        num_frames = (pos_emb.shape[1] + 1) // 2 if self.group.sequence_parallel else None
        query, key, value = _enter(self.group, (query, key, value), num_frames)
        with split_randomness(self.group, query.device, active=self.training and self.dropout_rate > 0):
            return super().forward(query, key, value, mask, pos_emb, cache)


class SplitLocalAttention(RelPositionMultiHeadAttentionLongformer):
    """Attention of this process's heads to frames nearby."""

    group: TensorGroup

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pad_mask: Tensor,
        pos_emb: Tensor,
        cache: Tensor | None = None,
    ) -> Any:
        """As in NeMo; with sequence parallelism the states are this process's frames, at both ends."""
        query, key, value = _enter(self.group, (query, key, value), pad_mask.shape[1])
        with split_randomness(self.group, query.device, active=self.training and self.dropout_rate > 0):
            return super().forward(query, key, value, pad_mask, pos_emb, cache)


def _enter(group: TensorGroup, states: tuple[Tensor, ...], num_frames: int | None) -> list[Tensor]:
    """Let query, key and value in; they are one tensor in NeMo, which is then exchanged once."""
    entered = {id(part): group.enter(part, num_frames) for part in {id(part): part for part in states}.values()}
    return [entered[id(part)] for part in states]


class SplitFeedForward(ConformerFeedForward):
    """Feed-forward network of which each process has some inner units."""

    group: TensorGroup

    def forward(self, x: Tensor) -> Tensor:
        """As in NeMo; with sequence parallelism the states are this process's frames, at both ends."""
        return super().forward(self.group.enter(x))


class SplitConvolution(ConformerConvolution):
    """Convolution module of which each process has some channels."""

    group: TensorGroup

    def forward(self, x: Tensor, pad_mask: Tensor | None = None, cache: Tensor | None = None) -> Any:
        """As in NeMo; with sequence parallelism the states are this process's frames, at both ends."""
        num_frames = None if pad_mask is None else pad_mask.shape[1]
        return super().forward(self.group.enter(x, num_frames), pad_mask=pad_mask, cache=cache)


_SPLIT_ATTENTION = {
    MultiHeadAttention: SplitAttention,
    RelPositionMultiHeadAttention: SplitRelPositionAttention,
    RelPositionMultiHeadAttentionLongformer: SplitLocalAttention,
}


def check_conformer(encoder: ConformerEncoder, where: str, *, size: int, sequence_parallel: bool) -> None:
    """Find what cannot be split, before anything is.

    Raises:
        ValueError: a number of heads or channels that `size` does not divide, or a setting that no plan covers.
    """
    for index, layer in enumerate(encoder.layers):
        place = f"{where}.layers.{index}"
        check_class(layer.self_attn, tuple(_SPLIT_ATTENTION), f"{place}.self_attn")
        check_divides(size, "attention heads", layer.self_attn.h, f"{place}.self_attn")
        for name in ("feed_forward1", "feed_forward2"):
            feed_forward = getattr(layer, name)
            check_class(feed_forward, (ConformerFeedForward,), f"{place}.{name}")
            check_divides(size, "inner units", feed_forward.linear1.out_features, f"{place}.{name}")
        conv = layer.conv
        check_class(conv, (ConformerConvolution,), f"{place}.conv")
        check_class(conv.depthwise_conv, (CausalConv1D,), f"{place}.conv.depthwise_conv")
        check_class(conv.batch_norm, _CHANNEL_NORMS, f"{place}.conv.batch_norm")
        check_divides(size, "channels", conv.depthwise_conv.out_channels, f"{place}.conv")
        if isinstance(conv.batch_norm, nn.GroupNorm):
            check_divides(size, "groups", conv.batch_norm.num_groups, f"{place}.conv.batch_norm")
        if conv.pointwise_activation != "glu_":
            raise ValueError(f"Tensor parallelism needs `{place}.conv` with a gated linear unit, NeMo's default.")
        if sequence_parallel and layer.is_adapter_available():
            raise ValueError(
                f"`sequence_parallel` must be false with adapters, but `{place}` has one: it would see a part of the "
                f"frames."
            )
    if not sequence_parallel:
        return
    if encoder.reduction_subsampling is not None:
        raise ValueError(f"`sequence_parallel` must be false where `{where}` has a `reduction` between its layers.")
    if any(encoder.layer_drop_probs):
        raise ValueError(
            f"`sequence_parallel` must be false with `stochastic_depth_drop_prob` above 0, as `{where}` has it: NeMo "
            f"compares whole and divided frames there."
        )


def split_conformer(encoder: ConformerEncoder, group: TensorGroup) -> None:
    """Split the layers of a checked encoder among the processes, in place."""
    biases: dict[Tensor, nn.Parameter] = {}
    for layer in encoder.layers:
        parallelize_module(layer, group.mesh, _plan(layer, group, biases))
    if group.sequence_parallel:
        encoder.layers[0].register_forward_pre_hook(_SplitFrames(group), with_kwargs=True)
        encoder.layers[-1].register_forward_hook(_JoinFrames(group), with_kwargs=True)


def _plan(layer: ConformerLayer, group: TensorGroup, biases: dict[Tensor, nn.Parameter]) -> dict[str, ParallelStyle]:
    plan: dict[str, ParallelStyle] = {}
    attention = _SPLIT_ATTENTION[type(layer.self_attn)]
    for name in ("linear_q", "linear_k", "linear_v", "linear_pos", "global_q", "global_k", "global_v"):
        if hasattr(layer.self_attn, name):
            plan[f"self_attn.{name}"] = SplitChannels()
    plan["self_attn.linear_out"] = InGroup(InputSplitLinear, group, columns=("weight",))
    plan["self_attn"] = Both(
        InGroup(attention, group), SplitChannels(("pos_bias_u", "pos_bias_v"), sizes=("h",), seen=biases)
    )
    for name in ("feed_forward1", "feed_forward2"):
        plan[f"{name}.linear1"] = SplitChannels()
        plan[f"{name}.linear2"] = InGroup(InputSplitLinear, group, columns=("weight",))
        plan[f"{name}.dropout"] = split_dropout(group)
        plan[name] = InGroup(SplitFeedForward, group)
    plan["conv"] = InGroup(SplitConvolution, group)
    plan["conv.pointwise_conv1"] = InGroup(GatedPointwise, group, rows=_names(layer.conv.pointwise_conv1))
    plan["conv.depthwise_conv"] = SplitChannels(sizes=("in_channels", "out_channels", "groups"))
    plan["conv.batch_norm"] = _channel_norm_style(layer.conv.batch_norm, group)
    plan["conv.pointwise_conv2"] = InGroup(InputSplitPointwise, group, columns=("weight",))
    if group.sequence_parallel:
        plan |= {name: InGroup(FrameNorm, group) for name in _NORMS}
        plan["dropout"] = split_dropout(group)
    return plan


def _names(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, parameter in module._parameters.items() if parameter is not None)


def _channel_norm_style(norm: nn.Module, group: TensorGroup) -> ParallelStyle:
    if isinstance(norm, nn.LayerNorm):
        return InGroup(SplitChannelNorm, group, rows=_names(norm))
    sizes = ("num_groups", "num_channels") if isinstance(norm, nn.GroupNorm) else ("num_features",)
    return SplitChannels(("weight", "bias", "running_mean", "running_var"), sizes=sizes)


class _SplitFrames:
    """In front of the first layer: each process keeps its frames."""

    def __init__(self, group: TensorGroup) -> None:
        self.group = group

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("cache_last_channel") is not None:
            raise ValueError("`sequence_parallel` must be false for streaming: the caches hold all frames.")
        return args, kwargs | {"x": self.group.split_frames(kwargs["x"])}


class _JoinFrames:
    """Behind the last layer: all processes have all frames again."""

    def __init__(self, group: TensorGroup) -> None:
        self.group = group

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], states: Tensor) -> Tensor:
        return self.group.join_frames(states, _num_frames(kwargs))


def _num_frames(kwargs: dict[str, Any]) -> int | None:
    """Frames without the padding, from what a layer is called with."""
    pad_mask = kwargs.get("pad_mask")
    return None if pad_mask is None else pad_mask.shape[1]
