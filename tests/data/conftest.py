# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Shared by the tests of data with words: a tokenizer of letters, which needs no training."""

import string

import pytest


class LetterTokenizer:
    """Has the interface of NeMo's tokenizers: one token per letter, `_` begins a word, 0 is unknown."""

    unk_id = 0

    def __init__(self, letters=string.ascii_lowercase + string.ascii_uppercase + string.digits + "'<>"):
        self.vocab = ["<unk>", "▁", *letters]
        self.vocab_size = len(self.vocab)
        self._ids = {piece: index for index, piece in enumerate(self.vocab)}

    def text_to_ids(self, text):
        return [self._ids.get(letter, 0) for letter in "▁" + text.replace(" ", "▁")]

    def ids_to_text(self, ids):
        return "".join(self.vocab[index] for index in ids).replace("▁", " ").strip()


@pytest.fixture
def letters():
    return LetterTokenizer
