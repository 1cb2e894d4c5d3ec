# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who said what: any NeMo speech recognizer and a diarizer, brought together without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.data.segment import Segment
from nemo_sortformer.inference.model_pair import Models, load_pair
from nemo_sortformer.inference.recognizer import asr_sample_rate, asr_subsampling, recognize
from nemo_sortformer.inference.remembered_features import RememberedFeatures, remembered_features
from nemo_sortformer.inference.shared_mel import SharedMel, shared_mel
from nemo_sortformer.inference.speaker_targets import SpeakerTargets, has_speaker_kernels, speaker_targets
from nemo_sortformer.inference.stretches import Level, Stretch, masked, speech_stretches, spread_over_speech
from nemo_sortformer.inference.transcript import TranscribedWord, Transcript
from nemo_sortformer.inference.word_speakers import assign_speakers

if TYPE_CHECKING:
    from nemo_sortformer.inference.engine import Failure, RunOptions
    from nemo_sortformer.inference.long_audio import LongAudio
    from nemo_sortformer.inference.results import Diarization
    from nemo_sortformer.inference.sources import AudioSource
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

Asked = tuple[Stretch, list[Segment], str | None]
"""A stretch, the segments that are heard in it, and its speaker where it is of one alone."""
Overlap = Literal["auto", "shared", "masked", "kernels"]
"""How words said at once are decoded; see :class:`TranscribeOptions`."""
PIECES_AT_ONCE = 32
"""Pieces of audio in memory, at least; a multiple of the batch above that."""


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions:
    """How the recognizer is asked."""

    overlap: Overlap = "auto"
    """``shared``: the audio is decoded once, and each word given to a speaker. ``masked``: it is decoded once per
    speaker, silent where the speaker is, so that words said at once can be heard twice, once for each. ``kernels``:
    once per speaker, and the recognizer, one of NeMo's with speaker kernels, is told when that one speaks. ``auto``:
    ``kernels`` where the recognizer has them, else ``shared``."""
    batch_size: int = 4
    """Stretches of speech decoded at once."""
    max_seconds: float = 30.0
    """Longest stretch that the recognizer hears at once."""
    asr_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the recognizer's own `transcribe`, as `source_lang` of a Canary model."""

    def __post_init__(self) -> None:
        if self.overlap not in get_args(Overlap):
            raise ConfigError(f"`overlap` must be one of {', '.join(get_args(Overlap))}, but is `{self.overlap}`.")
        if self.batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, but is {self.batch_size}.")
        if not self.max_seconds >= 2:
            raise ConfigError(f"`max_seconds` must be at least 2 seconds, but is {self.max_seconds}.")


class TranscriptionError(ValueError):
    """Some recordings could not be transcribed; `results` holds the others, `failures` says what was wrong."""

    def __init__(self, results: list[Transcript], failures: list[Failure]) -> None:
        self.results, self.failures = results, failures
        shown = "\n".join(f"  `{failure.recording}`: {failure.message}" for failure in failures[:10])
        more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
        super().__init__(
            f"{len(failures)} of {len(results) + len(failures)} recordings could not be transcribed:\n{shown}{more}"
        )


