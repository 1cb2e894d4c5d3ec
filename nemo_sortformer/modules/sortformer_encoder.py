# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The SortFormer encoder: a Transformer in which every layer knows who has arrived, in order."""

from torch import Tensor, nn

from nemo_sortformer.modules.affinity_feedback import AffinityFeedback
from nemo_sortformer.modules.feed_forward import FeedForward
from nemo_sortformer.modules.label_feedback import LabelFeedback
from nemo_sortformer.modules.padding import checked_mask, clear_padding, key_mask
from nemo_sortformer.modules.self_attention import SelfAttention, rotary_tables
from nemo_sortformer.modules.sortformer_layer import DepthwiseConv, SortformerLayer
from nemo_sortformer.modules.state_encoder import StateEncoder


class SortformerEncoder(StateEncoder):
    """Pre-norm layers that estimate speaker labels, sort them by arrival, and add them to the hidden states.

    Layer by layer, with h the states: h += conv(norm(h)); h += attention(norm(h)); h += feed_forward(norm(h));
    p = sigmoid(labels(norm(h))); h += E^T sort_by_arrival(p). The last layer has no label estimates, as the model's
    speaker head makes the labels there; a layer norm closes the encoder.

    The padding must be at the end of each recording, as masks made of lengths have it. The output does not depend on
    what the padded frames held, and is zero there. The arguments that NeMo's `TransformerEncoder` has too are named as
    there, so a YAML changes from one to the other by its `_target_` (and `pre_ln: true`).

    Args:
        num_layers: number of layers.
        hidden_size: width D of input and output.
        inner_size: inner width of the feed-forward networks.
        num_attention_heads: number of attention heads; divides `hidden_size`.
        num_labels: number S of label columns in each layer; that of the speaker head is a good choice.
        conv_kernel: frames of the depthwise convolution at the start of each layer, odd unless causal; 0 = none.
        positions: "rope" (rotary) or "none"; by default "rope", in causal mode "none", which does best on sequences
            longer than those trained on.
        causal: the output at frame t uses frames <= t only.
        measure: how arrival is told from estimated labels, "soft" (expected first frame) or "hard" (first frame above
            one half); by default "soft", and "hard" in causal mode, which has no choice.
        sort: false feeds the estimates back unsorted: a control with the same parameters.
        feedback: false leaves out estimates and feedback: a plain Transformer with convolutions.
        affinity_layers: the first so many layers estimate the labels from affinities of embeddings that are given
            with the states (:class:`AffinityFeedback`), the others from the states. One is best on real speech.
        affinity_frames: frames over which these embeddings are averaged, odd; about a second.
        dropout: probability of zeroing a unit of each sub-layer's output while training, in [0, 1).
        attn_score_dropout: probability of zeroing an attention weight while training. Above zero, attention on a CPU
            holds frames squared numbers per head.
        attn_layer_dropout: `dropout` behind the attention, where another is wanted.
        ffn_dropout: `dropout` behind the feed-forward networks, where another is wanted.
        hidden_act: "gelu" or "relu".
        pre_ln: NeMo's key; only true here, as the feedback adds to states that no norm has rescaled.
        pre_ln_final_layer_norm: a last norm at the end.

    Raises:
        ValueError: a number out of range, an unknown name, or settings that contradict each other.

    Source: SortFormer (Park et al. 2024, arXiv:2409.06656), with the settings of our own ablations.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        inner_size: int,
        num_attention_heads: int = 1,
        num_labels: int = 4,
        *,
        conv_kernel: int = 15,
        positions: str | None = None,
        causal: bool = False,
        measure: str | None = None,
        sort: bool = True,
        feedback: bool = True,
        affinity_layers: int = 0,
        affinity_frames: int = 13,
        dropout: float = 0.1,
        attn_score_dropout: float = 0.0,
        attn_layer_dropout: float | None = None,
        ffn_dropout: float | None = None,
        hidden_act: str = "gelu",
        pre_ln: bool = True,
        pre_ln_final_layer_norm: bool = True,
    ) -> None:
        super().__init__()
        if not pre_ln:
            raise ValueError(
                "`pre_ln` must be true in a SortformerEncoder, but is false. Leave the key out, or set `pre_ln: true`."
            )
        positions = positions or ("none" if causal else "rope")
        measure = measure or ("hard" if causal else "soft")
        head_size = hidden_size // max(num_attention_heads, 1)
        _check_settings(num_layers, num_labels, conv_kernel, positions, causal, measure, head_size)
        if not 0 <= affinity_layers < num_layers or (affinity_layers and not feedback):
            raise ValueError(
                f"`affinity_layers` must be at least 0 and less than `num_layers`, {num_layers}, as the last has "
                f"no estimates, and 0 without `feedback`, but is {affinity_layers}."
            )
        self.hidden_size, self.num_labels = hidden_size, num_labels
        self.causal, self.affinity_layers = causal, affinity_layers
        self.rotary_size = head_size if positions == "rope" else 0
        attn_layer_dropout = dropout if attn_layer_dropout is None else attn_layer_dropout
        ffn_dropout = dropout if ffn_dropout is None else ffn_dropout
        rates = {"dropout": dropout, "attn_score_dropout": attn_score_dropout}
        rates |= {"attn_layer_dropout": attn_layer_dropout, "ffn_dropout": ffn_dropout}
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"`{name}` must be in [0, 1), but is {rate}.")

        def build_layer(index: int) -> SortformerLayer:
            labels: LabelFeedback | AffinityFeedback | None = None
            if feedback and index < affinity_layers:
                labels = AffinityFeedback(hidden_size, num_labels, frames=affinity_frames, causal=causal)
            elif feedback and index < num_layers - 1:
                labels = LabelFeedback(hidden_size, num_labels, measure=measure, causal=causal, sort=sort)
            return SortformerLayer(
                SelfAttention(
                    hidden_size,
                    num_attention_heads,
                    score_dropout=attn_score_dropout,
                    layer_dropout=attn_layer_dropout,
                ),
                FeedForward(hidden_size, inner_size, hidden_act=hidden_act, dropout=ffn_dropout),
                hidden_size=hidden_size,
                conv=DepthwiseConv(hidden_size, conv_kernel, causal=causal) if conv_kernel else None,
                conv_dropout=dropout,
                feedback=labels,
            )

        self.layers = nn.ModuleList(build_layer(index) for index in range(num_layers))
        self.final_layer_norm = nn.LayerNorm(hidden_size) if pre_ln_final_layer_norm else nn.Identity()

    def forward_with_labels(
        self, encoder_states: Tensor, encoder_mask: Tensor | None = None, embeddings: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode, and give the label estimates of the layers as well.

        Args:
            encoder_states: shape (batch, frames, hidden_size).
            encoder_mask: true or 1 = valid, shape (batch, frames), padding at the end; none = all valid.
            embeddings: with `affinity_layers`, unit vectors that are near for frames of one class, as an
                `AffinityHead` gives them, shape (batch, frames, dim).

        Returns:
            The states, shape (batch, frames, hidden_size), zero in the padding; and for each layer but the last the
            logits of its label estimates, shape (batch, frames, num_labels), float32, columns in order of arrival
            (with `sort`), which a loss may supervise with the sorted labels. Without `feedback` the list is empty.
        """
        if self.affinity_layers and embeddings is None:
            raise ValueError(
                f"`affinity_layers` is {self.affinity_layers}, so the encoder must be given `embeddings`, but there "
                "are none. Set `model.affinity`, which makes them, or `affinity_layers: 0`."
            )
        mask = checked_mask(encoder_states, encoder_mask)
        states = clear_padding(encoder_states, mask)
        lengths = None if mask is None else mask.sum(dim=1)
        # With the padding at the end, a causal mask hides it from every valid frame by itself.
        keys = None if self.causal else key_mask(mask)
        rotation = rotary_tables(states.shape[1], self.rotary_size, like=states) if self.rotary_size else None
        layer_logits = []
        for layer in self.layers:
            states, logits = layer(
                states,
                mask=mask,
                lengths=lengths,
                keys=keys,
                is_causal=self.causal,
                rotation=rotation,
                embeddings=embeddings,
            )
            if logits is not None:
                layer_logits.append(logits)
        return clear_padding(self.final_layer_norm(states), mask), layer_logits


def _check_settings(
    num_layers: int, num_labels: int, conv_kernel: int, positions: str, causal: bool, measure: str, head_size: int
) -> None:
    """Raise ``ValueError`` where the settings of a :class:`SortformerEncoder` make none."""
    for name, value in (("num_layers", num_layers), ("num_labels", num_labels)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {value}.")
    if conv_kernel < 0 or (conv_kernel and not causal and conv_kernel % 2 == 0):
        raise ValueError(f"`conv_kernel` must be odd, or 0 for no convolution, but is {conv_kernel}.")
    if positions not in ("rope", "none"):
        raise ValueError(f"`positions` must be 'rope' or 'none', but is {positions!r}.")
    if positions == "rope" and head_size % 2:
        raise ValueError(
            f"`positions: rope` needs attention heads of even width, but `hidden_size` / `num_attention_heads` is "
            f"{head_size}. Change one of the two, or set `positions: none`."
        )
    if measure not in ("soft", "hard"):
        raise ValueError(f"`measure` must be 'soft' or 'hard', but is {measure!r}.")
    if causal and measure == "soft":
        raise ValueError("`measure: soft` looks at frames to come, so with `causal: true` set `measure: hard`.")
