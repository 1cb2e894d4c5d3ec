# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Speaker head: encoder states to one speech logit per frame and speaker slot, with NeMo's parameter names."""

from typing import Any

from nemo.core.classes import NeuralModule, typecheck
from nemo.core.neural_types import EncodedRepresentation, LogitsType, NeuralType
from nemo.utils import logging
from torch import Tensor, nn
from torch.nn import functional as F

STREAMING_DEFAULTS: dict[str, float] = {
    "subsampling_factor": 8,
    "spkcache_len": 188,
    "fifo_len": 0,
    "chunk_len": 188,
    "spkcache_update_period": 188,
    "chunk_left_context": 1,
    "chunk_right_context": 1,
    "spkcache_sil_frames_per_spk": 3,
    "causal_attn_rate": 0,
    "causal_attn_rc": 7,
    "scores_add_rnd": 0,
    "pred_score_threshold": 0.25,
    "max_index": 99999,
    "scores_boost_latest": 0.05,
    "sil_threshold": 0.2,
    "strong_boost_rate": 0.75,
    "weak_boost_rate": 1.5,
    "min_pos_scores_rate": 0.5,
}
"""Keys of NeMo's `SortformerModules` about its streaming cache, with NeMo's defaults; kept for those who read them."""


class SpeakerHead(NeuralModule):
    """Maps encoder states to speech logits; slot k is for the k-th speaker heard.

    The arguments and parameters are named as in NeMo's `SortformerModules`, so its YAML builds this class and its
    weights load strictly. The logits' sigmoid is what NeMo's `forward_speaker_sigmoids` returns.

    Args:
        fc_d_model: width of the acoustic encoder's output; none where the states come in width `tf_d_model`.
        tf_d_model: width of the state encoder.
        num_spks: number of speaker slots.
        dropout_rate: probability of zeroing a hidden unit while training, in [0, 1).
        **streaming: NeMo's keys about streaming. They are kept in `streaming` and change nothing here; a key that
            NeMo 3.0 does not know, as configurations of other versions have, is named in a warning and dropped.

    Raises:
        ValueError: `num_spks` is below one, or `dropout_rate` is outside [0, 1).
    """

    def __init__(
        self,
        fc_d_model: int | None = 512,
        tf_d_model: int = 192,
        num_spks: int = 4,
        dropout_rate: float = 0.5,
        **streaming: Any,
    ) -> None:
        super().__init__()
        if num_spks < 1:
            raise ValueError(f"`num_spks` must be at least 1, but is {num_spks}.")
        if not 0 <= dropout_rate < 1:
            raise ValueError(f"`dropout_rate` must be in [0, 1), but is {dropout_rate}.")
        unknown = sorted(set(streaming) - set(STREAMING_DEFAULTS))
        if unknown:
            names = ", ".join(f"`{name}`" for name in unknown)
            logging.warning(f"SpeakerHead does not know the keys {names} and ignores them.")
        self.hidden_size = tf_d_model
        self.num_spks = num_spks
        self.streaming = {key: streaming.get(key, default) for key, default in STREAMING_DEFAULTS.items()}
        self.encoder_proj = None if fc_d_model in (None, tf_d_model) else nn.Linear(fc_d_model, tf_d_model)
        self.first_hidden_to_hidden = nn.Linear(tf_d_model, tf_d_model)
        self.single_hidden_to_spks = nn.Linear(tf_d_model, num_spks)
        self.dropout = nn.Dropout(dropout_rate)
        # Never used, there or here. It is kept, frozen, so that NeMo's files load strictly here and ours load there.
        self.hidden_to_spks = nn.Linear(2 * tf_d_model, num_spks).requires_grad_(False)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {"states": NeuralType(("B", "T", "D"), EncodedRepresentation())}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {"logits": NeuralType(("B", "T", "C"), LogitsType())}

    def project(self, states: Tensor) -> Tensor:
        """(batch, frames, fc_d_model) -> (batch, frames, tf_d_model); the same states where the widths are equal."""
        return states if self.encoder_proj is None else self.encoder_proj(states)

    @typecheck()
    def forward(self, states: Tensor) -> Tensor:
        """(batch, frames, tf_d_model) -> (batch, frames, num_spks)."""
        hidden = self.first_hidden_to_hidden(self.dropout(F.relu(states)))
        return self.single_hidden_to_spks(self.dropout(F.relu(hidden)))