def transcribe_with_speakers(
    audio: Any,
    asr: Any,
    diarizer: SortformerDiarizer | str | Path | None = None,
    *,
    sample_rate: int | None = None,
    device: str | None = None,
    overlap: Overlap = "auto",
    batch_size: int = 4,
    max_seconds: float = 30.0,
    asr_options: Mapping[str, Any] | None = None,
    verbose: bool = False,
    failures: list[Failure] | None = None,
    num_speakers: int | None = None,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
    override_config: Any = None,
    postprocessing_yaml: str | Path | None = None,
) -> list[Transcript]:
    """Say who said what, one :class:`Transcript` per recording, in the order given.

    The diarizer says who speaks when; the recognizer hears the stretches of speech, cut in silence, and nothing else,
    so that silence has no words; each word goes to a speaker by :func:`assign_speakers`. Each model reads the audio
    at its own rate, resampled from the file by soxr; features that both would make alike are made once.

    Args:
        audio: a file, a folder, a manifest, samples, or a list of these; see :func:`collect_sources`.
        asr: a NeMo speech recognizer (CTC, RNN-T, TDT, hybrid, AED), or the path of its .nemo file; or a joint model
            of this package, which needs no diarizer.
        diarizer: a diarizer or its .nemo file; None is the one that ships with the package.
        sample_rate: of samples, in Hz.
        device: where models that are loaded here run; None takes a GPU where there is one.
        overlap: how words said at once are decoded; see :class:`TranscribeOptions`.
        batch_size: stretches decoded at once, and recordings diarized at once.
        max_seconds: longest stretch that the recognizer hears at once.
        asr_options: further arguments of the recognizer's own `transcribe`.
        verbose: show a progress bar.
        failures: a list that receives what went wrong; without it the run ends with an error that holds the results.
        num_speakers: how many speak, if that is known; else `min_speakers` and `max_speakers` may bound it.
        min_speakers: see :func:`diarize_recordings`.
        max_speakers: see :func:`diarize_recordings`.
        override_config: an `InferenceConfig` or single keys of it, for the diarizer.
        postprocessing_yaml: thresholds and durations of the diarizer in NeMo's form.

    Raises:
        TranscriptionError: some recordings could not be transcribed and `failures` is None. The others are in it.
        ConfigError: a setting is unknown or wrong, or a model is of the wrong kind.
        ValueError: `audio` or a file of a model is of no use.

    Warns:
        TranscriptWarning: the recognizer gives no times for its words.
    """
    from nemo_sortformer.inference.assign import SpeakerLimits
    from nemo_sortformer.inference.diarize import progress
    from nemo_sortformer.inference.engine import Failure, RunOptions
    from nemo_sortformer.inference.settings import inference_settings
    from nemo_sortformer.inference.sources import collect_sources

    options = TranscribeOptions(
        overlap=overlap, batch_size=batch_size, max_seconds=max_seconds, asr_options=asr_options or {}
    )
    sources = collect_sources(audio, sample_rate=sample_rate)
    models = load_pair(asr, diarizer, device=device)
    if not models.joint:
        way_of_overlap(models.asr, overlap)
    elif overlap != "auto":
        raise ConfigError(
            f"`overlap` must be left at `auto` with a joint model, whose text heads know who speaks, but is `{overlap}`."
        )
    run_options = RunOptions(
        config=inference_settings(
            models.diarizer.config.inference, override=override_config, postprocessing_yaml=postprocessing_yaml
        ),
        limits=SpeakerLimits(num_speakers=num_speakers, min_speakers=min_speakers, max_speakers=max_speakers),
        batch_size=batch_size,
    )
    found: dict[int, Transcript] = {}
    failed: dict[int, Failure] = {}
    outcomes = transcripts(models, sources, options, run_options)
    with progress(len(sources), shown=verbose, task="Transcribing") as advance:
        for i, outcome in outcomes:
            if isinstance(outcome, Failure):
                failed[i] = outcome
            else:
                found[i] = outcome
            advance()
    results = [found[i] for i in sorted(found)]
    if failed and failures is None:
        raise TranscriptionError(results, [failed[i] for i in sorted(failed)])
    if failures is not None:
        failures.extend(failed[i] for i in sorted(failed))
    return results


def transcripts(
    models: Models, sources: Sequence[AudioSource], options: TranscribeOptions, run_options: RunOptions
) -> Iterator[tuple[int, Transcript | Failure]]:
    """Transcribe recordings and give each as soon as it is done: its place in `sources`, and its result or failure."""
    from nemo_sortformer.inference.engine import Failure, failure_reason, run

    with (
        shared_mel(models.asr, models.diarizer, most=run_options.batch_size) as mel,
        remembered_features(models.asr.encoder) if models.joint else nullcontext() as memory,
    ):
        for i, outcome in run(models.diarizer, sources, run_options):
            if isinstance(outcome, Failure):
                yield i, outcome
                continue
            try:
                if models.joint:
                    yield i, _jointly(models.asr, sources[i], outcome, options, memory)
                else:
                    rate = asr_sample_rate(models.asr)
                    audio = sources[i].open(rate) if outcome.segments else np.zeros(0, np.float32)
                    yield i, transcribe_recording(models.asr, audio, outcome, options, mel=mel)
            except ConfigError:
                raise
            except (ValueError, RuntimeError, OSError, MemoryError) as error:
                yield i, Failure(sources[i].name, failure_reason(error))


def way_of_overlap(asr: Any, overlap: Overlap) -> Overlap:
    """How words said at once are decoded, with ``auto`` decided.

    Raises:
        ConfigError: ``kernels`` is asked of a recognizer that has none.
    """
    if overlap == "auto":
        return "kernels" if has_speaker_kernels(asr) else "shared"
    if overlap == "kernels" and not has_speaker_kernels(asr):
        raise ConfigError(
            f"`overlap` is `kernels`, but the recognizer, `{type(asr).__name__}`, has no speaker kernels. That takes "
            "NeMo's `EncDecMultiTalkerRNNTBPEModel` with `spk_kernel_layers`. Set `overlap` to `masked` or `auto`."
        )
    return overlap


