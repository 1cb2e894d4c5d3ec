# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Trains a small SentencePiece tokenizer on the texts of a manifest, in the folder that NeMo's ASR models read."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from nemo_sortformer.data.manifest import ManifestError, read_manifest
from nemo_sortformer.data.seglst import seglst_records
from nemo_sortformer.data.speaker_tokenizer import check_text
from nemo_sortformer.data.spoken_words import TRANSCRIPT, read_ctm
from nemo_sortformer.data.word_reader import entry_texts, words_file

__all__ = ["manifest_texts", "train_text_tokenizer"]


def manifest_texts(
    path: str | Path, *, split: str | None = None, sources: Sequence[str] = (), field: str = TRANSCRIPT
) -> list[str]:
    """Collect the texts of a manifest: of its lines, and of the SegLST and CTM files that they name.

    Args:
        path: a NeMo manifest.
        split: take only the lines of this split.
        sources: take only the lines of these sources; empty: all.
        field: which text; `words` is the transcript, the key `text` of a line.

    Returns:
        The texts that are not empty; a SegLST or CTM file that several lines name counts once.

    Raises:
        ManifestError, SeglstError, WordsError: a file cannot be read.
    """
    texts: list[str] = []
    read: set[Path] = set()
    for entry in read_manifest(path):
        if split is not None and entry.extra.get("split") != split:
            continue
        if sources and entry.extra.get("source") not in sources:
            continue
        words = words_file(entry)
        file = words or entry.seglst_filepath
        if file is None:
            texts.append(entry_texts(entry, [field])[field])
        elif file not in read:
            read.add(file)
            if words:
                texts += [one.texts.get(field, "") for found in read_ctm(file).values() for one in found]
            else:
                texts += [str(record.get(field) or "") for record in seglst_records(file)]
    return [text for text in texts if text.strip()]


def train_text_tokenizer(
    texts: Iterable[str],
    folder: str | Path,
    *,
    vocab_size: int = 128,
    kind: Literal["unigram", "bpe", "char", "word"] = "bpe",
) -> Path:
    """Train a tokenizer on all letters of the texts; a small vocabulary gets as many tokens as it has use for.

    Its tokens are the unknown one (0), and those of the text: neither begin nor end nor padding, which
    ``SpeakerTokenizer`` appends.

    Args:
        texts: what to learn from; no text may hold a speaker tag.
        folder: where to write `tokenizer.model`, `tokenizer.vocab` and `vocab.txt`, as NeMo's own script does; made if
            it is not there. In a model's settings it is ``tokenizer: {dir: <folder>, type: bpe}``.
        vocab_size: largest number of tokens; never fewer than the letters that there are.
        kind: of SentencePiece. ``bpe`` and ``unigram`` give pieces of words, ``char`` letters, ``word`` whole words.

    Returns:
        The folder.

    Raises:
        ValueError: there is no text, or an unknown `kind`.
        SpeakerTagError: a text holds a speaker tag.
    """
    import sentencepiece  # comes with NeMo

    if kind not in ("unigram", "bpe", "char", "word"):
        raise ValueError(f"`kind` must be `unigram`, `bpe`, `char` or `word`, but is `{kind}`.")
    lines = [" ".join(text.split()) for text in texts]
    lines = [line for line in lines if line]
    if not lines:
        raise ManifestError("A tokenizer needs text to learn from, but there is none. Look at the manifest's `text`.")
    for line in lines:
        check_text(line)
    letters = set("".join(lines).replace(" ", ""))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=_size(lines, letters, vocab_size, kind),
        model_type=kind,
        character_coverage=1.0,
        hard_vocab_limit=False,
        max_sentence_length=max(4192, *(4 * len(line) for line in lines)),
        num_threads=1,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    scores = [processor.get_score(index) for index in range(len(pieces))]
    table = "".join(f"{piece}\t{score:g}\n" for piece, score in zip(pieces, scores, strict=True))
    (folder / "tokenizer.vocab").write_text(table, encoding="utf-8")
    # NeMo's list leaves out the unknown token, and marks what continues a word.
    listed = [piece.removeprefix("\u2581") or piece if piece[0] == "\u2581" else f"##{piece}" for piece in pieces[1:]]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in listed), encoding="utf-8")
    return folder


def _size(lines: list[str], letters: set[str], wanted: int, kind: str) -> int:
    """A vocabulary that the text can fill: the trainer of `bpe` refuses a larger one."""
    fewest = len(letters) + 2  # the unknown token and the mark of a new word
    words = {word for line in lines for word in line.split()}
    if kind in ("char", "word"):
        return max(wanted, fewest, len(words) + 1)
    merges = sum(len(word) for word in words)  # each merge makes a longer piece out of two of some word
    return max(fewest, min(wanted, fewest + merges))
