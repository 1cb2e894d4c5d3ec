# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Decoders of NeMo's speech recognizers as the start of text heads: rows by token, speakers by the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nemo_sortformer import nemo_bridge
from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer
from nemo_sortformer.nemo_bridge import LoadReport, NemoFileError

_AED = {
    "transf_decoder": "transf_decoder",
    "log_softmax": "log_softmax",
    "encoder_decoder_proj": "encoder_decoder_proj",
}
_PREFIXES: dict[str, tuple[dict[str, str], ...]] = {
    "aed": (_AED,),
    "ctc": ({"ctc_decoder": "decoder"}, {"decoder": "decoder"}),
    "ctc_streams": ({"ctc_decoder": "stream.decoder"}, {"decoder": "stream.decoder"}),
    "rnnt": ({"decoder": "decoder", "joint": "joint"},),
}
"""Names of the parts in NeMo's files, and here; of several the first that the file has (a hybrid model has both)."""
_ONE_ROW_PER_TOKEN = (
    "token_embedding.weight",
    "mlp.layer0.weight",
    "mlp.layer0.bias",
    "decoder_layers.0.weight",
    "decoder_layers.0.bias",
    "prediction.embed.weight",
)
_NOT_TAKEN = ("token_type_embedding.weight", "position_embedding.pos_enc")
"""Nothing reads the first, and the second is the same sines, as many as the model wants."""


def init_text_head(head: nn.Module, kind: str, tokenizer: SpeakerTokenizer, path: str) -> LoadReport:
    """Start a text head from the decoder of a NeMo speech recognizer with the same tokenizer.

    Rows of tokens keep their numbers, that of the blank goes to the blank, and each new one (the speakers', and those
    of begin, end and padding where the tokenizer has none) is the mean of the others: no speaker is preferred, and
    none is unlikely from the start.

    Args:
        head: the text head; it is changed.
        kind: `aed`, `ctc`, `rnnt` or `ctc_streams`.
        tokenizer: of the head.
        path: a .nemo file of an AED (Canary), CTC, transducer or hybrid model.

    Returns:
        What was loaded.

    Raises:
        NemoFileError: the file has no such decoder, another tokenizer, or other sizes.
    """
    cfg, weights = nemo_bridge.read_nemo_config(path), nemo_bridge.read_nemo_weights(path)
    prefixes = next(
        (each for each in _PREFIXES[kind] if any(name.startswith(f"{next(iter(each))}.") for name in weights)), None
    )
    if prefixes is None:
        raise NemoFileError(
            f"`{path}` has no decoder for a text head of the kind `{kind}`; its class is `{cfg.get('target')}`."
        )
    _check_vocabulary(cfg, tokenizer, path)
    own = head.state_dict()
    mapped: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for there, here in prefixes.items():
            if name.startswith(f"{there}.") and not name.endswith(_NOT_TAKEN):
                mapped[here + name[len(there) :]] = tensor
    last = _last_layer(mapped)
    for name, tensor in mapped.items():
        if name in own and name.endswith((*_ONE_ROW_PER_TOKEN, *last)):
            mapped[name] = _fitted_rows(tensor, own[name], tokenizer.num_text_tokens, kind, path)
    report = nemo_bridge.load_weights(head, mapped, path=path)
    note = f"{tokenizer.num_speakers} speaker tags start as the mean of the tokens"
    notes = () if kind == "ctc_streams" else (note,)
    return LoadReport(report.path, report.loaded, report.missing, report.unused, notes)


def _last_layer(mapped: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The last layer of a joint network, whose number depends on whether there is dropout."""
    numbers = [int(name.split(".")[2]) for name in mapped if name.startswith("joint.joint_net.")]
    return tuple(f"joint.joint_net.{max(numbers)}.{what}" for what in ("weight", "bias")) if numbers else ()


def _fitted_rows(given: Tensor, own: Tensor, num_text_tokens: int, kind: str, path: str) -> Tensor:
    """Rows of tokens as they are, the blank's behind them where there is one, the mean for the new ones."""
    blank = kind != "aed"
    if len(given) < num_text_tokens + blank or given.shape[1:] != own.shape[1:]:
        raise NemoFileError(
            f"`{path}`: the decoder has {tuple(given.shape)} weights where {num_text_tokens} tokens of the head's "
            f"tokenizer, of shape {tuple(own.shape)}, are to start from them. Use the tokenizer and the sizes of the "
            "file."
        )
    text = given[:num_text_tokens].to(own)
    rows = text.mean(dim=0, keepdim=True).expand_as(own).clone()
    rows[:num_text_tokens] = text
    if blank:
        rows[-1] = given[num_text_tokens]  # what follows it in a TDT model are durations
    return rows


def _check_vocabulary(cfg: Mapping[str, Any], tokenizer: SpeakerTokenizer, path: str) -> None:
    """Another tokenizer of the same size would give each token the weights of another."""
    for place in (("joint", "vocabulary"), ("decoder", "vocabulary"), ("aux_ctc", "decoder", "vocabulary")):
        node: Any = cfg
        for key in place:
            node = node.get(key) if isinstance(node, Mapping) else None
        own = tokenizer.tokens[: tokenizer.num_text_tokens]
        if node and [str(piece) for piece in node] != own:
            raise NemoFileError(
                f"`{path}` has another tokenizer than the text head: {len(node)} tokens, here {len(own)}. Set the "
                "head's `tokenizer` to that of the file."
            )


def text_rows(tokenizer: SpeakerTokenizer, num_rows: int) -> Tensor:
    """The rows of a head that a model of NeMo with the plain tokenizer has as well: its tokens, and the blank."""
    return torch.tensor([*range(tokenizer.num_text_tokens), num_rows - 1])


def plain_sentencepiece(tokenizer: SpeakerTokenizer) -> Any:
    """The SentencePiece model behind a tokenizer.

    Raises:
        ConfigError: it is of another type.
    """
    inner = getattr(tokenizer.tokenizer, "tokenizer", None)
    if not hasattr(inner, "serialized_model_proto"):
        raise ConfigError("`tokenizer.type` must be `bpe` to be saved in NeMo's form: one SentencePiece model.")
    return inner


def write_tokenizer(tokenizer: SpeakerTokenizer, folder: Any) -> list[str]:
    """Write the files that NeMo's models want of a SentencePiece tokenizer; returns its tokens."""
    inner = plain_sentencepiece(tokenizer)
    pieces = [inner.id_to_piece(index) for index in range(inner.get_piece_size())]
    (folder / "tokenizer.model").write_bytes(inner.serialized_model_proto())
    (folder / "tokenizer.vocab").write_text("".join(f"{piece}\t0\n" for piece in pieces), encoding="utf-8")
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return pieces


def rows_by_token(names: Sequence[str], weights: Mapping[str, Tensor]) -> list[str]:
    """Those of `names` whose weights have one row per token."""
    last = _last_layer(weights)
    return [name for name in names if name.endswith((*_ONE_ROW_PER_TOKEN, *last))]
