# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""lhotse cuts with words to batches of audio, frame targets and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lhotse.cut import Cut, MixedCut, PaddingCut

from nemo_sortformer.data.joint_batch import JointBatch, JointItem, collate_joint
from nemo_sortformer.data.lhotse_dataset import CutDataset, recording_names, resolve_path, speed_factor
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.spoken_words import TRANSCRIPT, SpokenUtterance, WordsError
from nemo_sortformer.data.text_labels import TextLabeler
from nemo_sortformer.data.word_reader import WordReader

__all__ = ["LhotseJointDataset", "cut_utterances"]

_SLACK_SECONDS = 0.5


class LhotseJointDataset(CutDataset[JointItem, JointBatch]):
    """Turns cuts into batches of audio, frame targets and tokens; see :class:`CutDataset`.

    Words come from the cut's `seglst_filepath` where it has one, else from the texts of its supervisions, word by word
    where they have a `word` alignment. A further text (`translation`) is a custom field of a supervision. Words whose
    middle lies outside the cut belong to another one.

    Args:
        labeler: makes the tokens.
        options: the arguments of :class:`CutDataset`.
    """

    def __init__(self, labeler: TextLabeler, **options: Any) -> None:
        super().__init__(**options)
        self.labeler = labeler
        self._words = WordReader(labeler.text_fields)

    def _batch(self, items: list[JointItem]) -> JointBatch:
        return collate_joint(items, pad_ids=self.labeler.pad_ids)

    def _item(
        self, cut: Cut | None, sound: np.ndarray, targets: np.ndarray, speakers: list[str], segments: list[Segment]
    ) -> JointItem:
        known = sorted({segment.speaker for segment in segments})
        texts = self.labeler(
            [] if cut is None else cut_utterances(cut, self._words, known),
            speakers,
            seconds=len(sound) / self.sample_rate,
            known=known,
            source="" if cut is None else f"Cut `{cut.id}`",
        )
        name = "silence" if cut is None else str(cut.id)
        return JointItem(torch.from_numpy(sound), torch.from_numpy(targets), texts, name)


def cut_utterances(cut: Cut, reader: WordReader, speakers: Sequence[str]) -> list[SpokenUtterance]:
    """Who says what in a cut, in seconds from its start; utterances may reach beyond both ends of the cut.

    Args:
        cut: of any kind.
        reader: of SegLST files.
        speakers: who has labels; text of a supervision without a speaker is that of the only one.

    Raises:
        WordsError: a text is of nobody knows whom.
    """
    if not isinstance(cut, MixedCut):
        return _track_utterances(cut, reader, speakers)
    found: list[SpokenUtterance] = []
    for track in cut.tracks:
        if not isinstance(track.cut, PaddingCut):
            found += [_shifted(one, track.offset) for one in _track_utterances(track.cut, reader, speakers)]
    return found


def _track_utterances(cut: Any, reader: WordReader, speakers: Sequence[str]) -> list[SpokenUtterance]:
    seglst = (cut.custom or {}).get("seglst_filepath")
    if seglst:
        found = reader.recording(resolve_path(cut, seglst), recording_names(cut))
        return [_shifted(one, -cut.start, speed_factor(cut)) for one in found]
    utterances = []
    for supervision in cut.supervisions:
        custom = supervision.custom or {}
        texts = {field: supervision.text if field == TRANSCRIPT else custom.get(field) for field in reader.fields}
        written = {field: " ".join(str(text or "").split()) for field, text in texts.items()}
        if not any(written.values()):
            continue
        speaker = supervision.speaker or (speakers[0] if len(speakers) == 1 else None)
        if speaker is None:
            raise WordsError(
                f"Cut `{cut.id}`: the supervision `{supervision.id}` has a text, but no speaker, and the labels name "
                f"{len(speakers)}, so nobody knows who says it."
            )
        times = _word_times(supervision, written.get(TRANSCRIPT, ""), cut.start)
        utterances.append(SpokenUtterance(supervision.start, supervision.end, str(speaker), written, times))
    return utterances


def _word_times(supervision: Any, text: str, cut_start: float) -> tuple[tuple[float, float], ...] | None:
    """Times of a `word` alignment, in seconds from the start of the cut; None where it does not fit the text.

    Cutting a recording moves the times of lhotse's supervisions, but not those of their alignments.
    """
    items = [item for item in (supervision.alignment or {}).get("word", []) if item.symbol.strip()]
    if not items or [item.symbol.strip() for item in items] != text.split():
        return None
    for shift in (-cut_start, 0.0):
        times = tuple((float(item.start) + shift, float(item.end) + shift) for item in items)
        if times[0][0] >= supervision.start - _SLACK_SECONDS and times[-1][1] <= supervision.end + _SLACK_SECONDS:
            return times
    return None


def _shifted(one: SpokenUtterance, by: float, factor: float = 1.0) -> SpokenUtterance:
    times = None if one.times is None else tuple((start / factor + by, end / factor + by) for start, end in one.times)
    return one._replace(start=one.start / factor + by, end=one.end / factor + by, times=times)
