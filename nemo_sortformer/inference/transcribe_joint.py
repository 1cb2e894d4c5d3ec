# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Transcripts by a joint model: who speaks by its diarization half, what is said by its text heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.inference.diarize import diarize_recordings
from nemo_sortformer.inference.engine import evaluating
from nemo_sortformer.inference.remembered_features import RememberedFeatures, remembered_features
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.sources import AudioSource, collect_sources
from nemo_sortformer.inference.stretches import speech_stretches
from nemo_sortformer.inference.transcript import TranscribedWord, Transcript

if TYPE_CHECKING:
    from nemo_sortformer.models.joint_asr import SortformerJointASR

MIN_SECONDS = 0.2
"""Shorter pieces are padded with silence to this: the encoder needs a few frames for its normalization."""


class Piece(NamedTuple):
    """A stretch of a recording that is written down at once."""

    recording: int
    start: float
    """Seconds from the begin of the recording."""
    audio: np.ndarray
    """Shape (samples,)."""
    labels: np.ndarray
    """Activity in [0, 1], columns in order of arrival within the piece, shape (frames, slots)."""
    speakers: tuple[int, ...]
    """The speaker of the recording behind each column."""


def transcribe_sessions(
    model: SortformerJointASR,
    audio: Any,
    *,
    sample_rate: int | None = None,
    diarizations: Sequence[Diarization] | None = None,
    head: str | None = None,
    batch_size: int = 4,
    max_seconds: float = 30.0,
    memory: RememberedFeatures | None = None,
    **options: Any,
) -> list[Transcript]:
    """Say who said what, when.

    The diarization of the whole recording is what the text heads are told of the speakers, so that its settings
    (`inference` of the model, limits on the number of speakers) hold for the words too. Longer recordings are written
    down in stretches cut in silence; in each the slots are in order of arrival again, as the model learnt it.

    Args:
        model: a joint model.
        audio: a file, a folder, a manifest, samples, or a list of these; see :func:`collect_sources`.
        sample_rate: of samples, in Hz.
        diarizations: who speaks when in each recording, where that is known already.
        head: which text head writes; the first one where None.
        batch_size: pieces written down at once, and recordings diarized at once.
        max_seconds: longest piece.
        memory: what the encoder has said while the diarizations that are given were made.
        options: of :func:`diarize_recordings`, e.g. `num_speakers`.

    Returns:
        One transcript per recording, in the order given. Where nobody speaks there are no words.

    Raises:
        ConfigError: a setting is wrong.
        DiarizationError: some recordings could not be read or diarized.
    """
    if batch_size < 1 or max_seconds < 1:
        raise ConfigError(
            f"`batch_size` must be at least 1 and `max_seconds` at least 1, but are {batch_size} and {max_seconds}."
        )
    sources = collect_sources(audio, sample_rate=sample_rate)
    if diarizations is None:
        with remembered_features(model.encoder) as memory:
            diarizations = diarize_recordings(model, audio, sample_rate=sample_rate, batch_size=batch_size, **options)
    if len(diarizations) != len(sources):
        raise ConfigError(
            f"`diarizations` must have one entry per recording, {len(sources)}, but has {len(diarizations)}."
        )
    words: list[list[TranscribedWord]] = [[] for _ in sources]
    with evaluating(model):
        batch: list[Piece] = []
        for piece in _pieces(model, sources, diarizations, max_seconds):
            batch.append(piece)
            if len(batch) == batch_size:
                _write(model, batch, words, head, memory)
                batch = []
        if batch:
            _write(model, batch, words, head, memory)
    return [
        Transcript(
            recording=one.recording,
            words=tuple(_shifted(found, one.offset, one.duration)),
            diarization=one,
            duration=one.duration,
        )
        for one, found in zip(diarizations, words)
    ]


def _pieces(
    model: SortformerJointASR, sources: Sequence[AudioSource], diarizations: Sequence[Diarization], max_seconds: float
) -> Iterator[Piece]:
    """Cut what is speech to pieces, on whole frames."""
    rate, frame_seconds = model.config.sample_rate, model.frame_seconds
    frame_samples = round(frame_seconds * rate)
    for number, (source, found) in enumerate(zip(sources, diarizations)):
        if not found.segments or found.probs is None:
            continue
        samples = source.read(rate)
        spans = [(0.0, found.duration)]
        if found.duration > max_seconds:
            begin = found.offset
            stretches = speech_stretches(
                found.segments, start=begin, end=begin + found.duration, max_seconds=max_seconds
            )
            spans = [(start - begin, end - begin) for start, end in stretches]
        for start, end in spans:
            first, past = frame_span(start, end, frame_seconds)
            piece = samples[first * frame_samples : past * frame_samples]
            yield from _piece(model, number, found, first, past, piece)


