# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Items and batches of audio, frame labels and the text of all speakers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nemo_sortformer.data.batch import DiarizationItem, collate

__all__ = ["JointBatch", "JointItem", "TextBatch", "TextLabels", "collate_joint"]


class TextLabels(NamedTuple):
    """The tokens of one text of one item."""

    serialized: list[int]
    """Speaker tags and text of all speakers."""
    streams: list[list[int]]
    """Text of each slot, without tags; one list per slot."""


class JointItem(NamedTuple):
    """One stretch of one recording with its labels and texts."""

    audio: Tensor
    """float32 samples, shape (samples,)."""
    targets: Tensor
    """float32 speech activity in order of arrival, shape (frames, slots)."""
    texts: dict[str, TextLabels]
    """By name of the text head; slot k of a text is column k of `targets`."""
    recording: str = ""
    offset: float = 0.0
    """Where the stretch starts in the recording, in seconds."""


class TextBatch(NamedTuple):
    """Padded tokens of one text head."""

    tokens: Tensor
    """int64, shape (batch, tokens), padded with the tokenizer's `pad_id`."""
    lengths: Tensor
    """int64 tokens per item, shape (batch,)."""
    streams: Tensor
    """int64 text of each slot, shape (batch, slots, tokens), padded in the same way."""
    stream_lengths: Tensor
    """int64, shape (batch, slots)."""


class JointBatch(NamedTuple):
    """Padded items; the first four fields are those of a ``DiarizationBatch``."""

    audio: Tensor
    """float32, shape (batch, samples)."""
    audio_lengths: Tensor
    """int64 samples per item, shape (batch,)."""
    targets: Tensor
    """float32, shape (batch, frames, slots)."""
    target_lengths: Tensor
    """int64 frames per item, shape (batch,)."""
    texts: dict[str, TextBatch]
    """By name of the text head."""


def collate_joint(items: Sequence[JointItem], *, pad_ids: Mapping[str, int]) -> JointBatch:
    """Stack items of any lengths into one padded batch.

    Args:
        items: one or more.
        pad_ids: what pads the tokens of each text head.

    Raises:
        ValueError: there is no item, the items differ in their number of slots, or an item lacks a text.
    """
    sounds = collate([DiarizationItem(item.audio, item.targets, item.recording, item.offset) for item in items])
    texts = {}
    for name, pad_id in pad_ids.items():
        lacking = [item.recording for item in items if name not in item.texts]
        if lacking:
            raise ValueError(f"Each item of a batch must have a text `{name}`, but `{lacking[0]}` has none.")
        texts[name] = _text_batch([item.texts[name] for item in items], pad_id)
    return JointBatch(*sounds, texts)


def _text_batch(labels: Sequence[TextLabels], pad_id: int) -> TextBatch:
    tokens, lengths = _padded([one.serialized for one in labels], pad_id)
    rows, row_lengths = _padded([stream for one in labels for stream in one.streams], pad_id)
    num_slots = len(labels[0].streams)
    streams = rows.reshape(len(labels), num_slots, rows.shape[1])
    return TextBatch(tokens, lengths, streams, row_lengths.reshape(len(labels), num_slots))


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    longest = int(lengths.max()) if len(rows) else 0
    padded = [[*row, *[pad_id] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest), lengths
