# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the backward pass needs of the forward pass, in bytes: one formula per kind of layer.

Each formula counts the tensors that torch keeps for gradients. On t tensor-parallel processes what is split counts
1 / t; with sequence parallelism so do the states between the blocks. Where the input of a layer is the output of the
one before, it counts once. Tests hold the formulas against what torch keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nemo.collections.asr.modules.conformer_encoder import ConformerEncoder
from nemo.collections.asr.parts.submodules.multi_head_attention import RelPositionMultiHeadAttention
from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling, StackingSubsampling
from torch import nn

from nemo_sortformer.config import ConfigError
from nemo_sortformer.modules import AffinityHead, SortformerEncoder, SpeakerHead, TransformerStateEncoder
from nemo_sortformer.modules.feed_forward import FeedForward
from nemo_sortformer.modules.self_attention import SelfAttention
from nemo_sortformer.modules.sortformer_layer import SortformerLayer

NORM = 8
"""Bytes per frame that a layer norm keeps beside its input: mean and deviation, in float32."""


@dataclass(frozen=True)
class Cost:
    """How the layers are computed."""

    element: int = 2
    """Bytes of a number."""
    drop: int = 1
    """Bytes that dropout keeps per number: 1 on a GPU; on a CPU a factor of the type of the numbers."""
    fused_attention: bool = True
    """Attention with dropout, or with a bias that learns, keeps no weights per pair of frames: so on a GPU."""
    tensor_size: int = 1
    """Processes that share each layer."""
    sequence_parallel: bool = False
    """They share the frames between the blocks too."""

    @property
    def part(self) -> float:
        """Share of a process in what is split."""
        return 1 / self.tensor_size

    @property
    def between(self) -> float:
        """Share of a process in the states between blocks."""
        return self.part if self.sequence_parallel else 1.0


@dataclass(frozen=True)
class Activations:
    """Bytes of one recording on one process."""

    kept: float = 0.0
    """Until the backward pass."""
    inputs: float = 0.0
    """Of these, the inputs of layers: all that is kept of them with activation checkpointing."""
    largest_layer: float = 0.0
    """What one layer keeps: it is there once more while it is computed again."""
    outside: float = 0.0
    """Of what is kept, that of no layer: it is kept in any case."""
    passing: float = 0.0
    """Largest tensors that come and go within a layer."""

    def peak(self, *, checkpointing: bool) -> float:
        """At the moment when most is there."""
        held = self.inputs + self.outside + self.largest_layer if checkpointing else self.kept
        return held + self.passing

    def __add__(self, other: Activations) -> Activations:
        return Activations(
            self.kept + other.kept,
            self.inputs + other.inputs,
            max(self.largest_layer, other.largest_layer),
            self.outside + other.outside,
            max(self.passing, other.passing),
        )


def activations_of(model: nn.Module, num_frames: int, cost: Cost) -> Activations:
    """Activations of one recording of `num_frames` frames, by the modules of `model` that this file knows.

    Raises:
        ConfigError: the model has none of them.
    """
    total, known = Activations(), 0
    for module in model.modules():
        formula = next((FORMULAS[cls] for cls in FORMULAS if isinstance(module, cls)), None)
        if formula is not None:
            total, known = total + formula(module, num_frames, cost), known + 1
    if not known:
        names = ", ".join(f"`{cls.__name__}`" for cls in FORMULAS)
        raise ConfigError(f"Activations are known of {names}, but the model has none of these.")
    return total


def conformer_encoder(encoder: ConformerEncoder, num_frames: int, cost: Cost) -> Activations:
    """NeMo's Conformer encoder with its subsampling, which each process does whole."""
    frames, e = num_frames, cost.element
    width = encoder.d_model
    drop = cost.drop if encoder.pos_enc.dropout.p > 0 else 0
    positions = (2 * frames - 1) * width * e
    outside = subsampling(encoder.pre_encode, frames, cost) + positions + frames * frames + frames * width * drop
    return _stack([conformer_layer(layer, frames, cost) for layer in encoder.layers], width, frames, cost, outside)


