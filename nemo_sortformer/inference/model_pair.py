# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The models that transcribe: a recognizer and a diarizer, or one that is both."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.inference.recognizer import check_asr, holds_joint_model, load_asr


class Models(NamedTuple):
    """What transcribes: a recognizer and a diarizer, or one joint model that is both."""

    asr: Any
    diarizer: Any

    @property
    def joint(self) -> bool:
        """Whether one model does both."""
        return self.asr is self.diarizer


def load_pair(asr: Any, diarizer: Any = None, *, device: str | None = None) -> Models:
    """Load what is named by a file, and check that the two are what they should be.

    Args:
        asr: a recognizer or a joint model, or its .nemo file; None where `diarizer` is a joint model.
        diarizer: a diarizer or its .nemo file; None is the shipped one, or the joint model itself.
        device: where models that are loaded here run.

    Raises:
        ConfigError: a model is of the wrong kind, or a joint model comes with a diarizer.
        ValueError: a file is missing or cannot be read.
    """
    if asr is None:
        asr, diarizer = _joint_model(diarizer, device=device), None
    if isinstance(asr, (str, Path)):
        asr = load_asr(asr, device=device)
    if hasattr(asr, "transcribe_sessions"):
        if diarizer is not None:
            raise ConfigError("`diarizer` must be left out: `asr` is a joint model, which says who speaks when.")
        return Models(asr, asr)
    check_asr(asr)
    if diarizer is None or isinstance(diarizer, (str, Path)):
        from nemo_sortformer.inference.checkpoint import load_model

        diarizer = load_model(diarizer, device=device)
    if not callable(getattr(diarizer, "diarize", None)) or not hasattr(diarizer, "frame_seconds"):
        raise ConfigError(
            f"`diarizer` must be a diarizer of this package or a .nemo file, but is a `{type(diarizer).__name__}`."
        )
    return Models(asr, diarizer)


def _joint_model(model: Any, *, device: str | None) -> Any:
    """The joint model that stands where a diarizer would; no other does without a recognizer."""
    if isinstance(model, (str, Path)) and holds_joint_model(model):
        model = load_asr(model, device=device)
    if not hasattr(model, "transcribe_sessions"):
        raise ConfigError(
            "`asr` is missing: name the .nemo file of a NeMo speech recognizer, or of a joint model of this package."
        )
    return model
