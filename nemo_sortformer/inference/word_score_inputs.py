# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What is to be scored by its words: truth and answers from SegLST, STM and CTM files, paired by recording."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.data.seglst import seglst_records
from nemo_sortformer.data.spoken_words import TRANSCRIPT, SpokenUtterance, WordsError, read_ctm, seglst_utterances
from nemo_sortformer.inference.transcript import Transcript

KINDS = ("*.seglst.json", "*.json", "*.stm", "*.ctm")
"""Files of a folder; the first kind that it has is taken, as one transcript may lie there in several forms."""


class WordSession(NamedTuple):
    """Truth and answer of one recording."""

    recording: str
    reference: Sequence[SpokenUtterance]
    answer: Sequence[SpokenUtterance]


class WordPairing(NamedTuple):
    """The sessions to score, and what had no partner."""

    sessions: list[WordSession]
    unanswered: list[str]
    """Recordings of the truth without an answer: all their words are missed."""
    unknown: list[str]
    """Answers without a truth: they cannot be scored."""


def pair_words(reference: str | Path, answer: str | Path | Sequence[Transcript]) -> WordPairing:
    """Read truth and answers and pair them by recording; one on each side is a pair whatever the names.

    Args:
        reference: a SegLST (`.json`), STM (`.stm`) or CTM file (`.ctm`, with speakers), a folder of one kind of them,
            or a manifest whose lines have `seglst_filepath`.
        answer: the same, or transcripts.

    Raises:
        ValueError: a path is missing or has no words, a line is bad (`file:line`), or nothing is paired.
    """
    truths = read_words(reference)
    if isinstance(answer, (str, Path)):
        answers = read_words(answer)
    else:
        answers = {transcript.recording: utterances_of(transcript) for transcript in answer}
    if len(truths) == 1 and len(answers) == 1:
        answers = dict(zip(truths, answers.values(), strict=True))
    if not any(name in truths for name in answers):
        raise ValueError(
            f"No answer is to a recording of `{reference}`: the answers are called {_some(answers)}, the truth "
            f"{_some(truths)}. Give both sides the same names."
        )
    return WordPairing(
        [WordSession(name, truth, answers.get(name, [])) for name, truth in truths.items()],
        [name for name in truths if name not in answers],
        [name for name in answers if name not in truths],
    )


def read_words(path: str | Path) -> dict[str, list[SpokenUtterance]]:
    """Read who said what, by recording; see :func:`pair_words` for what may be read.

    Raises:
        ValueError: as :func:`pair_words`.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder.")
    files = [path]
    if path.is_dir():
        files = next((found for kind in KINDS if (found := sorted(path.glob(kind)))), [])
        if not files:
            raise ValueError(f"`{path}` has no files {', '.join(KINDS[1:])}. Sub-folders are not searched.")
    elif _is_manifest(path):
        files = []
        for entry in read_manifest(path):
            if entry.seglst_filepath is None:
                raise ValueError(f"`{path}`: `{entry.audio_filepath}` has no `seglst_filepath`, so no words to score.")
            files.append(entry.seglst_filepath)
    found: dict[str, list[SpokenUtterance]] = {}
    for file in files:
        for recording, utterances in _read_file(file).items():
            if recording in found:
                raise ValueError(f"{file}: the recording `{recording}` is in another file as well. Keep one.")
            found[recording] = utterances
    return found


def utterances_of(transcript: Transcript) -> list[SpokenUtterance]:
    """The utterances of a transcript."""
    return [SpokenUtterance(u.start, u.end, u.speaker, {TRANSCRIPT: u.text}) for u in transcript.segments]


def read_stm(path: str | Path) -> dict[str, list[SpokenUtterance]]:
    """Read the utterances of an STM file by recording: lines of `recording channel speaker start end [<label>] words`.

    Raises:
        WordsError: a line (`file:line`) has too few fields, or times that are no numbers or in the wrong order.
    """
    found: dict[str, list[SpokenUtterance]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), start=1):
        fields = line.split(maxsplit=5)
        if not fields or fields[0].startswith(";"):
            continue
        try:
            start, end = float(fields[3]), float(fields[4])
        except (IndexError, ValueError):
            start, end = math.nan, math.nan
        if not 0 <= start <= end < math.inf:
            raise WordsError(
                f"{path}:{number}: must be `recording channel speaker start end words` with start <= end, but is "
                f"`{line[:80]}`."
            )
        text = fields[5] if len(fields) > 5 else ""
        if text.startswith("<") and ">" in text:  # NIST's label of a condition, <o,f0,male>
            text = text.partition(">")[2]
        found.setdefault(fields[0], []).append(SpokenUtterance(start, end, fields[2], {TRANSCRIPT: text.strip()}))
    return found


def _read_file(path: Path) -> dict[str, list[SpokenUtterance]]:
    suffix = path.suffix.lower()
    if suffix == ".stm":
        found = read_stm(path)
    elif suffix == ".ctm":
        found = read_ctm(path)
    elif suffix == ".json":
        found = {}
        for name, utterance in _of_seglst(path):
            found.setdefault(name, []).append(utterance)
    else:
        raise ValueError(f"`{path}` must be SegLST (`.json`), STM (`.stm`) or CTM (`.ctm`), by its ending.")
    return found or {path.name.split(".")[0]: []}  # of a recording without words


def _of_seglst(path: Path) -> Iterator[tuple[str, SpokenUtterance]]:
    yield from seglst_utterances(seglst_records(path), (TRANSCRIPT,), path)


def _is_manifest(path: Path) -> bool:
    """Whether a file has one JSON object per line: SegLST is one list."""
    if path.suffix.lower() not in (".json", ".jsonl"):
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.read(200).lstrip().startswith("{")


def _some(names: Mapping[str, object]) -> str:
    shown = ", ".join(f"`{name}`" for name in list(names)[:5])
    return f"{shown} ..." if len(names) > 5 else shown
