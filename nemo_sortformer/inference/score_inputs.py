# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What is to be scored: truth and answers read from files, folders or a manifest, and paired by recording."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nemo_sortformer.data.labels import LabelReader
from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.data.rttm import read_rttm
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.score import Session

MANIFEST_SUFFIXES = (".json", ".jsonl")
Stretches = list[tuple[float, float]]


class Pairing(NamedTuple):
    """The sessions to score, and what had no partner."""

    sessions: list[Session]
    unanswered: list[str]
    """Recordings of the truth without an answer: they are scored, as wholly missed."""
    unknown: list[str]
    """Answers without a truth: they cannot be scored."""


class _Labels(NamedTuple):
    """Segments of one recording, with the names by which it may be known, the best first."""

    names: tuple[str, ...]
    segments: list[Segment]
    uem: Stretches | None = None


def pair_sessions(
    reference: str | Path,
    answer: str | Path | Mapping[str, Sequence[Segment]],
    *,
    uem: str | Path | None = None,
) -> Pairing:
    """Read truth and answers and pair them by recording.

    A recording is known by the name in its RTTM lines and, where its file holds no other, by the file's name too.
    One recording on each side is a pair whatever the names. An RTTM file without lines is a silent recording.

    Args:
        reference: an RTTM file of one or many recordings, a folder of `*.rttm` (without sub-folders), or a manifest
            whose lines have `rttm_filepath` or `seglst_filepath` (and may have `uem_filepath`, `offset`, `duration`).
        answer: an RTTM file, a folder of them, or segments by recording.
        uem: file of lines `recording channel start end`: the stretches that count. Recordings that it does not name
            are scored as without it.

    Raises:
        ValueError: a path is missing, a line is bad (`file:line`), two answers have one name, or nothing is paired.
    """
    truths = _read_truths(Path(reference))
    if isinstance(answer, Mapping):
        answers = [_Labels((name,), list(segments)) for name, segments in answer.items()]
    else:
        answers = _read_labels(Path(answer))
    stretches = read_uem(uem) if uem is not None else {}
    if len(truths) == 1 and len(answers) == 1:
        answers = [answers[0]._replace(names=truths[0].names)]
    place = {name: i for i in reversed(range(len(truths))) for name in truths[i].names}
    chosen: dict[int, _Labels] = {}
    unknown: list[str] = []
    for labels in answers:
        i = next((place[name] for name in labels.names if name in place), None)
        if i is None:
            unknown.append(labels.names[0])
        elif i in chosen:
            raise ValueError(f"`{truths[i].names[0]}` has two answers, the second is `{labels.names[0]}`. Keep one.")
        else:
            chosen[i] = labels
    if not chosen:
        raise ValueError(
            f"No answer is to a recording of `{reference}`: the answers are called {_some(unknown)}, the truth "
            f"{_some([truth.names[0] for truth in truths])}. Give both sides the same names."
        )
    sessions = []
    for i, truth in enumerate(truths):
        named = next((stretches[name] for name in truth.names if name in stretches), truth.uem)
        sessions.append(Session(truth.names[0], truth.segments, chosen[i].segments if i in chosen else [], named))
    return Pairing(sessions, [truth.names[0] for i, truth in enumerate(truths) if i not in chosen], unknown)


def read_truth(reference: str | Path) -> dict[str, list[Segment]]:
    """The segments of every recording of the truth, under each name that :func:`pair_sessions` would know it by."""
    return {name: labels.segments for labels in reversed(_read_truths(Path(reference))) for name in labels.names}


def read_uem(path: str | Path) -> dict[str, Stretches]:
    """Read the scored stretches of a UEM file, in seconds, by recording.

    Raises:
        ValueError: the file is missing, or a line (`file:line`) is not `recording channel start end`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file.")
    stretches: dict[str, Stretches] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith((";", "#")):
            continue
        try:
            start, end = float(fields[2]), float(fields[3])
        except (IndexError, ValueError):
            start, end = math.nan, math.nan
        if not 0 <= start < end < math.inf:
            raise ValueError(
                f"{path}:{number}: must be `recording channel start end` with start < end, but is `{line}`."
            )
        stretches.setdefault(fields[0], []).append((start, end))
    return stretches


def _read_truths(path: Path) -> list[_Labels]:
    return _read_manifest_truths(path) if path.suffix.lower() in MANIFEST_SUFFIXES else _read_labels(path)


def _read_labels(path: Path) -> list[_Labels]:
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder.")
    files = sorted(path.glob("*.rttm")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"`{path}` has no `*.rttm` files. Sub-folders are not searched.")
    labels = []
    for file in files:
        recordings = read_rttm(file)
        if not recordings:
            labels.append(_Labels((file.stem,), []))
        for name, segments in recordings.items():
            names = (name, file.stem) if len(recordings) == 1 and file.stem != name else (name,)
            labels.append(_Labels(names, segments))
    return labels


def _read_manifest_truths(path: Path) -> list[_Labels]:
    reader, labels = LabelReader(), []
    for entry in read_manifest(path):
        segments = reader.entry(entry)
        uem: Stretches | None = None
        if entry.uem_filepath is not None:
            by_name = read_uem(entry.uem_filepath)
            uem = next((by_name[name] for name in entry.recording_names if name in by_name), None)
        if uem is None and entry.duration is not None:
            uem = [(entry.offset, entry.offset + entry.duration)]
        labels.append(_Labels((entry.uniq_id,), segments, uem))
    return labels


def _some(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
