# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The labels and the words of a manifest entry, wherever they stand: SegLST, RTTM with a CTM file, one speaker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from nemo_sortformer.data.audio import audio_info
from nemo_sortformer.data.labels import LabelReader
from nemo_sortformer.data.manifest import ManifestEntry, ManifestError
from nemo_sortformer.data.rttm import select_recording
from nemo_sortformer.data.seglst import seglst_records
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.spoken_words import (
    TRANSCRIPT,
    SpokenUtterance,
    WordsError,
    check_inside,
    read_ctm,
    seglst_utterances,
    utterance_segments,
)

__all__ = ["WordReader", "entry_speech", "entry_texts", "words_file"]

_KEPT_FILES = 16
_ONE_SPEAKER = "speaker"


def entry_texts(entry: ManifestEntry, fields: Sequence[str]) -> dict[str, str]:
    """The texts of a manifest line by field: `words` is its `text`, any other stands under its own name.

    Raises:
        WordsError: a text is no text.
    """
    texts = {}
    for field in fields:
        value = entry.text if field == TRANSCRIPT else entry.extra.get(field)
        if value is not None and not isinstance(value, str):
            raise WordsError(f"{entry.source}: `{field}` must be a text in quotes, but is {value!r}.")
        texts[field] = " ".join((value or "").split())
    return texts


class WordReader:
    """Reads who said what, when, and keeps the latest few files, as one often holds many recordings.

    Labels are those of the RTTM file where an entry names one, else those of its SegLST file, else one speaker
    (`speaker`) from `speech_start` to `speech_end`, or for the whole stretch. Words are those of the CTM file
    (`words_filepath`) where an entry names one, else those of its SegLST file, else its `text`.

    Args:
        fields: texts to read.
    """

    def __init__(self, fields: Sequence[str] = (TRANSCRIPT,)) -> None:
        self.fields = list(fields)
        self._labels = LabelReader()
        self._files: OrderedDict[Path, dict[str, list[SpokenUtterance]]] = OrderedDict()
        self._checked: set[tuple[Path, Path | None]] = set()

    def check(self, entry: ManifestEntry) -> None:
        """Check that an entry names its words, without opening a file.

        Raises:
            ManifestError: it does not.
        """
        words = words_file(entry)
        if words is not None:
            if entry.rttm_filepath is None and entry.seglst_filepath is None:
                LabelReader().entry(entry)  # raises, with the line
            others = [field for field in self.fields if field != TRANSCRIPT]
            if others:
                raise ManifestError(
                    f"{entry.source}: a CTM file holds the transcript only, but `{others[0]}` is wanted too. Write "
                    "both into a SegLST file."
                )
        elif entry.seglst_filepath is None and not any(entry_texts(entry, self.fields).values()):
            raise ManifestError(
                f"{entry.source or entry.audio_filepath}: has neither `seglst_filepath` nor `words_filepath` (CTM) "
                "nor `text`, so nobody knows what is said. A SegLST file with `[]` stands for a recording without "
                "words."
            )

    def segments(self, entry: ManifestEntry) -> list[Segment]:
        """Who speaks when in the whole recording that `entry` is a stretch of.

        Raises:
            RttmError, SeglstError, WordsError: a file cannot be used.
        """
        if entry.rttm_filepath is None and entry.seglst_filepath is None:
            return utterance_segments(self.utterances(entry))
        return self._labels.entry(entry)

    def utterances(self, entry: ManifestEntry) -> list[SpokenUtterance]:
        """Who says what in the whole recording that `entry` is a stretch of.

        Raises:
            RttmError, SeglstError, WordsError: a file cannot be used, words lie beyond the end of the audio, or a
                `text` is of nobody knows whom.
        """
        words = words_file(entry)
        if words is not None:
            found = self.recording(words, entry.recording_names, read_ctm)
        elif entry.seglst_filepath is not None:
            found = self.recording(entry.seglst_filepath, entry.recording_names)
        else:
            return [self._one(entry)]
        key = (entry.audio_filepath, words or entry.seglst_filepath)
        if key not in self._checked:
            check_inside(found, audio_info(entry.audio_filepath).seconds, words or str(entry.seglst_filepath))
            self._checked.add(key)
        return found

    def recording(
        self,
        path: Path,
        names: Sequence[str],
        read: Callable[[Path], dict[str, list[SpokenUtterance]]] | None = None,
    ) -> list[SpokenUtterance]:
        """The utterances of the recording that is called one of `names` in a file, SegLST unless `read` says other."""
        if path not in self._files:
            self._files[path] = (read or self._read_seglst)(path)
            if len(self._files) > _KEPT_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(path)
        return cast(list[SpokenUtterance], select_recording(cast(Any, self._files[path]), names, source=path))

    def _read_seglst(self, path: Path) -> dict[str, list[SpokenUtterance]]:
        found: dict[str, list[SpokenUtterance]] = {}
        for name, utterance in seglst_utterances(seglst_records(path), self.fields, path):
            found.setdefault(name, []).append(utterance)
        return found

    def _one(self, entry: ManifestEntry) -> SpokenUtterance:
        """All of a recording of one speaker."""
        texts = entry_texts(entry, self.fields)
        if entry.rttm_filepath is not None:
            segments = self._labels.entry(entry)
            speakers = sorted({segment.speaker for segment in segments})
            if len(speakers) != 1:
                raise WordsError(
                    f"{entry.source}: has a `text`, but its labels name {len(speakers)} speakers, so nobody knows who "
                    "says what. Give `seglst_filepath` or `words_filepath` (CTM with speakers)."
                )
            return SpokenUtterance(segments[0].start, max(one.end for one in segments), speakers[0], texts)
        start, end = entry_speech(entry)
        if end is None:
            end = audio_info(entry.audio_filepath).seconds
        return SpokenUtterance(start, end, entry.speaker or _ONE_SPEAKER, texts)


def entry_speech(entry: ManifestEntry) -> tuple[float, float | None]:
    """First and last second of the speech of one speaker in the file; None: to the end of the file."""
    start, end = entry.extra.get("speech_start"), entry.extra.get("speech_end")
    first = entry.offset if start is None else float(start)
    if end is not None:
        return first, float(end)
    return first, None if entry.duration is None else first + entry.duration


def words_file(entry: ManifestEntry) -> Path | None:
    """The CTM file of an entry, `words_filepath` or `ctm_filepath`; a relative path is meant from the manifest."""
    given = [entry.extra.get(name) for name in ("words_filepath", "ctm_filepath") if entry.extra.get(name)]
    if not given:
        return None
    if not isinstance(given[0], str):
        raise ManifestError(f"{entry.source}: `words_filepath` must be a path in quotes, but is {given[0]!r}.")
    folder = Path(entry.source.rpartition(":")[0]).parent if entry.source else entry.audio_filepath.parent
    return folder / Path(given[0]).expanduser()
