# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Text with speaker tags to tokens and back: any tokenizer of NeMo, with tags behind its own tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from nemo_sortformer.functional.serialized import Turn

__all__ = ["SpeakerTagError", "SpeakerTokenizer", "check_text", "speaker_tag"]

_TAG = re.compile(r"<spk\d+>", re.IGNORECASE)
_APPENDED = {"bos_id": "<bos>", "eos_id": "<eos>", "pad_id": "<pad>"}
_SPECIAL_TOKENIZER = "spl_tokens"  # where NeMo's Canary keeps its prompt tokens


class SpeakerTagError(ValueError):
    """Text or a text vocabulary that holds what marks a speaker."""


def speaker_tag(speaker: int) -> str:
    """How the tag of a slot is written: ``<spk0>``, ``<spk1>``, ..."""
    return f"<spk{speaker}>"


def check_text(text: str, control: Sequence[str] = ()) -> None:
    """Check that a text holds no speaker tag, whatever its number, and none of the `control` tokens.

    Raises:
        SpeakerTagError: it does.
    """
    tag = _TAG.search(text)
    found = tag[0] if tag else next((piece for piece in control if piece in text), None)
    if found is not None:
        raise SpeakerTagError(
            f"A text must not hold `{found}`, which stands for a token of its own, but this one does: {text[:80]!r}. "
            "Take it out of the transcript."
        )


