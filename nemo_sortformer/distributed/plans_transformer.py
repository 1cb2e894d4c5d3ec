# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""How the layers of the state encoders are split: attention by heads, feed-forward by inner units.

What a SortFormer layer adds decides for the whole recording: who arrives first. Its label estimates are a few numbers
per frame, so that all processes have all of them, bit for bit the same, and sort them alike.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module
from torch.nn import functional as F

from nemo_sortformer.distributed.split_layers import (
    Both,
    FrameNorm,
    InGroup,
    InputSplitLinear,
    SplitChannels,
    check_class,
    check_divides,
    split_dropout,
)
from nemo_sortformer.distributed.split_randomness import split_randomness
from nemo_sortformer.distributed.tensor_group import TensorGroup
from nemo_sortformer.modules import PermutationEncoding, SortformerEncoder, TransformerStateEncoder
from nemo_sortformer.modules.affinity_feedback import AffinityFeedback
from nemo_sortformer.modules.feed_forward import FeedForward
from nemo_sortformer.modules.label_feedback import LabelFeedback
from nemo_sortformer.modules.self_attention import SelfAttention
from nemo_sortformer.modules.sortformer_layer import DepthwiseConv, SortformerLayer
from nemo_sortformer.modules.transformer_state_encoder import TransformerStateLayer


class SplitSelfAttention(SelfAttention):
    """Attention of this process's heads.

    The dropout of the output stands behind the split part, as the output is not split, or in another way.
    """

    group: TensorGroup
    output_dropout: nn.Dropout

    def forward(self, states: Tensor, **rest: Any) -> Tensor:
        """As :class:`SelfAttention`; with sequence parallelism the states are this process's frames, at both ends."""
        states = self.group.enter(states)
        with split_randomness(self.group, states.device, active=self.training and self.score_dropout > 0):
            mixed = super().forward(states, **rest)
        return self.output_dropout(mixed)


class SplitInnerUnits(FeedForward):
    """Feed-forward network of which each process has some inner units."""

    group: TensorGroup

    def forward(self, states: Tensor) -> Tensor:
        """As :class:`FeedForward`; with sequence parallelism the states are this process's frames, at both ends."""
        return super().forward(self.group.enter(states))


class SplitDepthwiseConv(DepthwiseConv):
    """Convolution over all frames of this process's channels, between layers over all channels of its frames."""

    group: TensorGroup

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frames / size, hidden_size) -> same shape; `mask` is over all frames."""
        return self.group.channels_to_frames(super().forward(self.group.frames_to_channels(states), mask))


class AgreedLinear(nn.Linear):
    """Linear map that all processes compute alike; the first one's result counts, to the last bit."""

    group: TensorGroup

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's own name
        """As :class:`torch.nn.Linear`."""
        return self.group.agree(super().forward(input))


class FrameLinear(nn.Linear):
    """Linear map of this process's frames, whose result all processes get."""

    group: TensorGroup

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's own name
        """(batch, frames / size, in_features) -> (batch, frames, out_features)."""
        return self.group.join_frames(F.linear(input, *self.group.shared(self.weight, self.bias)))


class FramePermutationEncoding(PermutationEncoding):
    """The vectors of this process's frames, from the sorted probabilities of all."""

    group: TensorGroup

    def forward(self, sorted_probs: Tensor) -> Tensor:
        """(batch, frames, num_labels) -> (batch, frames / size, hidden_size)."""
        (weight,) = self.group.shared(self.weight)
        return self.group.split_frames(sorted_probs).to(weight.dtype) @ weight


class PaddedTransformerStateEncoder(TransformerStateEncoder):
    """Pads the frames so that the processes have equal parts, and cuts the padding off."""

    group: TensorGroup

    def forward(self, encoder_states: Tensor, encoder_mask: Tensor | None = None) -> Tensor:
        """As :class:`TransformerStateEncoder`."""
        padded, mask = _pad(self.group, encoder_states, encoder_mask)
        return super().forward(encoder_states=padded, encoder_mask=mask)[:, : encoder_states.shape[1]]


