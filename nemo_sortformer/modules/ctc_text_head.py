# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Text heads with one decision per frame (CTC): one stream of tokens with speaker tags, or one stream per speaker."""

from __future__ import annotations

import torch
from nemo.collections.asr.modules import ConvASRDecoder
from nemo.core.classes import NeuralModule, typecheck
from nemo.core.neural_types import EncodedRepresentation, LogitsType, MaskType, NeuralType, ProbsType
from torch import Tensor, nn

from nemo_sortformer.functional.kernels import target_and_others
from nemo_sortformer.modules.sortformer_encoder import SortformerEncoder


class CtcTextHead(NeuralModule):
    """NeMo's CTC classifier on states; the last token is the blank.

    Args:
        input_size: width of the states.
        num_tokens: number of tokens, the blank not counted.
        upsample: frames of the answer per frame of the states: more where tokens come faster than frames.
        dropout: probability of zeroing a unit of the states while training, in [0, 1).

    Raises:
        ValueError: `upsample` is below 1.
    """

    def __init__(self, input_size: int, num_tokens: int, *, upsample: int = 1, dropout: float = 0.1) -> None:
        super().__init__()
        if upsample < 1:
            raise ValueError(f"`upsample` must be 1 or more, but is {upsample}.")
        self.upsample = upsample
        self.dropout = nn.Dropout(dropout)
        self.spread = nn.Linear(input_size, upsample * input_size) if upsample > 1 else nn.Identity()
        self.decoder = ConvASRDecoder(feat_in=input_size, num_classes=num_tokens)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {"states": NeuralType(("B", "T", "D"), EncodedRepresentation())}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"logits": NeuralType(("B", "T", "C"), LogitsType())}

    @typecheck()
    def forward(self, states: Tensor) -> Tensor:
        """(batch, frames, input_size) -> log-probabilities (batch, frames * upsample, num_tokens + 1)."""
        states = self.spread(self.dropout(states))
        if self.upsample > 1:
            states = states.reshape(len(states), states.shape[1] * self.upsample, -1)
        return self.decoder(encoder_output=states.transpose(1, 2))


class StreamTextHead(NeuralModule):
    """One CTC stream for each speaker slot, all in one batch: who is meant is told by the slot's own labels.

    At each frame the (normalized) states are scaled by, and have added to them, one vector times how surely the slot
    speaks, and another times how surely somebody else does. Layers with attention over the whole recording follow:
    where two speak at once, they can look up how the one that is meant sounds elsewhere. The vectors are the same for
    all slots, so that what is learnt of the first speaker serves the fourth. The streams come in order of arrival as
    the labels do, so no order has to be searched for.

    Attention may well write a word seconds before or after it is said, and CTC does not mind. `least_prior` below one
    makes tokens less likely where the slot is silent by its labels, so that words are written where they are said.

    Args:
        input_size: width of the states.
        num_tokens: number of tokens, the blank not counted.
        num_layers: layers behind the conditioning, 1 or more.
        inner_size: inner width of their feed-forward networks; None is three times `input_size`.
        num_attention_heads: their attention heads.
        conv_kernel: frames of their convolutions, odd.
        upsample: as in :class:`CtcTextHead`.
        dropout: probability of zeroing a unit while training, in [0, 1).
        least_prior: factor, in (0, 1], on the probability of all tokens where the slot is silent for
            `prior_frames` frames on both sides; where it speaks the factor is one.
        prior_frames: so far before and after its speech a slot may write.

    Raises:
        ValueError: `least_prior` or `prior_frames` is out of range.
    """

    def __init__(
        self,
        input_size: int,
        num_tokens: int,
        *,
        num_layers: int = 2,
        inner_size: int | None = None,
        num_attention_heads: int = 4,
        conv_kernel: int = 9,
        upsample: int = 1,
        dropout: float = 0.1,
        least_prior: float = 1.0,
        prior_frames: int = 3,
    ) -> None:
        super().__init__()
        if not 0 < least_prior <= 1 or prior_frames < 0:
            raise ValueError(
                f"`least_prior` must be in (0, 1] and `prior_frames` at least 0, but are {least_prior} and "
                f"{prior_frames}."
            )
        self.least_prior, self.prior_frames = least_prior, prior_frames
        self.norm = nn.LayerNorm(input_size)
        self.kernels = nn.Parameter(torch.randn(2, input_size) * 0.5)
        self.gates = nn.Parameter(torch.zeros(2, input_size))
        self.layers = SortformerEncoder(
            num_layers,
            input_size,
            inner_size or 3 * input_size,
            num_attention_heads,
            num_labels=1,
            conv_kernel=conv_kernel,
            feedback=False,
            dropout=dropout,
        )
        self.stream = CtcTextHead(input_size, num_tokens, upsample=upsample, dropout=dropout)

    @property
    def upsample(self) -> int:
        """Frames of the answer per frame of the states."""
        return self.stream.upsample

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "states": NeuralType(("B", "T", "D"), EncodedRepresentation()),
            "mask": NeuralType(("B", "T"), MaskType()),
            "labels": NeuralType(("B", "T", "C"), ProbsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"logits": NeuralType(("B", "C", "T", "D"), LogitsType())}

    @typecheck()
    def forward(self, states: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Score the tokens of all slots.

        Args:
            states: shape (batch, frames, input_size).
            mask: true = valid, shape (batch, frames).
            labels: activity in [0, 1], in order of arrival, shape (batch, frames, slots).

        Returns:
            Log-probabilities, shape (batch, slots, frames * upsample, num_tokens + 1), the blank last.
        """
        num_slots = labels.shape[2]
        roles_BST2 = target_and_others(torch.where(mask[:, :, None], labels, 0.0)).to(states.dtype)
        conditioned = self.norm(states)[:, None] * (1 + roles_BST2 @ self.gates) + roles_BST2 @ self.kernels
        states, mask = conditioned.flatten(0, 1), mask.repeat_interleave(num_slots, dim=0)
        logits = self.stream(states=self.layers(encoder_states=states, encoder_mask=mask))
        logits = logits.unflatten(0, (-1, num_slots))
        return logits if self.least_prior == 1 else self._with_prior(logits, roles_BST2[..., 0])

    def _with_prior(self, logits: Tensor, speaks_BST: Tensor) -> Tensor:
        """Make tokens less likely where the slot is silent, and the blank more, so that they add up to one again."""
        width = 2 * self.prior_frames + 1
        near_BST = nn.functional.max_pool1d(speaks_BST.float(), width, stride=1, padding=self.prior_frames)
        prior_BST = near_BST.clamp(min=self.least_prior).log().repeat_interleave(self.upsample, dim=2)
        tokens = logits[..., :-1].float() + prior_BST[..., None]
        return torch.cat([tokens, logits[..., -1:].float()], dim=-1).log_softmax(dim=-1)