def transcribe_recording(
    asr: Any,
    audio: np.ndarray | LongAudio,
    diarization: Diarization,
    options: TranscribeOptions | None = None,
    *,
    mel: SharedMel | None = None,
) -> Transcript:
    """Transcribe one recording whose speakers are known.

    Args:
        asr: a NeMo speech recognizer.
        audio: samples at its rate, shape (samples,), the first of which is at `diarization.offset`.
        diarization: who speaks when; its probabilities decide where several speak at once.
        options: how.
        mel: features that the diarizer has made and the recognizer can use.

    Raises:
        ConfigError: ``kernels`` is asked of a recognizer that has none.
    """
    options = options or TranscribeOptions()
    way = way_of_overlap(asr, options.overlap)
    if way == "masked":
        asked: list[Asked] = [
            (stretch, [s for s in diarization.segments if s.speaker == name], name)
            for name in diarization.speakers
            for stretch in _stretches(diarization, options.max_seconds, speaker=name)
        ]
    else:
        segments = list(diarization.segments)
        stretches = _stretches(diarization, options.max_seconds)
        if way == "kernels":
            asked = [
                (stretch, [s for s in segments if s.speaker == name], name)
                for stretch in stretches
                for name in diarization.speakers
                if any(s.speaker == name and s.start < stretch.end and s.end > stretch.start for s in segments)
            ]
        else:
            asked = [(stretch, segments, None) for stretch in stretches]
    asked.sort(key=lambda one: one[0])  # in the order of time, in which a long file is read once
    words: list[TranscribedWord] = []
    size = max(PIECES_AT_ONCE // options.batch_size, 1) * options.batch_size
    for first in range(0, len(asked), size):
        words += _words_of(asr, audio, diarization, asked[first : first + size], options, way, mel)
    return Transcript(
        recording=diarization.recording,
        words=tuple(words),
        diarization=diarization,
        duration=diarization.duration,
    )


def _words_of(
    asr: Any,
    audio: np.ndarray | LongAudio,
    diarization: Diarization,
    asked: Sequence[Asked],
    options: TranscribeOptions,
    way: Overlap,
    mel: SharedMel | None,
) -> list[TranscribedWord]:
    """The words of some stretches of a recording."""
    rate, begin = asr_sample_rate(asr), diarization.offset
    pieces, places = [], []
    targets: list[SpeakerTargets] | None = [] if way == "kernels" else None
    rounded: list[Asked] = []
    for stretch, segments, speaker in asked:
        # whole hops, on which features of the recording and of the stretch agree
        first, last = (max(round(round(time - begin, 2) * rate), 0) for time in stretch)
        start = begin + first / rate
        piece = np.asarray(audio[first:last], dtype=np.float32)
        if speaker is not None and targets is not None:
            told = speaker_targets(
                diarization.segments,
                speaker,
                start=start,
                num_samples=max(len(piece), 1),
                sample_rate=rate,
                subsampling=asr_subsampling(asr) or 8,
            )
            if not told.own.any():
                continue
            targets.append(told)
        elif speaker is not None:
            piece = masked(piece, segments, start=start, sample_rate=rate)
        pieces.append(piece)
        places.append(first)
        rounded.append((stretch._replace(start=start), segments, speaker))
    with nullcontext() if mel is None else mel.given(pieces, places, len(audio)):
        return words_of_stretches(asr, pieces, diarization, rounded, options, targets=targets)


def words_of_stretches(
    asr: Any,
    pieces: Sequence[np.ndarray],
    diarization: Diarization,
    asked: Sequence[Asked],
    options: TranscribeOptions,
    *,
    targets: Sequence[SpeakerTargets] | None = None,
) -> list[TranscribedWord]:
    """The words of some stretches, whose audio is given; those of a stretch of one speaker are that speaker's."""
    heard = recognize(asr, pieces, batch_size=options.batch_size, options=options.asr_options, targets=targets)
    words: list[TranscribedWord] = []
    for (stretch, segments, speaker), one in zip(asked, heard, strict=True):
        sure: list[float | None]
        if one.words is None:
            placed = spread_over_speech(one.text, stretch, segments)
            sure = [None] * len(placed)
        else:
            placed = [(word.text, stretch.start + word.start, stretch.start + word.end) for word in one.words]
            sure = [word.confidence for word in one.words]
        if speaker is None:
            words += assign_speakers(placed, diarization, confidences=sure)
        else:
            words += [
                TranscribedWord(*word, speaker, confidence) for word, confidence in zip(placed, sure, strict=True)
            ]
    return words


def _stretches(diarization: Diarization, max_seconds: float, *, speaker: str | None = None) -> list[Stretch]:
    """Where somebody speaks, or one speaker."""
    segments = [s for s in diarization.segments if speaker in (None, s.speaker)]
    return speech_stretches(
        segments,
        start=diarization.offset,
        end=diarization.offset + diarization.duration,
        max_seconds=max_seconds,
        level=speech_level(diarization),
    )


def speech_level(diarization: Diarization) -> Level | None:
    """How much speech there is at each frame; None where the probabilities were not kept."""
    if diarization.probs is None or not diarization.probs.size:
        return None
    return Level(diarization.probs.sum(axis=1), diarization.offset, diarization.frame_seconds)


def _jointly(
    model: Any,
    source: AudioSource,
    diarization: Diarization,
    options: TranscribeOptions,
    memory: RememberedFeatures | None,
) -> Transcript:
    """What a joint model makes of one recording."""
    from nemo_sortformer.inference.transcribe_joint import check_joint_options

    check_joint_options(model, options.asr_options)
    rate = model.config.sample_rate
    [found] = model.transcribe_sessions(
        [source.read(rate)],
        sample_rate=rate,
        diarizations=[diarization],
        batch_size=options.batch_size,
        max_seconds=options.max_seconds,
        memory=memory,
        **options.asr_options,
    )
    transcript: Transcript = found
    return transcript
