# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Mel features that a diarizer has made, given to a recognizer that would make the same ones.

They are the same where both hear the same samples and have the same settings. That is checked on the samples
themselves, so that a level that the diarizer sets, another rate or a masked speaker lead to features of their own. In
a stretch of a recording only the frames at its two ends differ, whose windows reach over the cut: these are made anew.
Where features are normalized over what is heard, a stretch has others than the recording, and only a stretch that is
the whole recording shares them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_SETTINGS = (
    "sample_rate",
    "win_length",
    "hop_length",
    "n_fft",
    "stft_pad_amount",
    "normalize",
    "log",
    "log_zero_guard_type",
    "log_zero_guard_value",
    "frame_splicing",
    "preemph",
    "pad_value",
    "mag_power",
    "use_grads",
)
"""Of NeMo's featurizer. What is left out, as dither, makes no difference in evaluation; padding is done here."""


class _Recording(NamedTuple):
    """What the diarizer's front end was given and made."""

    samples: Tensor
    """Shape (samples,)."""
    mel: Tensor
    """Shape (bands, hops), valid ones only."""


class _Stretch(NamedTuple):
    """Where the features of a stretch are."""

    recording: _Recording
    first_sample: int


def same_features(asr: Any, diarizer: Any) -> bool:
    """Whether a recognizer and a diarizer make the same mel features of the same samples, in evaluation."""
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor
    from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures

    parts = [getattr(model, "preprocessor", None) for model in (asr, diarizer)]
    if any(type(part) is not AudioToMelSpectrogramPreprocessor for part in parts):
        return False
    ours, theirs = (part.featurizer for part in parts if part is not None)
    if type(ours) is not FilterbankFeatures or type(theirs) is not FilterbankFeatures:
        return False
    if ours.frame_splicing != 1 or ours.stft_pad_amount is not None or "max" in (ours.pad_to, theirs.pad_to):
        return False
    if any(getattr(ours, name) != getattr(theirs, name) for name in _SETTINGS):
        return False
    return all(_equal(getattr(ours, name), getattr(theirs, name)) for name in ("window", "fb"))


class SharedMel:
    """The features of the recordings that a diarizer heard last, for a recognizer.

    Args:
        asr: a recognizer for which :func:`same_features` holds.
        diarizer: whose features are kept.
        most: recordings whose features are kept at once.
    """

    def __init__(self, asr: Any, diarizer: Any, *, most: int) -> None:
        self.front_end = asr.preprocessor
        self.recordings: deque[_Recording] = deque(maxlen=most)
        self.stretches: dict[bytes, _Stretch] = {}
        self._hook = diarizer.preprocessor.register_forward_hook(self._keep, with_kwargs=True)

    def close(self) -> None:
        """Listen to the diarizer no longer, and forget."""
        self._hook.remove()
        self.recordings.clear()

    @contextmanager
    def given(self, pieces: Sequence[np.ndarray], first_samples: Sequence[int], num_samples: int) -> Iterator[None]:
        """While it lasts the recognizer is given the features of these pieces of a recording where they are known.

        Args:
            pieces: samples, shape (samples,) each.
            first_samples: where each begins in the recording.
            num_samples: of the recording.
        """
        for piece, first in zip(pieces, first_samples, strict=True):
            found = self._find(piece, first, num_samples)
            if found is not None:
                self.stretches[piece.tobytes()] = _Stretch(found, first)
        own = self.front_end.get_features

        def get_features(input_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
            rows = [row[:valid] for row, valid in zip(input_signal, length.tolist())]
            known = [self.stretches.get(row.cpu().numpy().tobytes()) for row in rows]
            if self.front_end.featurizer.training or any(one is None for one in known):
                return own(input_signal, length)  # type: ignore[no-any-return]
            return self._assembled(rows, [one for one in known if one is not None], input_signal.shape[1], own)

        if self.stretches:
            self.front_end.get_features = get_features
        try:
            yield
        finally:
            self.front_end.__dict__.pop("get_features", None)
            self.stretches.clear()

    def _keep(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Tensor, Tensor]) -> None:
        if module.training or args:
            return
        mel, hops = output
        for row, valid, features, frames in zip(
            kwargs["input_signal"], kwargs["length"].tolist(), mel, hops.tolist(), strict=True
        ):
            self.recordings.append(_Recording(row[:valid].cpu(), features[:, :frames].detach()))

    def _find(self, piece: np.ndarray, first: int, num_samples: int) -> _Recording | None:
        """The recording that has the piece at its place, if the features of that place are those of the piece."""
        whole = first == 0 and len(piece) == num_samples
        featurizer = self.front_end.featurizer
        if not whole and (featurizer.normalize not in (None, "", "NA") or first % featurizer.hop_length):
            return None
        samples = torch.from_numpy(np.ascontiguousarray(piece))
        for one in self.recordings:
            if len(one.samples) == num_samples and torch.equal(one.samples[first : first + len(piece)], samples):
                return one
        return None

    def _assembled(
        self, rows: Sequence[Tensor], known: Sequence[_Stretch], num_samples: int, own: Any
    ) -> tuple[Tensor, Tensor]:
        """The features of a batch, shape (batch, bands, hops), and valid hops, shape (batch,), as NeMo has them."""
        featurizer = self.front_end.featurizer
        hop, reach = featurizer.hop_length, featurizer.n_fft // 2
        frames = num_samples // hop + 1
        if featurizer.pad_to > 0:
            frames = -(-frames // featurizer.pad_to) * featurizer.pad_to
        bands = known[0].recording.mel.shape[0]
        mel = rows[0].new_full((len(rows), bands, frames), featurizer.pad_value)
        clips: list[Tensor] = []
        places: list[tuple[int, int, int, int]] = []  # row, its first frame, first frame of the clip, frames
        head = reach // hop + 1  # these frames of a stretch reach over its begin
        for number, (row, (recording, first)) in enumerate(zip(rows, known, strict=True)):
            valid, start = len(row) // hop, first // hop
            mel[number, :, :valid] = recording.mel[:, start : start + valid].to(mel.device)
            if first > 0:
                clips.append(row[: head * hop + reach])
                places.append((number, 0, 0, min(head, valid)))
            if first + len(row) < len(recording.samples):
                tail = max((len(row) - reach) // hop + 1, head)
                clips.append(row[(tail - head) * hop :])
                places.append((number, tail, head, valid - tail))
        if clips:
            lengths = torch.tensor([len(clip) for clip in clips], device=mel.device)
            edges, _ = own(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths)
            for clip, (number, frame, inside, count) in zip(edges, places, strict=True):
                mel[number, :, frame : frame + count] = clip[:, inside : inside + count]
        return mel, torch.tensor([len(row) // hop for row in rows], device=mel.device)


@contextmanager
def shared_mel(asr: Any, diarizer: Any, *, most: int) -> Iterator[SharedMel | None]:
    """Keep the features of what a diarizer hears, if the recognizer can use them; else give None."""
    if asr is diarizer or not same_features(asr, diarizer):
        yield None
        return
    shared = SharedMel(asr, diarizer, most=most)
    try:
        yield shared
    finally:
        shared.close()


def _equal(ours: Tensor | None, theirs: Tensor | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return torch.equal(ours.cpu(), theirs.cpu())