class PaddedSortformerEncoder(SortformerEncoder):
    """Pads the frames so that the processes have equal parts, and cuts the padding off."""

    group: TensorGroup

    def forward_with_labels(
        self, encoder_states: Tensor, encoder_mask: Tensor | None = None, embeddings: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """As :class:`SortformerEncoder`; all processes have all embeddings."""
        num_frames = encoder_states.shape[1]
        states, mask = _pad(self.group, encoder_states, encoder_mask)
        if embeddings is not None:
            embeddings = self.group.pad_frames(embeddings)
        states, layer_logits = super().forward_with_labels(states, mask, embeddings)
        return states[:, :num_frames], [logits[:, :num_frames] for logits in layer_logits]


def _pad(group: TensorGroup, states: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Padded states and their mask: the appended frames are invalid, so that no valid one sees them."""
    padded = group.pad_frames(states)
    missing = padded.shape[1] - states.shape[1]
    if missing:
        mask = states.new_ones(states.shape[:2], dtype=bool) if mask is None else mask
        mask = F.pad(mask, (0, missing))
    return padded, mask


def check_state_encoder(
    encoder: TransformerStateEncoder | SortformerEncoder, where: str, *, size: int, sequence_parallel: bool
) -> None:
    """Find what cannot be split, before anything is.

    Raises:
        ValueError: a number of heads, inner units or channels that `size` does not divide, or a class without a plan.
    """
    check_class(encoder, (TransformerStateEncoder, SortformerEncoder), where)
    for index, layer in enumerate(encoder.layers):
        place = f"{where}.layers.{index}"
        for name, part in layer.named_children():
            if isinstance(part, SelfAttention):
                check_class(part, (SelfAttention,), f"{place}.{name}")
                check_divides(size, "attention heads", part.num_heads, f"{place}.{name}")
            elif isinstance(part, FeedForward):
                check_class(part, (FeedForward,), f"{place}.{name}")
                check_divides(size, "inner units", part.dense_in.out_features, f"{place}.{name}")
            elif isinstance(part, DepthwiseConv) and sequence_parallel:
                check_divides(size, "channels", part.conv.out_channels, f"{place}.{name}")


def split_state_encoder(encoder: TransformerStateEncoder | SortformerEncoder, group: TensorGroup) -> None:
    """Split the layers of a checked encoder among the processes, in place."""
    for layer in encoder.layers:
        parallelize_module(layer, group.mesh, _plan(layer, group))
    if group.sequence_parallel:
        encoder.layers[0].register_forward_pre_hook(_SplitFrames(group))
        encoder.layers[-1].register_forward_hook(_JoinFrames(group))
        is_sortformer = isinstance(encoder, SortformerEncoder)
        encoder.__class__ = PaddedSortformerEncoder if is_sortformer else PaddedTransformerStateEncoder
        encoder.group = group


def _plan(layer: TransformerStateLayer | SortformerLayer, group: TensorGroup) -> dict[str, ParallelStyle]:
    plan: dict[str, ParallelStyle] = {}
    for name, part in layer.named_children():
        if isinstance(part, SelfAttention):
            for net in ("query_net", "key_net", "value_net"):
                plan[f"{name}.{net}"] = SplitChannels()
            plan[f"{name}.out_projection"] = InGroup(InputSplitLinear, group, columns=("weight",))
            part.output_dropout, part.layer_dropout = part.layer_dropout, nn.Identity()
            plan[name] = Both(InGroup(SplitSelfAttention, group), SplitChannels((), sizes=("num_heads",)))
            if group.sequence_parallel:
                plan[f"{name}.output_dropout"] = split_dropout(group)
        elif isinstance(part, FeedForward):
            plan[f"{name}.dense_in"] = SplitChannels()
            plan[f"{name}.dense_out"] = InGroup(InputSplitLinear, group, columns=("weight",))
            plan[name] = InGroup(SplitInnerUnits, group)
            if group.sequence_parallel:
                plan[f"{name}.layer_dropout"] = split_dropout(group)
        elif isinstance(part, LabelFeedback):
            plan |= _feedback_plan(name, "labels", group)
        elif isinstance(part, AffinityFeedback):
            plan |= _feedback_plan(name, "speech", group)
        elif group.sequence_parallel:
            plan |= _frame_plan(name, part, group)
    return plan


def _feedback_plan(name: str, estimate: str, group: TensorGroup) -> dict[str, ParallelStyle]:
    """All processes have the estimates of all frames, made by the map `estimate`, and find the same order."""
    if not group.sequence_parallel:
        return {f"{name}.{estimate}": InGroup(AgreedLinear, group)}
    return {
        f"{name}.norm": InGroup(FrameNorm, group),
        f"{name}.{estimate}": InGroup(FrameLinear, group),
        f"{name}.encoding": InGroup(FramePermutationEncoding, group),
    }


def _frame_plan(name: str, part: nn.Module, group: TensorGroup) -> dict[str, ParallelStyle]:
    """What stands between the blocks and sees this process's frames only."""
    if isinstance(part, nn.LayerNorm):
        return {name: InGroup(FrameNorm, group)}
    if isinstance(part, nn.Dropout):
        return {name: split_dropout(group)}
    if isinstance(part, DepthwiseConv):
        return {
            f"{name}.conv": SplitChannels(sizes=("in_channels", "out_channels", "groups")),
            name: InGroup(SplitDepthwiseConv, group),
        }
    return {}


class _SplitFrames:
    """In front of the first layer: each process keeps its frames."""

    def __init__(self, group: TensorGroup) -> None:
        self.group = group

    def __call__(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.group.split_frames(args[0]), *args[1:])


class _JoinFrames:
    """Behind the last layer: all processes have all frames again."""

    def __init__(self, group: TensorGroup) -> None:
        self.group = group

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # a SortFormer layer: states and label estimates, which all have
            return (self.group.join_frames(output[0]), *output[1:])
        return self.group.join_frames(output)