def conformer_layer(layer: nn.Module, num_frames: int, cost: Cost) -> Activations:
    """One layer of it."""
    e, part, between = cost.element, cost.part, cost.between
    width = layer.norm_out.normalized_shape[0]
    inner = layer.feed_forward1.linear1.out_features * part
    drop = cost.drop if layer.dropout.p > 0 else 0
    # twice: the norm's input and output, what enters and leaves the activation, dropout inside and behind
    feed_forward = 2 * (width * e * (between + 1) + 2 * inner * e + inner * drop + width * drop * between)
    # the norm's input and output, both halves of the gate, three stages of the convolution, the first with its margins
    margin = (layer.conv.kernel_size - 1) / num_frames
    convolution = width * (e * (between + 1 + part * (6 + margin)) + drop * between)
    if isinstance(layer.conv.batch_norm, nn.LayerNorm):
        convolution += NORM + (3 * width * part * e if cost.tensor_size > 1 else 0)
    norms = 5 * NORM * between + width * e * between
    mixing = _conformer_attention(layer.self_attn, width, num_frames, cost) + width * drop * between
    kept = num_frames * (norms + feed_forward + convolution + mixing)
    return Activations(kept, passing=_passing(layer.self_attn, inner, num_frames, cost))


def _conformer_attention(attention: nn.Module, width: int, num_frames: int, cost: Cost) -> float:
    """Bytes per frame: the norm's input and output, queries, keys, values, mixed values, and what pairs keep."""
    relative = isinstance(attention, RelPositionMultiHeadAttention)
    fused = cost.fused_attention and attention.use_pytorch_sdpa
    tensors = 4 + (3 - 1 / num_frames if relative else 0) + fused  # with positions and a second query; fused: cleared
    pairs = _pairs(attention.h, num_frames, attention.dropout_rate, cost, fused=fused, bias=relative)
    return width * cost.element * (cost.between + 1 + tensors * cost.part) + pairs


def _pairs(heads: int, num_frames: int, rate: float, cost: Cost, *, fused: bool, bias: bool) -> float:
    """Bytes per frame of attention weights: fused kernels keep a sum per head, and a bias that learns."""
    heads_here = heads * cost.part
    if fused:
        return heads_here * (4 + (num_frames * cost.element if bias else 0))
    drops = rate > 0
    return heads_here * num_frames * (cost.element * (1 + drops) + cost.drop * drops)


def _passing(attention: nn.Module, inner: float, num_frames: int, cost: Cost) -> float:
    """The scores by relative position, of twice the frames, before and after they are shifted, and their sum."""
    heads = getattr(attention, "h", None) or attention.num_heads
    copies = 5 if isinstance(attention, RelPositionMultiHeadAttention) else 0 if cost.fused_attention else 3
    return num_frames * cost.element * max(copies * heads * cost.part * num_frames, 3 * inner)


