# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""lhotse cuts to batches of audio and frame targets."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from lhotse import CutSet
from lhotse.audio import AudioLoadingError, DurationMismatchError
from lhotse.cut import Cut, MixedCut, PaddingCut
from torch.utils.data import Dataset

from nemo_sortformer.data.audio import AudioError
from nemo_sortformer.data.batch import DiarizationBatch, DiarizationItem, collate
from nemo_sortformer.data.failures import DATA_ERRORS, FailureLog
from nemo_sortformer.data.labels import LabelReader
from nemo_sortformer.data.manifest import ManifestError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.targets import TooManySpeakersError, named_targets

__all__ = [
    "CutDataset",
    "LhotseDiarizationDataset",
    "clipped",
    "cut_segments",
    "recording_names",
    "resolve_path",
    "speed_factor",
]

ItemT = TypeVar("ItemT")
BatchT = TypeVar("BatchT")


class CutDataset(Dataset[BatchT], Generic[ItemT, BatchT]):
    """Turns the cuts that a lhotse sampler chose into a batch; a subclass says what an item and a batch are.

    Labels come from the cut's `rttm_filepath` or `seglst_filepath` where it has one, else from its supervisions. Cuts
    mixed by lhotse are taken too. All channels are averaged. A cut that cannot be read is left out together with its
    targets, counted and named; a batch of which no cut can be read becomes one second of silence, so that all ranks
    keep step.

    Args:
        num_slots: columns of the targets.
        subsampling: hops of 10 ms per target frame.
        sample_rate: of the audio, in Hz.
        max_failed_share: share of the cuts that may fail, in [0, 1], per worker process; 0 raises the first error.
        threshold: share of a label's window that makes it 1; None gives the share itself.
        keep_earliest_speakers: drop the speakers who arrive last where there are more than slots.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        subsampling: int = 8,
        sample_rate: int = 16000,
        max_failed_share: float = 0.0,
        threshold: float | None = 0.5,
        keep_earliest_speakers: bool = False,
    ) -> None:
        self.num_slots = num_slots
        self.subsampling = subsampling
        self.sample_rate = sample_rate
        self.threshold = threshold
        self.keep_earliest_speakers = keep_earliest_speakers
        self.failures = FailureLog(max_failed_share)
        self._labels = LabelReader()

    def __getitem__(self, cuts: CutSet) -> BatchT:
        items = list(self._items(cuts))
        return self._batch(items or [self._silence()])

    @abstractmethod
    def _batch(self, items: list[ItemT]) -> BatchT:
        """Stack items."""

    @abstractmethod
    def _item(
        self, cut: Cut | None, sound: np.ndarray, targets: np.ndarray, speakers: list[str], segments: list[Segment]
    ) -> ItemT:
        """Make the item of a cut, or that of silence; `speakers` are those of the first columns of `targets`."""

    def _items(self, cuts: CutSet) -> Iterator[ItemT]:
        for cut in cuts:
            self.failures.num_seen += 1
            try:
                yield self._read(cut)
            except DATA_ERRORS as error:
                self.failures.record(error, name=str(cut.id))

    def _read(self, cut: Cut) -> ItemT:
        segments = cut_segments(cut, self._labels)
        audio = self._audio(cut)
        try:
            targets, speakers = self._targets(segments, len(audio))
        except TooManySpeakersError as error:
            raise TooManySpeakersError(f"Cut `{cut.id}`: {error}") from error
        return self._item(cut, audio, targets, speakers, segments)

    def _audio(self, cut: Cut) -> np.ndarray:
        if cut.sampling_rate != self.sample_rate:
            cut = cut.resample(self.sample_rate)
        try:
            samples = np.asarray(cut.load_audio(), dtype=np.float32)
        except (AudioLoadingError, DurationMismatchError, OSError) as error:
            reason = str(error).partition("\n[extra info]")[0]  # lhotse adds the whole cut, supervisions and all
            raise AudioError(f"Cut `{cut.id}` cannot be read: {reason}") from error
        if samples.size == 0 or not np.isfinite(samples).all():
            what = "has no samples" if samples.size == 0 else "holds NaN or infinite samples"
            raise AudioError(f"Cut `{cut.id}` {what}.")
        return np.ascontiguousarray(samples.mean(axis=0) if samples.ndim == 2 else samples)

    def _targets(self, segments: list[Segment], num_samples: int) -> tuple[np.ndarray, list[str]]:
        return named_targets(
            segments,
            num_samples=num_samples,
            num_slots=self.num_slots,
            subsampling=self.subsampling,
            threshold=self.threshold,
            sample_rate=self.sample_rate,
            keep_earliest=self.keep_earliest_speakers,
        )

    def _silence(self) -> ItemT:
        targets, _ = self._targets([], self.sample_rate)
        return self._item(None, np.zeros(self.sample_rate, dtype=np.float32), targets, [], [])


class LhotseDiarizationDataset(CutDataset[DiarizationItem, DiarizationBatch]):
    """Turns cuts into batches of audio and frame targets; see :class:`CutDataset`."""

    def _batch(self, items: list[DiarizationItem]) -> DiarizationBatch:
        return collate(items)

    def _item(
        self, cut: Cut | None, sound: np.ndarray, targets: np.ndarray, speakers: list[str], segments: list[Segment]
    ) -> DiarizationItem:
        name = "silence" if cut is None else str(cut.id)
        return DiarizationItem(torch.from_numpy(sound), torch.from_numpy(targets), name)


def cut_segments(cut: Cut, labels: LabelReader | None = None) -> list[Segment]:
    """Who speaks when in a cut, in seconds from its start; segments may reach beyond both ends of the cut.

    Tracks of a mixed cut that name no speaker (noise, music) add nothing, as long as another one does.

    Raises:
        ManifestError: nothing says who speaks. NeMo would label the whole cut as one speaker.
        RttmError: the RTTM file cannot be used.
    """
    labels = labels or LabelReader()
    if not isinstance(cut, MixedCut):
        return _track_segments(cut, labels)
    tracks = [track for track in cut.tracks if not isinstance(track.cut, PaddingCut)]
    segments: list[Segment] = []
    unlabelled: ManifestError | None = None
    for track in tracks:
        try:
            found = _track_segments(track.cut, labels)
        except ManifestError as error:
            unlabelled = error
            continue
        inside = clipped(found, track.cut.duration)
        segments += [Segment(s.start + track.offset, s.end + track.offset, s.speaker) for s in inside]
    if unlabelled is not None and not segments:
        raise unlabelled
    return segments


def _track_segments(cut: Any, labels: LabelReader) -> list[Segment]:
    custom = cut.custom or {}
    rttm, seglst = custom.get("rttm_filepath"), custom.get("seglst_filepath")
    if rttm or seglst:
        read = labels.rttm if rttm else labels.seglst
        found = read(resolve_path(cut, rttm or seglst), recording_names(cut))
        pace = speed_factor(cut)
        return [Segment(s.start / pace - cut.start, s.end / pace - cut.start, s.speaker) for s in found]
    if any(supervision.speaker is None for supervision in cut.supervisions) or not cut.supervisions:
        raise ManifestError(
            f"Cut `{cut.id}` has neither `rttm_filepath` nor `seglst_filepath`, and its supervisions name no speaker, "
            "so nobody knows who speaks."
        )
    return [Segment(s.start, s.end, str(s.speaker)) for s in cut.supervisions]


def recording_names(cut: Any) -> list[str]:
    """Names under which a label file may know the recording of a cut, the likeliest first."""
    names = [str(name) for name in ((cut.custom or {}).get("uniq_id"), cut.recording_id, cut.id) if name]
    return names + [Path(name).stem for name in (*_audio_files(cut), *names)]


def resolve_path(cut: Any, path: str) -> Path:
    """Find a label file of a cut: a relative path that is not there from here is meant from the audio's folder."""
    audio = _audio_files(cut)
    if not Path(path).is_absolute() and not Path(path).exists() and audio:
        return Path(audio[0]).parent / path
    return Path(path)


def speed_factor(cut: Any) -> float:
    """How much faster than its label file the cut runs: a change of speed moves lhotse's times, not the file's."""
    factor = 1.0
    for transform in (cut.recording.transforms or []) if cut.has_recording else []:
        given = transform if isinstance(transform, dict) else transform.to_dict()
        if given.get("name") in ("Speed", "Tempo"):
            factor *= given["kwargs"]["factor"]
    return factor


def clipped(segments: Iterable[Segment], seconds: float) -> list[Segment]:
    """The parts of segments within the first `seconds`."""
    return [s._replace(start=max(s.start, 0.0), end=min(s.end, seconds)) for s in segments if s.end > 0.0]


def _audio_files(cut: Any) -> list[str]:
    return [str(source.source) for source in cut.recording.sources] if cut.has_recording else []
