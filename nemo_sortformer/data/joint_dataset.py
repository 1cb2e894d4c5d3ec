# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Recordings with labels and words, as NeMo's manifests list them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_sortformer.data.dataset import RecordingDataset
from nemo_sortformer.data.joint_batch import JointItem
from nemo_sortformer.data.manifest import ManifestEntry
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.text_labels import TextLabeler
from nemo_sortformer.data.word_reader import WordReader

__all__ = ["JointDataset"]


class JointDataset(RecordingDataset[JointItem]):
    """Audio, frame targets and tokens of recordings whose words are known; see :class:`RecordingDataset`.

    What an entry names is read by :class:`WordReader`. In a window of a longer recording are the words whose middle
    lies in it.

    Args:
        manifest: path of a manifest, several paths, or entries already read.
        labeler: makes the tokens.
        options: the further arguments of :class:`RecordingDataset`.

    Raises:
        ManifestError: a manifest cannot be used, or an entry names no words; the message says which line.
    """

    def __init__(
        self,
        manifest: str | Path | Sequence[str | Path] | Sequence[ManifestEntry],
        labeler: TextLabeler,
        **options: Any,
    ) -> None:
        self.labeler = labeler
        self._words = WordReader(labeler.text_fields)
        super().__init__(manifest, **options)

    def _check(self, entry: ManifestEntry) -> None:
        self._words.check(entry)

    def _segments(self, entry: ManifestEntry) -> list[Segment]:
        return self._words.segments(entry)

    def _item(
        self, entry: ManifestEntry, sound: np.ndarray, targets: np.ndarray, speakers: list[str], offset: float
    ) -> JointItem:
        texts = self.labeler(
            self._words.utterances(entry),
            speakers,
            offset=offset,
            seconds=len(sound) / self.sample_rate,
            known={segment.speaker for segment in self._segments(entry)},
            source=entry.source or str(entry.audio_filepath),
        )
        return JointItem(torch.from_numpy(sound), torch.from_numpy(targets), texts, entry.uniq_id, offset)
