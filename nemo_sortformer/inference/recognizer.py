# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Any NeMo speech recognizer as one thing: pieces of audio in, words with their times out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tarfile import TarError
from typing import Any, NamedTuple

import numpy as np

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.inference.ctc_times import corrected_words, ctc_decoding
from nemo_sortformer.inference.speaker_targets import SpeakerTargets, told_speakers

SHORTEST_PIECE = 1.0
"""NeMo pads shorter pieces on both sides, which would move the times of their words; they are padded here, behind."""
_NO_TIMES = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, AssertionError)
"""What models raise that have no times to give: each class has its own way."""


class TranscriptWarning(UserWarning):
    """A transcript that is made although something about it is less than it could be."""


class TimedWord(NamedTuple):
    """One word as a recognizer heard it."""

    text: str
    start: float
    """Seconds from the start of the piece."""
    end: float
    """Seconds from the start of the piece."""
    confidence: float | None = None


class Heard(NamedTuple):
    """What a recognizer makes of one piece of audio."""

    text: str
    words: list[TimedWord] | None
    """None where the model has no times for the words of `text`."""


def load_asr(path: str | Path, *, device: str | None = None) -> Any:
    """Load a NeMo speech recognizer, or a joint model of this package, for inference.

    Args:
        path: a .nemo file.
        device: `cpu`, `cuda`, ...; None takes a GPU where there is one.

    Raises:
        ValueError: the file is missing or cannot be read, holds no speech recognizer, or the device is not there.
    """
    from nemo_sortformer.inference.checkpoint import checked_file

    file, target = checked_file(path, device, name="asr")
    from nemo_sortformer.nemo_bridge import read_nemo_config
    from nemo_sortformer.nemo_bridge.kinds import kind_of

    config = read_nemo_config(file)
    named = _named_class(config)
    if _is_joint(named):
        from nemo_sortformer.models.joint_asr.model import SortformerJointASR

        joint: Any = SortformerJointASR
        return joint.restore_from(str(file), map_location=target).to(target).eval()
    kind = kind_of(named, config)
    if kind.startswith(("Sortformer", "self-supervised", "speaker embedding", "frame", "audio", "multi-scale")):
        raise ConfigError(
            f"`asr` must be a speech recognizer, but `{file}` is a {kind}. A diarizer is named as `diarizer`; "
            "`nemo-sortformer inspect` says what a file is."
        )
    from nemo.collections.asr.models import ASRModel

    from nemo_sortformer.nemo_bridge import reset_restore_state

    try:
        model = ASRModel.restore_from(str(file), map_location=target)
    except (RuntimeError, OSError, ImportError, LookupError, AttributeError, TypeError, TarError, EOFError) as error:
        reset_restore_state()
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(f"`asr`: `{file}` cannot be loaded: {reason}") from error
    check_asr(model)
    return model.to(target).eval()


def holds_joint_model(path: str | Path) -> bool:
    """Whether a .nemo file holds a joint model of this package.

    Raises:
        NemoFileError: the file is missing or is no .nemo file.
    """
    from nemo_sortformer.nemo_bridge import read_nemo_config

    return _is_joint(_named_class(read_nemo_config(Path(path).expanduser())))


def _named_class(config: Mapping[str, Any]) -> str:
    return str(config.get("target") or config.get("_target_") or "")


def _is_joint(target: str) -> bool:
    return target.startswith("nemo_sortformer.") and target.endswith("JointASR")


def check_asr(model: Any) -> None:
    """Stop where a model is not one that transcribes samples.

    Raises:
        ConfigError: it has no `transcribe`, or does not say its sample rate.
    """
    if not callable(getattr(model, "transcribe", None)):
        raise ConfigError(
            f"`asr` must be a NeMo speech recognizer or the path of one, but is a `{type(model).__name__}`, which has "
            "no `transcribe`."
        )
    asr_sample_rate(model)


def asr_sample_rate(model: Any) -> int:
    """The rate of the samples that a recognizer hears, in Hz.

    Raises:
        ConfigError: the model does not say.
    """
    cfg = getattr(model, "cfg", None)
    for group in (cfg, cfg.get("preprocessor") if cfg is not None else None):
        rate = group.get("sample_rate") if group is not None else None
        if rate:
            return int(rate)
    rate = getattr(model, "sample_rate", None)
    if not rate:
        raise ConfigError(f"`asr`, a `{type(model).__name__}`, has no `sample_rate` in its settings.")
    return int(rate)


