# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From what the text heads say to words with speakers and times: greedy, batched, bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nemo_sortformer.data.joint_batch import TextBatch
from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer
from nemo_sortformer.functional.frames import lengths_to_mask
from nemo_sortformer.functional.serialized import SpokenWord, Turn, per_speaker, words_of_turns
from nemo_sortformer.models.joint_asr.output import JointOutput

if TYPE_CHECKING:
    from nemo_sortformer.models.joint_asr.model import SortformerJointASR

_SPACE = "\u2581"
"""How SentencePiece writes the begin of a word."""


def decode_words(model: SortformerJointASR, name: str, output: JointOutput, labels: Tensor) -> list[list[SpokenWord]]:
    """Write down what one text head hears in each recording.

    Args:
        model: in evaluation mode.
        name: of the text head.
        output: of the encoder. Where it has the head's scores they are read and not computed again.
        labels: who speaks, in [0, 1], in order of arrival, shape (batch, frames, slots), zero past each length.

    Returns:
        The words of each recording by start. Whoever never speaks by `labels` says nothing, so that silence gives no
        words. The words of ``ctc`` and ``ctc_streams`` have the times of the frames that say them; those of ``aed``
        are spread over the speech of their slot by letters.
    """
    config, head, tokenizer = model.config.heads[name], model.text_heads[name], model.tokenizers[name]
    active = (labels > model.config.inference.onset).any(dim=1)
    if config.kind == "aed":
        seconds = output.lengths * model.frame_seconds
        bounds = (seconds * config.max_tokens_per_second).ceil().long()
        states = model.text_input(name, output, labels)
        written = head.generate(states, output.mask, torch.where(active.any(dim=1), bounds, 0))
        rows = zip(written.tokens.tolist(), written.lengths.tolist())
        turns = [tokenizer.decode(row[:length]) for row, length in rows]
        spoken = labels > model.config.inference.onset
        return [
            spread_turns(_of_active(one, active[i].tolist()), spoken[i], model.frame_seconds)
            for i, one in enumerate(turns)
        ]
    frame_seconds = model.frame_seconds / head.upsample
    num_slots = labels.shape[2] if config.kind == "ctc_streams" else 1
    if config.kind == "rnnt":
        rows_of_tokens = head.generate(model.text_input(name, output, labels), output.lengths)
    else:
        lengths = (output.lengths * head.upsample).repeat_interleave(num_slots)
        rows_of_tokens = collapse(_frame_scores(model, name, output, labels), lengths)
    allowed = active.tolist()
    result: list[list[SpokenWord]] = []
    for first in range(0, len(rows_of_tokens), num_slots):
        words: list[SpokenWord] = []
        for slot, (ids, frames) in enumerate(rows_of_tokens[first : first + num_slots]):
            if config.kind == "ctc_streams":
                words += words_with_frames(tokenizer, ids, frames, slot, frame_seconds)
            else:
                words += _tagged_words(tokenizer, ids, frames, frame_seconds)
        here = allowed[first // num_slots]
        result.append(sorted((word for word in words if here[word.speaker]), key=lambda word: word.start))
    return result


def _frame_scores(model: SortformerJointASR, name: str, output: JointOutput, labels: Tensor) -> Tensor:
    if output.heads is not None:
        return output.heads[name].logits
    states = model.text_input(name, output, labels)
    if model.config.heads[name].kind == "ctc":
        return model.text_heads[name](states=states)
    return model.text_heads[name](states=states, mask=output.mask, labels=labels).flatten(0, 1)


def collapse(logits: Tensor, lengths: Tensor) -> list[tuple[list[int], list[int]]]:
    """The likeliest token of each frame, repeats and blanks left out.

    Args:
        logits: shape (batch, frames, tokens and blank), the blank last.
        lengths: valid frames, shape (batch,).

    Returns:
        For each row the tokens, and the frames in which they begin.
    """
    best = logits.argmax(dim=-1)
    before = torch.cat([torch.full_like(best[:, :1], -1), best[:, :-1]], dim=1)
    kept = (best != before) & (best != logits.shape[2] - 1) & lengths_to_mask(lengths, best.shape[1])
    rows, frames = kept.nonzero(as_tuple=True)
    tokens = best[rows, frames].tolist()
    places = frames.tolist()
    counts = kept.sum(dim=1).tolist()
    result, first = [], 0
    for count in counts:
        result.append((tokens[first : first + count], places[first : first + count]))
        first += count
    return result


def words_with_frames(
    tokenizer: SpeakerTokenizer, ids: Sequence[int], frames: Sequence[int], slot: int, frame_seconds: float
) -> list[SpokenWord]:
    """Group the tokens of one speaker to words, from the frame of their first token to that of their last one."""
    words = []
    for first, past in _word_bounds(tokenizer, ids):
        text = tokenizer.decode_text(ids[first:past])
        if text:
            start, end = frames[first] * frame_seconds, (frames[past - 1] + 1) * frame_seconds
            words += [SpokenWord(part, start, end, slot) for part in text.split()]
    return words


def _tagged_words(
    tokenizer: SpeakerTokenizer, ids: Sequence[int], frames: Sequence[int], frame_seconds: float
) -> list[SpokenWord]:
    """Words of one text with speaker tags; those before the first tag are of slot 0."""
    words: list[SpokenWord] = []
    slots = {tag: slot for slot, tag in enumerate(tokenizer.speaker_ids)}
    places = [place for place, token in enumerate(ids) if token in slots]
    for first, past in zip([-1, *places], [*places, len(ids)]):
        slot = 0 if first < 0 else slots[ids[first]]
        inside = slice(first + 1, past)
        words += words_with_frames(tokenizer, ids[inside], frames[inside], slot, frame_seconds)
    return words


def _word_bounds(tokenizer: SpeakerTokenizer, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where words begin and end among tokens, told from how the tokens are written."""
    pieces = tokenizer.tokens
    starts_with_mark = any(piece.startswith(_SPACE) for piece in pieces)
    first = 0
    for place in range(1, len(ids) + 1):
        piece = pieces[ids[place]] if place < len(ids) else None
        if piece is None or (piece.startswith(_SPACE) if starts_with_mark else not piece.startswith("##")):
            if first < place:
                yield first, place
            first = place


def spread_turns(turns: Sequence[Turn], spoken: Tensor, frame_seconds: float) -> list[SpokenWord]:
    """Give words without times those of their slot's speech: in order, each its share of letters.

    Args:
        turns: what the slots say.
        spoken: which frames each slot speaks in, bool, shape (frames, slots).
        frame_seconds: seconds per frame.

    Returns:
        The words by start.
    """
    said: dict[int, list[str]] = {}
    for slot, word in words_of_turns(turns):
        said.setdefault(slot, []).append(word)
    result = []
    for slot, words in said.items():
        frames = spoken[:, slot].nonzero()[:, 0].tolist()
        letters = [0]
        for word in words:
            letters.append(letters[-1] + len(word))

        def time(share: float, frames: list[int] = frames) -> float:
            whole = min(int(share * len(frames)), len(frames) - 1)
            return (frames[whole] + share * len(frames) - whole) * frame_seconds

        for number, word in enumerate(words):
            start, end = time(letters[number] / letters[-1]), time(letters[number + 1] / letters[-1])
            result.append(SpokenWord(word, start, end, slot))
    return sorted(result, key=lambda word: word.start)


def texts_of_slots(words: Sequence[SpokenWord], num_slots: int) -> list[str]:
    """All that each slot says, in the order of `words`."""
    return per_speaker([Turn(word.speaker, word.text) for word in words], num_slots)


def true_texts(tokenizer: SpeakerTokenizer, text: TextBatch) -> list[list[str]]:
    """What the speakers of a batch truly say, as the tokens have it: one text per slot, of each recording."""
    rows = zip(text.streams.tolist(), text.stream_lengths.tolist())
    return [[tokenizer.decode_text(ids[:length]) for ids, length in zip(*row)] for row in rows]


def _of_active(turns: Sequence[Turn], active: Sequence[bool]) -> list[Turn]:
    return [turn for turn in turns if active[turn.speaker]]