class SpeakerTokenizer:
    """A tokenizer of NeMo with one more token for each speaker, and `bos`, `eos` and `pad` where it has none.

    The tokenizer is used as it is. Its tokens keep their numbers, and the new ones come behind them, so the rows of an
    embedding or of a classifier that was trained with it stay where they are: first the tags, in order of arrival,
    then those of `bos`, `eos` and `pad` that it lacks.

    Args:
        tokenizer: any of NeMo's: SentencePiece, aggregate, Canary, WordPiece.
        num_speakers: how many tags.
        language: which part of an aggregate tokenizer the text is for. None: the only one there is.

    Raises:
        SpeakerTagError: the vocabulary of the tokenizer has speaker tags already.
        ValueError: `num_speakers` is below 1, or `language` is missing or unknown.
    """

    def __init__(self, tokenizer: Any, num_speakers: int, *, language: str | None = None) -> None:
        if num_speakers < 1:
            raise ValueError(f"`num_speakers` must be 1 or more, but is {num_speakers}.")
        self.tokenizer = tokenizer
        self.num_speakers = num_speakers
        self.language = _language(tokenizer, language)
        pieces = list(tokenizer.vocab)
        own = [str(piece) for piece in pieces if _TAG.search(str(piece))]
        if own:
            raise SpeakerTagError(
                f"The vocabulary of the tokenizer must not hold speaker tags, but it has `{own[0]}`. They are added "
                "behind it: train the tokenizer on text without tags."
            )
        self.num_text_tokens = max(int(tokenizer.vocab_size), len(pieces))
        self.speaker_ids = list(range(self.num_text_tokens, self.num_text_tokens + num_speakers))
        self.vocab_size = self.num_text_tokens + num_speakers
        self._specials: set[int] = set()
        self.bos_id = self._special("bos_id")
        self.eos_id = self._special("eos_id")
        self.pad_id = self._special("pad_id")
        self._unknown = _unknown_ids(tokenizer)
        self._silent = self._specials | self._unknown
        if isinstance(getattr(tokenizer, "special_tokens", None), dict):  # the prompt of Canary
            self._silent |= set(tokenizer.special_tokens.values())
        reserved = {str(pieces[index]) for index in self._silent if index < len(pieces)}
        self._reserved = sorted(piece for piece in reserved if piece.startswith("<|"))

    @property
    def tokens(self) -> list[str]:
        """How each token is written, in the order of the numbers."""
        pieces = [str(piece) for piece in self.tokenizer.vocab]
        pieces += [""] * (self.num_text_tokens - len(pieces))
        pieces += [speaker_tag(speaker) for speaker in range(self.num_speakers)]
        appended = {getattr(self, name): text for name, text in _APPENDED.items()}
        return pieces + [appended[index] for index in range(len(pieces), self.vocab_size)]

    def encode(self, turns: Iterable[Turn]) -> list[int]:
        """Turn text by speakers into tokens: for each turn its tag, then its text; no `bos` and no `eos`.

        Raises:
            SpeakerTagError: the text of a turn holds a tag.
            ValueError: a turn belongs to a speaker who has no tag.
        """
        ids: list[int] = []
        for speaker, text in turns:
            if not 0 <= speaker < self.num_speakers:
                raise ValueError(f"`speaker` of a turn must be in [0, {self.num_speakers}), but is {speaker}.")
            ids.append(self.speaker_ids[speaker])
            ids += self.encode_text(text)
        return ids

    def decode(self, ids: Sequence[int]) -> list[Turn]:
        """Turn tokens into text by speakers; takes any numbers at all, as a model may give them.

        Reading ends at `eos`. What is no text (`bos`, padding, unknown, numbers outside the vocabulary) is left out,
        as are tags without text. Text before the first tag is given to speaker 0.
        """
        turns: list[Turn] = []
        speaker, text_ids = 0, []
        for index in [*(int(each) for each in ids), self.eos_id]:
            tagged = self.num_text_tokens <= index < self.num_text_tokens + self.num_speakers
            if not tagged and index != self.eos_id:
                text_ids.append(index)
                continue
            text = self.decode_text(text_ids)
            if text:
                turns.append(Turn(speaker, text))
            if not tagged:
                break
            speaker, text_ids = index - self.num_text_tokens, []
        return turns

    def encode_text(self, text: str) -> list[int]:
        """Turn text without tags into tokens.

        Raises:
            SpeakerTagError: the text holds a tag, or a control token of the tokenizer.
        """
        check_text(text, self._reserved)
        text = " ".join(text.split())
        if not text:
            return []
        ids = self.tokenizer.text_to_ids(text) if self.language is None else self._aggregate_ids(text)
        return [int(index) for index in ids]

    def decode_text(self, ids: Sequence[int]) -> str:
        """Turn tokens into text, without those that are no text."""
        kept = [int(index) for index in ids if 0 <= index < self.num_text_tokens and index not in self._silent]
        return " ".join(self.tokenizer.ids_to_text(kept).split()) if kept else ""

    def count_unknown(self, ids: Iterable[int]) -> int:
        """How many tokens stand for text that the tokenizer does not know."""
        return sum(index in self._unknown for index in ids)

    def _aggregate_ids(self, text: str) -> list[int]:
        return list(self.tokenizer.text_to_ids(text, self.language))

    def _special(self, name: str) -> int:
        own = _own_id(self.tokenizer, name)
        if own is None or own in self._specials:  # some use one token for two ends; a decoder must tell them apart
            own = self.vocab_size
            self.vocab_size += 1
        self._specials.add(own)
        return own


def _own_id(tokenizer: Any, name: str) -> int | None:
    """The number of a special token; None where the tokenizer has no such token, in whatever way it says so."""
    try:
        value = getattr(tokenizer, name)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None
    return int(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _unknown_ids(tokenizer: Any) -> set[int]:
    """The numbers that stand for unknown text; each part of an aggregate tokenizer has one."""
    parts = getattr(tokenizer, "tokenizers_dict", None)
    if parts is None:
        own = _own_id(tokenizer, "unk_id")
        return set() if own is None else {own}
    shifts = tokenizer.token_id_offset
    return {shifts[name] + unknown for name, part in parts.items() for unknown in _unknown_ids(part)}


def _language(tokenizer: Any, language: str | None) -> str | None:
    parts = getattr(tokenizer, "tokenizers_dict", None)
    if parts is None:
        return None
    names = [name for name in parts if name != _SPECIAL_TOKENIZER]
    if language is None and len(names) == 1:
        return names[0]
    if language not in names:
        known = ", ".join(f"`{name}`" for name in names)
        raise ValueError(
            f"`language` must say which part of an aggregate tokenizer the text is for, one of {known}, but is "
            f"{language!r}."
        )
    return language