def recognize(
    model: Any,
    pieces: Sequence[np.ndarray],
    *,
    batch_size: int = 4,
    options: Mapping[str, Any] | None = None,
    targets: Sequence[SpeakerTargets] | None = None,
) -> list[Heard]:
    """Transcribe pieces of audio; the model and its decoding settings are afterwards as they were.

    NeMo's own `transcribe(timestamps=True)` is asked. A model that has no times gives its text alone, with a warning.

    Args:
        model: a NeMo speech recognizer.
        pieces: samples at the model's rate, shape (samples,) each.
        batch_size: pieces run at once.
        options: further arguments of the model's `transcribe`, as `source_lang` of a Canary model.
        targets: whose words are wanted of each piece, for a model with speaker kernels.
    """
    if not pieces:
        return []
    rate = asr_sample_rate(model)
    least = int(SHORTEST_PIECE * rate) + 1
    order = sorted(range(len(pieces)), key=lambda i: -len(pieces[i]))  # those of similar length in one batch
    padded = [np.pad(pieces[i], (0, max(least - len(pieces[i]), 0))).astype(np.float32) for i in order]
    if getattr(model, "timestamps_asr_model", None) is not None:
        # NeMo joins what it hears of a lone piece, or of batches of one, as chunks of one recording.
        padded, batch_size = padded + padded[: len(padded) == 1], max(batch_size, 2)
    given = {"batch_size": batch_size, "verbose": False, "return_hypotheses": True, **(options or {})}
    told = None if targets is None else [targets[i] for i in order]
    try:
        with _model_kept(model), told_speakers(model, told):
            results = model.transcribe(padded, timestamps=True, **given)
    except _NO_TIMES as error:
        if _is_memory(error):
            raise
        results = _without_times(model, padded, given, told)
    if isinstance(results, tuple):  # (best, all) of some classes
        results = results[0]
    heard, frame_seconds = [Heard("", [])] * len(pieces), _frame_seconds(model)
    ctc = ctc_decoding(model)
    for i, result in zip(order, results, strict=False):
        heard[i] = _heard(result, len(pieces[i]) / rate, frame_seconds, blank=None if ctc is None else ctc.blank_id)
    if any(one.words is None for one in heard):
        message = (
            f"`{type(model).__name__}` gives no times for its words: they are spread by their letters over the speech "
            "that the diarizer hears, so that at a change of speaker words may go to the wrong one."
        )
        warnings.warn(message, TranscriptWarning, stacklevel=2)
    return heard


def _without_times(
    model: Any, pieces: list[np.ndarray], given: Mapping[str, Any], told: Sequence[SpeakerTargets] | None
) -> Any:
    try:
        with _model_kept(model), told_speakers(model, told):
            return model.transcribe(pieces, **given)
    except (TypeError, LookupError, AttributeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"`asr`, a `{type(model).__name__}`, does not transcribe: {reason}. What its own `transcribe` needs, as "
            "`source_lang`, is given by `asr_options`."
        ) from error


def asr_subsampling(model: Any) -> int | None:
    """Frames of mel features per output of the recognizer; None where it does not say."""
    factor = getattr(getattr(model, "encoder", None), "subsampling_factor", None)
    return int(factor) if factor else None


def _frame_seconds(model: Any) -> float:
    """From one output of the recognizer to the next; a word lasts at least so long."""
    factor = asr_subsampling(model)
    stride = (model.cfg.get("preprocessor") or {}).get("window_stride") if hasattr(model, "cfg") else None
    return float(factor) * float(stride) if factor and stride else 0.08


def _heard(result: Any, seconds: float, frame_seconds: float, *, blank: int | None) -> Heard:
    while isinstance(result, (list, tuple)):  # of a beam, the best
        result = result[0] if result else ""
    text = " ".join(str(getattr(result, "text", result) or "").split())
    stamps = getattr(result, "timestamp", None)
    rows = stamps.get("word") if isinstance(stamps, Mapping) else None
    if not text:
        return Heard("", [])
    if not rows:
        return Heard(text, None)
    if blank is not None:
        rows = corrected_words(result, blank, frame_seconds) or rows
    sure = getattr(result, "word_confidence", None)
    sure = sure if sure is not None and len(sure) == len(rows) else [None] * len(rows)
    words = []
    for row, confidence in zip(rows, sure, strict=True):
        start = float(np.clip(row["start"], 0.0, max(seconds - frame_seconds, 0.0)))
        end = float(np.clip(row["end"], min(start + frame_seconds, seconds), seconds))
        value = None if confidence is None else float(confidence)
        words += [TimedWord(part, *span, value) for part, *span in spread(str(row["word"]), start, end)]
    return Heard(text, words)


def spread(text: str, start: float, end: float) -> list[tuple[str, float, float]]:
    """The words of a text in a stretch: one word has all of it, several share it by their letters."""
    from nemo_sortformer.data.spoken_words import spread_words

    words = text.split()
    return [(words[0], start, end)] if len(words) == 1 else spread_words(text, start, end)


def _is_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in str(error).lower()


@contextmanager
def _model_kept(model: Any) -> Iterator[None]:
    """Put back what transcribing changes: decoding settings, which parameters are trained, how much NeMo says."""
    cfg = getattr(model, "cfg", None)
    groups = [group for group in (cfg, cfg.get("aux_ctc") if cfg is not None else None) if group is not None]
    before = [(group, group["decoding"].copy()) for group in groups if group.get("decoding") is not None]
    requires_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training = {module: module.training for module in model.modules()}
    from nemo.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # it says at every call that times are asked for
    parts = {name: getattr(model, name, None) for name in ("decoding", "ctc_decoding", "wer", "ctc_wer")}
    try:
        yield
    finally:
        from omegaconf import open_dict

        logging.set_verbosity(level)
        for group, decoding in before:
            if group["decoding"] != decoding:
                with open_dict(group):
                    group["decoding"] = decoding
        for name, value in parts.items():
            if value is not None:
                setattr(model, name, value)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = requires_grad[name]
        for module, mode in training.items():
            module.training = mode