def subsampling(pre_encode: nn.Module, num_frames: int, cost: Cost) -> float:
    """Bytes of NeMo's subsampling in front of a Conformer, by the number of frames behind it.

    Raises:
        ConfigError: a kind without a formula.
    """
    e = cost.element
    if isinstance(pre_encode, nn.Linear):
        return num_frames * pre_encode.in_features * e
    if isinstance(pre_encode, StackingSubsampling):
        stacked = num_frames * pre_encode.proj_out.in_features * e
        norm = getattr(pre_encode, "pre_norm", None)
        return stacked if norm is None else 2 * stacked + num_frames * pre_encode.subsampling_factor * NORM
    kind = getattr(pre_encode, "_subsampling", None)
    if not isinstance(pre_encode, ConvSubsampling) or kind not in ("dw_striding", "striding"):
        raise ConfigError(
            f"Activations are not known of the subsampling `{kind or type(pre_encode).__name__}`: they are of "
            f"`dw_striding`, `striding`, `stacking` and `stacking_norm`."
        )
    hops, bands = num_frames * pre_encode.subsampling_factor, pre_encode._feat_in
    total = float(hops * bands)
    for level in range(pre_encode._sampling_num):
        hops, bands = -(-hops // 2), -(-bands // 2)
        stages = 3 if level and kind == "dw_striding" else 2  # a depthwise map, a full one, and the mask's product
        total += hops * bands * (stages * pre_encode._conv_channels + 1)
    return e * total


def transformer_encoder(encoder: TransformerStateEncoder, num_frames: int, cost: Cost) -> Activations:
    """The Transformer of the published model: two norms, attention, feed-forward."""
    width = encoder.hidden_size
    norms = 2 * (width * cost.element + NORM) * cost.between
    layers = []
    for layer in encoder.layers:
        attention, feed_forward = layer.first_sub_layer, layer.second_sub_layer
        per_frame = norms + _self_attention(attention, width, num_frames, cost)
        per_frame += _feed_forward(feed_forward, width, cost)
        passing = _passing(attention, feed_forward.dense_in.out_features * cost.part, num_frames, cost)
        layers.append(Activations(num_frames * per_frame, passing=passing))
    final = 0 if encoder.final_layer_norm is None else num_frames * (width * cost.element + NORM)
    return _stack(layers, width, num_frames, cost, final)


def sortformer_encoder(encoder: SortformerEncoder, num_frames: int, cost: Cost) -> Activations:
    """The SortFormer encoder: convolution, attention, feed-forward, label feedback, each with its norm."""
    width = encoder.hidden_size
    layers = [_sortformer_layer(layer, encoder, num_frames, cost) for layer in encoder.layers]
    tables = num_frames * encoder.rotary_size * 4
    final = num_frames * (width * cost.element + NORM) if isinstance(encoder.final_layer_norm, nn.LayerNorm) else 0
    return _stack(layers, width, num_frames, cost, final + tables)


def _sortformer_layer(layer: SortformerLayer, encoder: SortformerEncoder, num_frames: int, cost: Cost) -> Activations:
    width, e, between = encoder.hidden_size, cost.element, cost.between
    norm = (width * e + NORM) * between
    per_frame = 2 * norm
    per_frame += _self_attention(layer.attention, width, num_frames, cost)
    per_frame += _feed_forward(layer.feed_forward, width, cost)
    if layer.conv is not None:
        channels = width * (cost.part if cost.sequence_parallel else 1)
        per_frame += norm + channels * e * (1 + layer.conv.past / num_frames)
        per_frame += width * cost.drop * between if layer.conv_dropout.p > 0 else 0
    if layer.feedback is not None:
        per_frame += norm + width * e * between + encoder.num_labels * 4 * 4
    passing = _passing(layer.attention, layer.feed_forward.dense_in.out_features * cost.part, num_frames, cost)
    return Activations(num_frames * per_frame, passing=passing)


def _self_attention(attention: SelfAttention, width: int, num_frames: int, cost: Cost) -> float:
    """Bytes per frame behind the norm: input, queries, keys, values, mixed values."""
    fused = cost.fused_attention or not attention.score_dropout
    drop = cost.drop if attention.layer_dropout.p > 0 else 0
    pairs = _pairs(attention.num_heads, num_frames, attention.score_dropout, cost, fused=fused, bias=False)
    return width * (cost.element * (1 + 4 * cost.part) + drop * cost.between) + pairs


def _feed_forward(feed_forward: FeedForward, width: int, cost: Cost) -> float:
    """Bytes per frame behind the norm: input, what leaves the activation and, for all but relu, what enters it."""
    inner = feed_forward.dense_in.out_features * cost.part * (1 if feed_forward.hidden_act == "relu" else 2)
    drop = cost.drop if feed_forward.layer_dropout.p > 0 else 0
    return (width + inner) * cost.element + width * drop * cost.between


def speaker_head(head: SpeakerHead, num_frames: int, cost: Cost) -> Activations:
    """The head, which each process has whole, with the projection in front of the state encoder."""
    drop = cost.drop if head.dropout.p > 0 else 0
    projected = 0 if head.encoder_proj is None else head.encoder_proj.in_features
    kept = num_frames * ((projected + 4 * head.hidden_size) * cost.element + 2 * head.hidden_size * drop)
    return Activations(kept, outside=kept)


def affinity_head(head: AffinityHead, num_frames: int, cost: Cost) -> Activations:
    """Embeddings in float32, before and after they are brought to length one."""
    kept = num_frames * (head.dim * 4 * 3)
    return Activations(kept, outside=kept)


def _stack(layers: list[Activations], width: int, num_frames: int, cost: Cost, outside: float) -> Activations:
    """Layers on top of each other, each with its input."""
    inputs = len(layers) * num_frames * width * cost.element * cost.between
    return Activations(
        kept=sum(layer.kept for layer in layers) + outside,
        inputs=inputs,
        largest_layer=max(layer.kept for layer in layers),
        outside=outside,
        passing=max(layer.passing for layer in layers),
    )


FORMULAS: dict[type[nn.Module], Callable[..., Activations]] = {
    ConformerEncoder: conformer_encoder,
    TransformerStateEncoder: transformer_encoder,
    SortformerEncoder: sortformer_encoder,
    SpeakerHead: speaker_head,
    AffinityHead: affinity_head,
}
"""Kinds of modules whose activations are known; others are small beside them."""
