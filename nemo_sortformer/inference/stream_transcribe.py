# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who says what, while the audio comes in: a stretch of speech is decoded when the pause behind it is heard.

A recognizer that was trained on whole utterances hears whole stretches, so that its words are those of an offline run
on the same stretch. A word is given `latency` of the diarizer and `pause_seconds` after the stretch ends, and, where
nobody pauses, when `max_seconds` of speech are there. What is given is final: neither a word nor its speaker's number
changes afterwards. A joint model does both: its diarization half hears the stream, its text head whole stretches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.model_pair import Models, load_pair
from nemo_sortformer.inference.recognizer import asr_sample_rate
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.stream import Streamer
from nemo_sortformer.inference.stream_answers import StreamUpdate
from nemo_sortformer.inference.stream_audio import piece_samples, pieces_of
from nemo_sortformer.inference.stretches import MARGIN_SECONDS, Level, Stretch, speech_stretches
from nemo_sortformer.inference.transcribe import TranscribeOptions, words_of_stretches
from nemo_sortformer.inference.transcribe_joint import check_joint_options, frame_span, write_stretches
from nemo_sortformer.inference.transcript import TranscribedWord

PAUSE_SECONDS = 0.7
_REMEMBERED_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class TranscriptUpdate:
    """What one step of a stream brings."""

    words: tuple[TranscribedWord, ...]
    """New words, by start; they and their speakers are final."""
    seconds: float
    """Words before this time have all been given."""
    diarization: StreamUpdate
    """Who speaks, up to now."""
    is_last: bool = False
    """The stream is over."""


def stream_with_speakers(
    chunks: Any,
    asr: Any,
    diarizer: Any = None,
    *,
    sample_rate: int | None = None,
    latency: Any = None,
    pause_seconds: float = PAUSE_SECONDS,
    max_seconds: float = 15.0,
    device: str | None = None,
    override_config: Any = None,
    asr_options: Mapping[str, Any] | None = None,
) -> Iterator[TranscriptUpdate]:
    """Say who says what, chunk by chunk; see the top of this file for when.

    Args:
        chunks: an iterable of pieces of any length, or the path of an audio file; see
            :func:`~nemo_sortformer.inference.stream.stream`.
        asr: a NeMo speech recognizer, or the path of its .nemo file; or a joint model of this package, which needs no
            diarizer.
        diarizer: a diarizer or its .nemo file; None is the one that ships with the package.
        sample_rate: of the pieces, in Hz; by default the diarizer's, and for a file its own.
        latency: of the diarizer: ``30.4s``, ``10s``, ``1.04s`` or ``0.32s``, or settings.
        pause_seconds: silence that ends a stretch of speech, at least 0.2 s.
        max_seconds: longest stretch, where nobody pauses.
        device: where models that are loaded here run.
        override_config: an `InferenceConfig`, or single keys of it, instead of the diarizer's.
        asr_options: further arguments of the recognizer's own `transcribe`; of a joint model `head`, which of its text
            heads writes.

    Returns:
        An iterator of updates, most of which have no new words; the last has `is_last`.

    Raises:
        ConfigError: a setting is unknown or wrong, or a model is of the wrong kind.
        AudioError: a piece is of no use.
    """
    if not pause_seconds >= 0.2:
        raise ConfigError(f"`pause_seconds` must be at least 0.2 seconds, but is {pause_seconds}.")
    options = TranscribeOptions(max_seconds=max_seconds, asr_options=asr_options or {}, batch_size=1)
    models = load_pair(asr, diarizer, device=device)
    if models.joint:
        check_joint_options(models.asr, options.asr_options)
    pieces, rate = pieces_of(chunks, sample_rate=sample_rate, model_rate=models.diarizer.config.sample_rate)
    streamer = Streamer(models.diarizer, sample_rate=rate, latency=latency, override_config=override_config)
    waiting = _Waiting(models, rate, pause_seconds, options)

    def updates() -> Iterator[TranscriptUpdate]:
        left_over = b""
        for piece in pieces:
            samples, left_over = piece_samples(piece, left_over=left_over)
            found = streamer.push(samples)
            waiting.hear(samples)
            yield from map(waiting.advance, found)
        yield from map(waiting.advance, streamer.finish())

    return updates()