def write_stretches(
    model: SortformerJointASR,
    audio: Sequence[np.ndarray],
    diarization: Diarization,
    spans: Sequence[tuple[int, int]],
    *,
    head: str | None = None,
) -> list[TranscribedWord]:
    """The words of some stretches of a recording, with the times and the speakers that `diarization` has.

    Args:
        model: a joint model.
        audio: of each stretch, at the model's rate, shape (samples,).
        diarization: who speaks when, with probabilities.
        spans: first and past frame of each stretch, from the begin of `diarization`; see :func:`frame_span`.
        head: which text head writes; the first one where None.
    """
    words: list[list[TranscribedWord]] = [[]]
    pieces = [
        piece
        for samples, (first, past) in zip(audio, spans, strict=True)
        for piece in _piece(model, 0, diarization, first, past, samples)
    ]
    if pieces:
        with evaluating(model):
            _write(model, pieces, words, head)
    return list(_shifted(words[0], diarization.offset, diarization.duration))


def check_joint_options(model: SortformerJointASR, options: Mapping[str, Any]) -> None:
    """Stop where a joint model is given what only another recognizer takes.

    Raises:
        ConfigError: an option is not `head`, or there is no such head.
    """
    unknown = [key for key in options if key != "head"]
    if unknown:
        raise ConfigError(
            f"`asr_options` of a joint model has `head` alone, which of its text heads writes, but has `{unknown[0]}`."
        )
    if options:
        model.head_name(options["head"])


def frame_span(start: float, end: float, frame_seconds: float) -> tuple[int, int]:
    """The frames that a stretch touches, first and past, from times in seconds."""
    first, past = round(start / frame_seconds, 6), round(end / frame_seconds, 6)
    return int(first), int(np.ceil(past))


def _piece(
    model: SortformerJointASR, number: int, found: Diarization, first: int, past: int, audio: np.ndarray
) -> Iterator[Piece]:
    """A stretch of frames with who speaks in it; nothing where nobody does."""
    if found.probs is None:
        return
    speaks = np.zeros(found.probs.shape[1], dtype=bool)
    speaks[[int(name.rpartition("_")[2]) for name in found.speakers]] = True
    activity = found.probs[first:past] * speaks
    order = _order_of_arrival(activity, model.config.inference.onset, model.num_slots)
    if len(order) and len(audio):
        yield Piece(number, first * model.frame_seconds, audio, activity[:, list(order)], order)


def _order_of_arrival(activity: np.ndarray, onset: float, most: int) -> tuple[int, ...]:
    """Columns with speech, in order of arrival; no more than the model has slots for, those with most speech."""
    active = activity > onset
    spoken = np.flatnonzero(active.any(axis=0))
    if len(spoken) > most:
        spoken = spoken[np.sort(np.argsort(-active[:, spoken].sum(axis=0), kind="stable")[:most])]
    first = active.argmax(axis=0)
    return tuple(int(column) for column in sorted(spoken, key=lambda column: first[column]))


def _write(
    model: SortformerJointASR,
    batch: Sequence[Piece],
    words: list[list[TranscribedWord]],
    head: str | None,
    memory: RememberedFeatures | None = None,
) -> None:
    """Write down one batch of pieces, and give their words to their recordings."""
    shortest = round(MIN_SECONDS * model.config.sample_rate)
    lengths = torch.tensor([max(len(piece.audio), shortest) for piece in batch])
    audio = torch.zeros(len(batch), int(lengths.max()))
    num_frames = max(len(piece.labels) for piece in batch) + 2
    labels = torch.zeros(len(batch), num_frames, model.num_slots)
    for row, piece in enumerate(batch):
        audio[row, : len(piece.audio)] = torch.from_numpy(np.ascontiguousarray(piece.audio))
        labels[row, : len(piece.labels), : len(piece.speakers)] = torch.from_numpy(piece.labels)
    audio, lengths, labels = (tensor.to(model.device) for tensor in (audio, lengths, labels))
    with torch.no_grad():
        known = None if memory is None else memory.take(*model.mel_features(audio, lengths))
        if known is None:
            _, written = model.write_down(audio, lengths, head=head, labels=labels)
        else:
            written = model.write_encoded(model.encode_features(*known), head=head, labels=labels)
    for piece, found in zip(batch, written):
        for word in found:
            start, end = piece.start + word.start, piece.start + word.end
            words[piece.recording].append(
                TranscribedWord(word.text, start, end, f"speaker_{piece.speakers[word.speaker]}")
            )


def _shifted(words: Sequence[TranscribedWord], offset: float, duration: float) -> Iterator[TranscribedWord]:
    """Times of the file, none behind the end of what was heard."""
    for word in words:
        start, end = (offset + min(time, duration) for time in word[1:3])
        yield word._replace(start=round(start, 3), end=round(end, 3))
