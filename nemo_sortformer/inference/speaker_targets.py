# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Recognizers that are told whom to write down: NeMo's multi-talker models, by kernels of the speakers.

NeMo's own `transcribe` of such a model does not take samples and is not told of the speakers. Here each batch that it
decodes comes with its targets: when the speaker speaks whose words are wanted, and when anybody else does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from nemo_sortformer.data.segment import Segment
from nemo_sortformer.data.targets import frame_targets


class SpeakerTargets(NamedTuple):
    """Whom a recognizer is to write down in one piece of audio, frame by frame of its encoder."""

    own: np.ndarray
    """1 where the speaker speaks, shape (frames,)."""
    others: np.ndarray
    """1 where anybody else does, shape (frames,)."""


def has_speaker_kernels(model: Any) -> bool:
    """Whether a recognizer can be told whom to write down."""
    return callable(getattr(model, "set_speaker_targets", None)) and bool(len(getattr(model, "spk_kernels", ())))


def speaker_targets(
    segments: Sequence[Segment], speaker: str, *, start: float, num_samples: int, sample_rate: int, subsampling: int
) -> SpeakerTargets:
    """The targets of one speaker in a piece of a recording.

    Args:
        segments: who speaks when, in seconds of the audio file.
        speaker: whose words are wanted.
        start: of the piece, in seconds of the audio file.
        num_samples: of the piece.
        sample_rate: in Hz.
        subsampling: hops of 10 ms per frame of the encoder.
    """
    names = ("own", "others")
    two = [s._replace(speaker=names[s.speaker != speaker]) for s in segments]
    targets = frame_targets(
        two,
        num_samples=num_samples,
        num_slots=2,
        offset=start,
        speakers=names,
        subsampling=subsampling,
        sample_rate=sample_rate,
    )
    return SpeakerTargets(targets[:, 0], targets[:, 1])


@contextmanager
def told_speakers(model: Any, targets: Sequence[SpeakerTargets] | None) -> Iterator[None]:
    """While it lasts the model's `transcribe` takes samples, and is told whom to write down.

    Args:
        model: a recognizer with speaker kernels; nothing happens to others.
        targets: of each piece, in the order in which they are decoded; None is one speaker who speaks all the time,
            which is how NeMo runs such a model without targets.
    """
    if not has_speaker_kernels(model):
        yield
        return
    from nemo.collections.asr.models import EncDecRNNTBPEModel

    waiting = iter(targets) if targets is not None else None
    batch_targets: list[SpeakerTargets | None] = []

    def _transcribe_forward(batch: Any, settings: Any) -> Any:
        size = len(batch[0])
        batch_targets[:] = [None] * size if waiting is None else [next(waiting) for _ in range(size)]
        return EncDecRNNTBPEModel._transcribe_forward(model, batch[:4], settings)

    def tell(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = kwargs["x"] if "x" in kwargs else args[0]
        own, others = states.new_zeros(2, *states.shape[:2])
        for row, one in enumerate(batch_targets):
            if one is None:
                own[row] = 1.0
                continue
            frames = min(len(one.own), states.shape[1])
            own[row, :frames] = torch.from_numpy(one.own[:frames])
            others[row, :frames] = torch.from_numpy(one.others[:frames])
        model.set_speaker_targets(own, others)

    hook = model.encoder.layers[0].register_forward_pre_hook(tell, prepend=True, with_kwargs=True)
    model._transcribe_forward = _transcribe_forward
    try:
        yield
    finally:
        hook.remove()
        del model._transcribe_forward
        model.clear_speaker_targets()
