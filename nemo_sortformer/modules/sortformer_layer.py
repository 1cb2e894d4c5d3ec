# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One layer of the SortFormer encoder: local mixing, attention, feed-forward, label feedback."""

from torch import Tensor, nn
from torch.nn import functional as F

from nemo_sortformer.modules.affinity_feedback import AffinityFeedback
from nemo_sortformer.modules.feed_forward import FeedForward
from nemo_sortformer.modules.label_feedback import LabelFeedback
from nemo_sortformer.modules.padding import clear_padding
from nemo_sortformer.modules.self_attention import SelfAttention


class FrameConv1d(nn.Conv1d):
    """A convolution of frames whose channels lie side by side in memory: on a CPU that trains twice as fast."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002  torch's name
        if input.device.type != "cpu":
            return super()._conv_forward(input, weight, bias)
        padding = (*self.padding, 0)  # an image that is one wide: oneDNN's gradient is slower for one that is one high
        return F.conv2d(input.unsqueeze(3), weight.unsqueeze(3), bias, padding=padding, groups=self.groups).squeeze(3)


class DepthwiseConv(nn.Module):
    """Mixes each channel with its neighbours in time: what attention without positions cannot do.

    Args:
        hidden_size: number of channels.
        kernel_size: frames; odd unless `causal`.
        causal: frame t sees the `kernel_size` frames that end with t, otherwise those around it.
    """

    def __init__(self, hidden_size: int, kernel_size: int, *, causal: bool) -> None:
        super().__init__()
        self.past = kernel_size - 1 if causal else 0  # frames of silence in front, which the convolution cannot add
        around = 0 if causal else kernel_size // 2
        self.conv = FrameConv1d(hidden_size, hidden_size, kernel_size, padding=around, groups=hidden_size)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frames, hidden_size) -> same shape; padded frames count as zeros, like those beyond the ends."""
        states = clear_padding(states, mask)
        if self.past:
            states = F.pad(states, (0, 0, self.past, 0))
        return self.conv(states.transpose(1, 2)).transpose(1, 2)


class SortformerLayer(nn.Module):
    """A pre-norm Transformer layer with optional local mixing in front and label feedback behind.

    Args:
        attention: how frames look at each other.
        feed_forward: how each frame is transformed.
        hidden_size: width D of the states.
        conv: local mixing, or none.
        conv_dropout: probability of zeroing a unit of its output while training.
        feedback: label feedback, or none (as in the last layer).
    """

    def __init__(
        self,
        attention: SelfAttention,
        feed_forward: FeedForward,
        *,
        hidden_size: int,
        conv: DepthwiseConv | None = None,
        conv_dropout: float = 0.0,
        feedback: LabelFeedback | AffinityFeedback | None = None,
    ) -> None:
        super().__init__()
        self.conv_norm = None if conv is None else nn.LayerNorm(hidden_size)
        self.conv = conv
        self.conv_dropout = nn.Dropout(conv_dropout)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = attention
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = feed_forward
        self.feedback = feedback

    def forward(
        self,
        states: Tensor,
        *,
        mask: Tensor | None,
        lengths: Tensor | None,
        keys: Tensor | None,
        is_causal: bool,
        rotation: tuple[Tensor, Tensor] | None,
        embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One layer.

        Args:
            states: shape (batch, frames, hidden_size).
            mask: bool, true = valid, shape (batch, frames); none = all valid.
            lengths: the number of valid frames, shape (batch,); none with `mask`.
            keys: the `mask` of :class:`SelfAttention`.
            is_causal: as there.
            rotation: as there.
            embeddings: what an :class:`AffinityFeedback` reads, shape (batch, frames, dim).

        Returns:
            The states, and the logits of the label estimates or none; see :class:`LabelFeedback`.
        """
        if self.conv is not None:
            states = states + self.conv_dropout(self.conv(self.conv_norm(states), mask))
        states = states + self.attention(
            self.attention_norm(states), mask=keys, is_causal=is_causal, rotation=rotation
        )
        states = states + self.feed_forward(self.feed_forward_norm(states))
        return (states, None) if self.feedback is None else self.feedback(states, mask, lengths, embeddings)
