# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A text head that writes the words of all speakers as one stream of tokens: NeMo's Transformer decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from nemo.collections.asr.modules.transformer.transformer import TransformerDecoderNM
from nemo.collections.asr.parts.submodules.token_classifier import TokenClassifier
from nemo.collections.common.parts import transformer_weights_init
from nemo.core.classes import NeuralModule
from torch import Tensor, nn

from nemo_sortformer.functional.frames import lengths_to_mask


class GeneratedTokens(NamedTuple):
    """What was written about a batch."""

    tokens: Tensor
    """Without the marks of begin and end, shape (batch, tokens); past each length they say nothing."""
    lengths: Tensor
    """Tokens per recording, shape (batch,)."""
    probs: Tensor
    """Probability of each token when it was written, shape (batch, tokens), float32."""


class AttentionTextHead(NeuralModule):
    """NeMo's Transformer decoder and token classifier on states, weights named as in NeMo's AED models.

    Args:
        input_size: width of the states.
        vocab_size: number of tokens, speaker tags and the three below among them.
        bos_id: stands before the first token.
        eos_id: stands behind the last token.
        pad_id: fills up shorter texts; it is never read.
        prompt_ids: tokens before the text, which are read and not learnt; None is `bos_id` alone.
        hidden_size: width of the decoder; None is that of the states.
        num_layers: number of layers.
        inner_size: inner width of the feed-forward networks; None is four times `hidden_size`.
        num_attention_heads: number of attention heads.
        max_sequence_length: most tokens of one recording, prompt and end included.
        dropout: probability of zeroing a unit while training, in [0, 1).
        attn_score_dropout: probability of zeroing an attention weight while training, in [0, 1).
        token_noise: share of the tokens that are replaced by random ones at the decoder's input while training, in
            [0, 1): it must listen, where it would learn the sentences of a small corpus by heart.
        hidden_act: "relu" or "gelu".
        pre_ln: norms in front of the sub-layers, as in Canary.
        learn_positional_encodings: instead of sines.
        num_token_types: NeMo's key; its decoders have a table of that name that nothing reads.

    Raises:
        ValueError: `token_noise` is outside [0, 1).
    """

    def __init__(
        self,
        input_size: int,
        vocab_size: int,
        *,
        bos_id: int,
        eos_id: int,
        pad_id: int,
        prompt_ids: Sequence[int] | None = None,
        hidden_size: int | None = None,
        num_layers: int = 2,
        inner_size: int | None = None,
        num_attention_heads: int = 4,
        max_sequence_length: int = 512,
        dropout: float = 0.1,
        attn_score_dropout: float = 0.0,
        token_noise: float = 0.0,
        hidden_act: str = "relu",
        pre_ln: bool = True,
        learn_positional_encodings: bool = False,
        num_token_types: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= token_noise < 1:
            raise ValueError(f"`token_noise` must be in [0, 1), but is {token_noise}.")
        hidden_size = hidden_size or input_size
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.prompt_ids = tuple(prompt_ids or (bos_id,))
        self.token_noise, self.max_tokens = token_noise, max_sequence_length - len(self.prompt_ids)
        same_width = hidden_size == input_size
        self.encoder_decoder_proj = nn.Identity() if same_width else nn.Linear(input_size, hidden_size)
        self.transf_decoder = TransformerDecoderNM(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            inner_size=inner_size or 4 * hidden_size,
            num_attention_heads=num_attention_heads,
            max_sequence_length=max_sequence_length,
            num_token_types=num_token_types,
            embedding_dropout=dropout,
            learn_positional_encodings=learn_positional_encodings,
            ffn_dropout=dropout,
            attn_score_dropout=attn_score_dropout,
            attn_layer_dropout=dropout,
            hidden_act=hidden_act,
            pre_ln=pre_ln,
        )
        self.log_softmax = TokenClassifier(hidden_size, vocab_size, log_softmax=False)  # the name is NeMo's
        self.transf_decoder.embedding.layer_norm.register_forward_pre_hook(_in_type_of_weights)
        tokens = self.transf_decoder.embedding.token_embedding
        tokens.padding_idx = None  # NeMo takes token 0 for padding, whatever it is, and never trains it
        self.log_softmax.mlp.layer0.weight = tokens.weight
        for part in (self.transf_decoder, self.log_softmax):
            part.apply(lambda module: transformer_weights_init(module, hidden_size**-0.5))

    def forward(self, states: Tensor, mask: Tensor, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score each token of the true text, given the tokens before it.

        Args:
            states: shape (batch, frames, input_size).
            mask: true = valid, shape (batch, frames).
            tokens: the true text without begin and end, shape (batch, tokens).
            lengths: valid tokens, shape (batch,).

        Returns:
            Logits (batch, tokens + 1, vocabulary), what they should say (batch, tokens + 1), the end included, and how
            many of them are valid (batch,).

        Raises:
            ValueError: the text is longer than `max_sequence_length`.
        """
        if tokens.shape[1] > self.max_tokens:
            raise ValueError(
                f"A recording has a text of {tokens.shape[1]} tokens, but the decoder takes {self.max_tokens}. Raise "
                "`max_sequence_length` of the decoder, or cut the recordings (`session_len_sec`)."
            )
        valid = lengths_to_mask(lengths, tokens.shape[1])
        tokens = torch.where(valid, tokens, self.pad_id)
        ends = tokens.new_full((len(tokens), 1), self.eos_id)  # where nobody says anything there is no column
        labels = torch.cat([tokens, ends], dim=1).scatter(1, lengths[:, None], self.eos_id)
        prompt = self._prompt(tokens)
        before = torch.cat([prompt, self._with_noise(tokens, valid)], dim=1)
        hidden = self.transf_decoder(
            input_ids=before,
            decoder_mask=lengths_to_mask(lengths + prompt.shape[1], before.shape[1]),
            encoder_embeddings=self.encoder_decoder_proj(states),
            encoder_mask=mask,
        )
        return self.log_softmax(hidden_states=hidden[:, prompt.shape[1] - 1 :]), labels, lengths + 1

    @torch.no_grad()
    def generate(self, states: Tensor, mask: Tensor, max_tokens: Tensor) -> GeneratedTokens:
        """Write the likeliest next token, again and again, to the end or to the bound.

        The hidden states of the tokens so far are kept, so that each step costs one token.

        Args:
            states: shape (batch, frames, input_size).
            mask: true = valid, shape (batch, frames).
            max_tokens: bound on the text of each recording, shape (batch,).
        """
        bounds = max_tokens.clamp(max=self.max_tokens)
        states = self.encoder_decoder_proj(states)
        decoder, embedding = self.transf_decoder.decoder, self.transf_decoder.embedding
        last = self._prompt(max_tokens)
        running = bounds > 0
        memory: list[Tensor] | None = None
        tokens, probs, read = [], [], 0
        never = torch.tensor([self.bos_id, self.pad_id], device=states.device)
        for position in range(int(bounds.max()) if len(bounds) else 0):
            memory, _ = decoder(
                embedding(last, start_pos=read),
                torch.ones_like(last),
                states,
                mask,
                decoder_mems_list=memory,
                return_mems=True,
            )
            read += last.shape[1]
            scores = self.next_scores(memory[-1][:, -1:])
            prob, chosen = scores.index_fill(1, never, -torch.inf).softmax(dim=-1).max(dim=-1)
            running = running & (chosen != self.eos_id) & (position < bounds)
            if not bool(running.any()):
                break
            tokens.append(torch.where(running, chosen, self.pad_id))
            probs.append(torch.where(running, prob, 0.0))
            last = chosen[:, None]
        if not tokens:
            return GeneratedTokens(last[:, :0], torch.zeros_like(bounds), states.new_zeros(len(states), 0).float())
        found = torch.stack(tokens, dim=1)
        return GeneratedTokens(found, (found != self.pad_id).sum(dim=1), torch.stack(probs, dim=1))

    def next_scores(self, hidden: Tensor) -> Tensor:
        """Score the token behind the last one.

        Args:
            hidden: of the decoder's end for the last token, shape (batch, 1, hidden_size).

        Returns:
            float32, shape (batch, vocabulary).
        """
        return self.log_softmax(hidden_states=hidden)[:, 0].float()

    def _prompt(self, rows: Tensor) -> Tensor:
        """What stands before the text of each row of a batch, shape (batch, tokens)."""
        prompt = torch.tensor(self.prompt_ids, dtype=torch.long, device=rows.device)
        return prompt.expand(len(rows), -1)

    def _with_noise(self, tokens: Tensor, valid: Tensor) -> Tensor:
        if not self.training or self.token_noise == 0:
            return tokens
        noisy = valid & (torch.rand(tokens.shape, device=tokens.device) < self.token_noise)
        other = torch.randint_like(tokens, self.transf_decoder.vocab_size)
        return torch.where(noisy, other, tokens)


def _in_type_of_weights(norm: nn.LayerNorm, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """NeMo's sines are float32, and so is what they are added to, when weights are gathered in half precision."""
    return tuple(states.to(norm.weight.dtype) for states in args)
