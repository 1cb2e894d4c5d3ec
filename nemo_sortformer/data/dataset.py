# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Recordings with RTTM or SegLST labels, as NeMo's manifests list them."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from nemo_sortformer.data.audio import AudioError, audio_info, read_audio
from nemo_sortformer.data.batch import DiarizationItem
from nemo_sortformer.data.failures import FailureLog
from nemo_sortformer.data.labels import LabelReader
from nemo_sortformer.data.manifest import ManifestEntry, ManifestError, read_manifest
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.targets import TooManySpeakersError, named_targets
from nemo_sortformer.data.windowed_dataset import WindowedDataset, windows_in_a_row

__all__ = ["DiarizationDataset", "RecordingDataset"]

ItemT = TypeVar("ItemT")

_SHORTEST_TAIL_SECONDS = 1.0
_REDRAWS = 10
_CROP_GRID = 100


class RecordingDataset(WindowedDataset[ItemT]):
    """Audio and frame targets of the recordings of one or more manifests; a subclass says what an item is.

    A recording longer than `session_len_sec` is cut. In training it gives as many items as it is windows long, each a
    window at a random place, which is a function of (seed, epoch, index) alone; a window with more speakers than
    slots is drawn anew up to ten times. Otherwise its windows follow each other and cover all of it; a tail of less
    than a second belongs to the window before it.

    A recording that cannot be read is counted, named in a warning, and replaced by the next good item, as long as no
    more than `max_failed_share` of the recordings fail.

    Args:
        manifest: path of a manifest, several paths, or entries already read.
        num_slots: columns of the targets.
        subsampling: hops of 10 ms per target frame.
        session_len_sec: longest item in seconds; None or a negative number takes whole recordings.
        training: draw windows at random.
        seed: of the random windows.
        max_failed_share: share of the recordings that may fail, in [0, 1]; 0 raises the first error at once.
        sample_rate: of the audio, in Hz.
        threshold: share of a label's window that makes it 1; None gives the share itself.
        keep_earliest_speakers: drop the speakers who arrive last where there are more than slots.

    Raises:
        ManifestError: a manifest cannot be used, or an entry names no labels; the message says which line.
    """

    def __init__(
        self,
        manifest: str | Path | Sequence[str | Path] | Sequence[ManifestEntry],
        *,
        num_slots: int,
        subsampling: int = 8,
        session_len_sec: float | None = None,
        training: bool = False,
        seed: int = 0,
        max_failed_share: float = 0.0,
        sample_rate: int = 16000,
        threshold: float | None = 0.5,
        keep_earliest_speakers: bool = False,
    ) -> None:
        self.entries = _entries(manifest)
        for entry in self.entries:
            self._check(entry)
        self.num_slots = num_slots
        self.subsampling = subsampling
        self.session_len_sec = session_len_sec if session_len_sec and session_len_sec > 0 else None
        self.sample_rate = sample_rate
        self.threshold = threshold
        self.keep_earliest_speakers = keep_earliest_speakers
        self._labels = LabelReader()
        self._seconds = [entry.duration for entry in self.entries]
        failures = FailureLog(max_failed_share, [str(entry.audio_filepath) for entry in self.entries])
        super().__init__(len(self.entries), failures, training=training, seed=seed)

    @abstractmethod
    def _check(self, entry: ManifestEntry) -> None:
        """Raise ``ManifestError`` where an entry names no labels."""

    @abstractmethod
    def _segments(self, entry: ManifestEntry) -> list[Segment]:
        """Who speaks when in the whole recording."""

    @abstractmethod
    def _item(
        self, entry: ManifestEntry, sound: np.ndarray, targets: np.ndarray, speakers: list[str], offset: float
    ) -> ItemT:
        """Make the item of a stretch; `speakers` are those of the first columns of `targets`."""

    def _cut(self, entry_index: int) -> list[tuple[float, float | None]]:
        """In seconds, NaN as start: drawn at random; opens the file where the manifest does not say how long it is."""
        entry, limit, seconds = self.entries[entry_index], self.session_len_sec, self._seconds[entry_index]
        if limit is None:
            return [(0.0, entry.duration)]
        if seconds is None:
            try:
                seconds = audio_info(entry.audio_filepath).seconds - entry.offset
            except AudioError:
                seconds = limit  # reading the item will say what is wrong, and count it
            self._seconds[entry_index] = seconds
        if seconds <= limit:
            return [(0.0, entry.duration)]
        if self.training:
            return [(math.nan, limit)] * max(round(seconds / limit), 1)
        return list(windows_in_a_row(seconds, limit, shortest_tail=_SHORTEST_TAIL_SECONDS))

    def _read(self, index: int, entry_index: int, start: float, length: float | None) -> ItemT:
        entry = self.entries[entry_index]
        segments = self._segments(entry)
        if not math.isnan(start):
            return self._make(entry, segments, start, length)
        room = max(int(((self._seconds[entry_index] or 0.0) - (length or 0.0)) * _CROP_GRID), 0)
        places = np.random.default_rng([self.seed, self.epoch, index]).integers(0, room + 1, size=_REDRAWS)
        for place in places[:-1]:
            try:
                return self._make(entry, segments, place / _CROP_GRID, length)
            except TooManySpeakersError:
                continue
        return self._make(entry, segments, places[-1] / _CROP_GRID, length)

    def _make(self, entry: ManifestEntry, segments: list[Segment], start: float, length: float | None) -> ItemT:
        offset = entry.offset + start
        audio = read_audio(entry.audio_filepath, offset=offset, duration=length, sample_rate=self.sample_rate)
        try:
            targets, speakers = named_targets(
                segments,
                num_samples=len(audio),
                num_slots=self.num_slots,
                offset=offset,
                subsampling=self.subsampling,
                threshold=self.threshold,
                sample_rate=self.sample_rate,
                keep_earliest=self.keep_earliest_speakers,
            )
        except TooManySpeakersError as error:
            raise TooManySpeakersError(f"{entry.audio_filepath}: {error}") from error
        return self._item(entry, audio, targets, speakers, offset)


class DiarizationDataset(RecordingDataset[DiarizationItem]):
    """Audio and frame targets of recordings with RTTM or SegLST labels; see :class:`RecordingDataset`."""

    def _check(self, entry: ManifestEntry) -> None:
        if entry.rttm_filepath is None and entry.seglst_filepath is None:
            LabelReader().entry(entry)  # raises, with the line

    def _segments(self, entry: ManifestEntry) -> list[Segment]:
        return self._labels.entry(entry)

    def _item(
        self, entry: ManifestEntry, sound: np.ndarray, targets: np.ndarray, speakers: list[str], offset: float
    ) -> DiarizationItem:
        return DiarizationItem(torch.from_numpy(sound), torch.from_numpy(targets), entry.uniq_id, offset)


def _entries(manifest: str | Path | Sequence[str | Path] | Sequence[ManifestEntry]) -> list[ManifestEntry]:
    if isinstance(manifest, str):
        manifest = [part.strip() for part in manifest.split(",")]  # NeMo's way to name several
    elif isinstance(manifest, Path):
        manifest = [manifest]
    entries: list[ManifestEntry] = []
    for part in manifest:
        entries.extend([part] if isinstance(part, ManifestEntry) else read_manifest(part))
    if not entries:
        raise ManifestError("`manifest_filepath` must name one manifest or more, but names none.")
    return entries
