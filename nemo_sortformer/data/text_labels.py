# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From utterances to the tokens of each text head, in the slots of the sorted frame labels."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from nemo_sortformer.data.joint_batch import TextLabels
from nemo_sortformer.data.speaker_tokenizer import SpeakerTokenizer
from nemo_sortformer.data.spoken_words import TRANSCRIPT, SpokenUtterance, WordsError, spoken_words
from nemo_sortformer.functional.serialized import Level, per_speaker, serialize

__all__ = ["TextLabeler", "UnknownTextWarning"]


class UnknownTextWarning(UserWarning):
    """A text has characters that the tokenizer does not know."""


class TextLabeler:
    """Makes the tokens of all text heads.

    Args:
        tokenizers: by name of the text head.
        num_slots: speakers of the result.
        levels: ``word`` or ``segment`` by head; ``segment`` where it is not given.
        fields: which text each head is for; the transcript, `words`, where it is not given.
        unknown_text: what to do about characters that the tokenizer does not know: ``warn`` counts them and warns at
            the first, ``error`` raises.
        keep_earliest_speakers: leave out the words of speakers for whom there is no slot.

    Raises:
        ValueError: a tokenizer has fewer speaker tags than there are slots, or `levels` or `fields` name no head.
    """

    def __init__(
        self,
        tokenizers: Mapping[str, SpeakerTokenizer],
        num_slots: int,
        *,
        levels: Mapping[str, Level] | None = None,
        fields: Mapping[str, str] | None = None,
        unknown_text: Literal["warn", "error"] = "warn",
        keep_earliest_speakers: bool = False,
    ) -> None:
        for option, given in (("levels", levels), ("fields", fields)):
            strange = sorted(set(given or {}) - set(tokenizers))
            if strange:
                known = ", ".join(f"`{name}`" for name in tokenizers)
                raise ValueError(f"`{option}` names `{strange[0]}`, but the text heads are {known}.")
        for name, tokenizer in tokenizers.items():
            if tokenizer.num_speakers < num_slots:
                raise ValueError(
                    f"The tokenizer of `{name}` must have a tag for each of {num_slots} slots, but has "
                    f"{tokenizer.num_speakers}."
                )
        self.tokenizers = dict(tokenizers)
        self.num_slots = num_slots
        self.levels: dict[str, Level] = {name: (levels or {}).get(name, "segment") for name in tokenizers}
        self.fields = {name: (fields or {}).get(name, TRANSCRIPT) for name in tokenizers}
        self.unknown_text = unknown_text
        self.keep_earliest_speakers = keep_earliest_speakers
        self.num_unknown = 0
        """Tokens that stood for unknown characters, so far, in this process."""

    @property
    def pad_ids(self) -> dict[str, int]:
        """What pads the tokens of each head."""
        return {name: tokenizer.pad_id for name, tokenizer in self.tokenizers.items()}

    @property
    def text_fields(self) -> list[str]:
        """The texts that are read, each once."""
        return list(dict.fromkeys(self.fields.values()))

    def __call__(
        self,
        utterances: Sequence[SpokenUtterance],
        speakers: Sequence[str],
        *,
        offset: float = 0.0,
        seconds: float | None = None,
        known: Collection[str] = (),
        source: str = "",
    ) -> dict[str, TextLabels]:
        """Make the tokens of one item.

        Args:
            utterances: of the recording.
            speakers: whose label each column is, as ``named_targets`` gives them.
            offset: start of the item in the recording, in seconds.
            seconds: length of the item; words whose middle lies in it are taken. None: all words.
            known: who has labels somewhere in the recording.
            source: names the recording in messages.

        Raises:
            WordsError: a word is of a speaker without a slot, or has unknown characters and `unknown_text` is `error`.
            SpeakerTagError: a text holds a speaker tag.
        """
        texts = {}
        for name, tokenizer in self.tokenizers.items():
            try:
                words, numbers = spoken_words(
                    utterances,
                    self.fields[name],
                    speakers,
                    offset=offset,
                    seconds=seconds,
                    known=known,
                    num_slots=self.num_slots,
                    drop_others=self.keep_earliest_speakers,
                )
                turns = serialize(words, self.levels[name], segments=numbers)
                streams = [tokenizer.encode_text(text) for text in per_speaker(turns, self.num_slots)]
                serialized = tokenizer.encode(turns)
            except ValueError as error:
                if not source:
                    raise
                raise type(error)(f"{source}: {error}") from error
            unknown = tokenizer.count_unknown(serialized)
            if unknown:
                self._unknown(name, unknown, " ".join(turn.text for turn in turns), source)
            texts[name] = TextLabels(serialized, streams)
        return texts

    def _unknown(self, name: str, count: int, text: str, source: str) -> None:
        tokenizer = self.tokenizers[name]
        strange = {letter for letter in set(text) - {" "} if tokenizer.count_unknown(tokenizer.encode_text(letter))}
        what = (
            f"{source or 'a text'}: {count} token(s) stand for what the tokenizer of `{name}` does not know"
            f"{', such as ' + ' '.join(sorted(strange)[:10]) if strange else ''}: {text[:80]!r}."
        )
        if self.unknown_text == "error":
            raise WordsError(f"{what} Correct the text, train the tokenizer on it, or set `unknown_text: warn`.")
        if self.num_unknown == 0:
            warnings.warn(f"{what} More of this kind is counted, but not named.", UnknownTextWarning, stacklevel=3)
        self.num_unknown += count