class _Waiting:
    """What has been heard and not been given yet."""

    def __init__(self, models: Models, rate: int, pause_seconds: float, options: TranscribeOptions) -> None:
        self.models, self.rate, self.pause_seconds, self.options = models, rate, pause_seconds, options
        self.audio: list[np.ndarray] = []
        self.first_sample = 0
        self.segments: list[Segment] = []
        self.probs: list[np.ndarray] = []
        self.first_frame = 0
        self.given_seconds = 0.0

    def hear(self, samples: np.ndarray) -> None:
        self.audio.append(samples)

    def advance(self, update: StreamUpdate) -> TranscriptUpdate:
        """Decode the stretches that are over, and forget what is not needed any more."""
        self.segments += update.finished
        self.probs.append(update.probs)
        now = update.seconds
        diarization = self._diarization(update)
        margin = min(MARGIN_SECONDS, self.pause_seconds / 2)
        planned = speech_stretches(
            diarization.segments,
            start=self.given_seconds,
            end=now,
            max_seconds=self.options.max_seconds,
            level=Level(diarization.probs.sum(axis=1), diarization.offset, update.frame_seconds)
            if diarization.probs is not None and diarization.probs.size
            else None,
            join_seconds=self.pause_seconds,
            margin_seconds=margin,
        )
        over = planned if update.is_last else planned[:-1]
        if not update.is_last and planned and planned[-1].end - margin + self.pause_seconds < now:
            over = planned
        words = self._decode(over, diarization)
        if update.is_last:
            self.given_seconds = now
        elif over:
            self.given_seconds = over[-1].end
        elif not planned:
            self.given_seconds = max(now - self.pause_seconds, self.given_seconds)
        self._forget(update.frame_seconds)
        return TranscriptUpdate(
            words=tuple(sorted(words, key=lambda word: word[1:3])),
            seconds=self.given_seconds,
            diarization=update,
            is_last=update.is_last,
        )

    def _diarization(self, update: StreamUpdate) -> Diarization:
        probs = np.concatenate(self.probs)
        offset = self.first_frame * update.frame_seconds
        return Diarization(
            recording="stream",
            segments=tuple(sorted((*self.segments, *update.changed))),
            duration=update.seconds - offset,
            offset=offset,
            frame_seconds=update.frame_seconds,
            probs=probs,
        )

    def _decode(self, over: list[Stretch], diarization: Diarization) -> list[TranscribedWord]:
        if not over:
            return []
        self.audio = [np.concatenate(self.audio)]
        if self.models.joint:
            model, offset, frame_seconds = self.models.asr, diarization.offset, diarization.frame_seconds
            spans = [frame_span(stretch.start - offset, stretch.end - offset, frame_seconds) for stretch in over]
            times = [(offset + first * frame_seconds, offset + past * frame_seconds) for first, past in spans]
            pieces = [self._heard(start, end, model.config.sample_rate) for start, end in times]
            return write_stretches(model, pieces, diarization, spans, **self.options.asr_options)
        pieces = [self._heard(*stretch, asr_sample_rate(self.models.asr)) for stretch in over]
        asked = [(stretch, list(diarization.segments), None) for stretch in over]
        return words_of_stretches(self.models.asr, pieces, diarization, asked, self.options)

    def _heard(self, start: float, end: float, rate: int) -> np.ndarray:
        """The samples between two times of the stream, at a model's rate."""
        import soxr

        first, last = (max(round(time * self.rate) - self.first_sample, 0) for time in (start, end))
        piece: np.ndarray = self.audio[0][first:last]
        return piece if rate == self.rate else soxr.resample(piece, self.rate, rate)

    def _forget(self, frame_seconds: float) -> None:
        """Keep the audio that is not given, and the speakers of a few seconds before, to whom words may belong."""
        needed = self.given_seconds - frame_seconds  # as a joint model hears whole frames
        drop = int(needed * self.rate) - self.first_sample
        while self.audio and 0 < len(self.audio[0]) <= drop:
            drop -= len(self.audio[0])
            self.first_sample += len(self.audio.pop(0))
        if self.audio and drop > 0:
            self.audio[0] = self.audio[0][drop:]
            self.first_sample += drop
        kept_from = self.given_seconds - _REMEMBERED_SECONDS
        self.segments = [s for s in self.segments if s.end > kept_from]
        rows = int(kept_from / frame_seconds) - self.first_frame
        if rows > 0:
            self.probs = [np.concatenate(self.probs)[rows:]]
            self.first_frame += rows
