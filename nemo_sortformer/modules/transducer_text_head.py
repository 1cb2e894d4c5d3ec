# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A text head that writes the words of all speakers frame by frame: NeMo's transducer (RNN-T)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from nemo.collections.asr.modules import RNNTDecoder, RNNTJoint
from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import GreedyBatchedRNNTInfer
from nemo.core.classes import NeuralModule
from torch import Tensor

from nemo_sortformer.functional.frames import lengths_to_mask


class TransducedTokens(NamedTuple):
    """What was written about one recording."""

    tokens: list[int]
    frames: list[int]
    """The frame at which each token was written."""


class TransducerTextHead(NeuralModule):
    """NeMo's RNN-T prediction and joint networks, weights named as in NeMo's models; the last token is the blank.

    Args:
        input_size: width of the states.
        num_tokens: number of tokens, speaker tags among them, the blank not counted.
        pred_hidden: width of the prediction network.
        pred_rnn_layers: its layers.
        joint_hidden: width of the joint network.
        activation: of the joint network, "relu", "tanh" or "sigmoid".
        dropout: probability of zeroing a unit of both while training, in [0, 1).
        max_symbols: most tokens written at one frame.
    """

    def __init__(
        self,
        input_size: int,
        num_tokens: int,
        *,
        pred_hidden: int = 128,
        pred_rnn_layers: int = 1,
        joint_hidden: int = 128,
        activation: str = "relu",
        dropout: float = 0.1,
        max_symbols: int = 5,
    ) -> None:
        super().__init__()
        prednet = {"pred_hidden": pred_hidden, "pred_rnn_layers": pred_rnn_layers, "dropout": dropout, "t_max": None}
        self.decoder = RNNTDecoder(prednet=prednet, vocab_size=num_tokens, blank_as_pad=True)
        jointnet = {
            "encoder_hidden": input_size,
            "pred_hidden": pred_hidden,
            "joint_hidden": joint_hidden,
            "activation": activation,
            "dropout": dropout,
        }
        self.joint = RNNTJoint(jointnet=jointnet, num_classes=num_tokens)
        self.blank, self.max_symbols = num_tokens, max_symbols

    @property
    def upsample(self) -> int:
        """Frames of the answer per frame of the states."""
        return 1

    def forward(self, states: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Score each token at each frame and behind each number of true tokens.

        Args:
            states: shape (batch, frames, input_size).
            tokens: the true text, shape (batch, tokens); past each length it may be anything.
            lengths: valid tokens, shape (batch,).

        Returns:
            Log-probabilities or, on a GPU, scores before the softmax, which the loss makes there: shape
            (batch, frames, tokens + 1, num_tokens + 1).
        """
        tokens = torch.where(lengths_to_mask(lengths, tokens.shape[1]), tokens, self.blank)
        predicted, _, _ = self.decoder(targets=tokens, target_length=lengths)
        return self.joint(encoder_outputs=states.transpose(1, 2), decoder_outputs=predicted)

    @torch.no_grad()
    def generate(self, states: Tensor, lengths: Tensor) -> list[TransducedTokens]:
        """Write the likeliest token at each frame, and again until it is the blank, `max_symbols` times at most.

        Args:
            states: shape (batch, frames, input_size).
            lengths: valid frames, shape (batch,).
        """
        search = GreedyBatchedRNNTInfer(
            decoder_model=self.decoder,
            joint_model=self.joint,
            blank_index=self.blank,
            max_symbols_per_step=self.max_symbols,
            use_cuda_graph_decoder=False,
        )
        (found,) = search(encoder_output=states.transpose(1, 2), encoded_lengths=lengths)
        return [
            TransducedTokens([int(token) for token in one.y_sequence], [int(frame) for frame in one.timestamp])
            for one in found
        ]
