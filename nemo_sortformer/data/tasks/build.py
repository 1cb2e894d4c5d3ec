# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From settings to a task."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_sortformer.config import ConfigError
from nemo_sortformer.data.tasks.sequences import LabelTask, SequenceConfig

TASKS = {
    "speakers": "SpeakerTask",
    "languages": "LanguageTask",
    "genres": "GenreTask",
    "faces": "FaceTask",
    "anomalies": "AnomalyTask",
    "voice_languages": "VoiceLanguageTask",
}
"""Name of each task, and of the module that has it -> its class."""
_SPEECH = "NEMO_SORTFORMER_SPEECH"


@dataclass(kw_only=True)
class TaskConfig:
    """What a task makes and how much of it: the keys under `task:` in the YAML files of the tasks."""

    name: str
    """One of speakers, languages, genres, faces, anomalies, voice_languages."""
    seed: int = 0
    """Start of all draws."""
    counts: dict[str, int] = field(default_factory=lambda: {"train": 800, "seen": 100, "unseen": 100})
    """Sequences per split."""
    dim: int = 32
    """Width of the embeddings, see `FrameSpace`."""
    rotations: int = 0
    """Copies of each training sequence, turned at random; 0: one copy, not turned."""
    sequences: SequenceConfig = field(default_factory=SequenceConfig)
    """How classes take turns."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the task's class. A `manifest` or `recorded` of `auto` is the pool of recorded speech beside the
    checkout, or none where it is not there."""

    def __post_init__(self) -> None:
        if self.name not in TASKS:
            raise ConfigError(f"`name` must be one of {', '.join(TASKS)}, but is {self.name!r}.")
        self.options = {key: _found(value) for key, value in self.options.items()}
        for split in ("train", "seen", "unseen"):
            if self.counts.get(split, 0) < 1:
                raise ConfigError(f"`counts.{split}` must be 1 or more, but is {self.counts.get(split)}.")


def build_task(config: TaskConfig, **more: Any) -> LabelTask:
    """Make the task that the settings name; `more` are arguments of its class that no YAML can hold."""
    module = importlib.import_module(f"nemo_sortformer.data.tasks.{config.name}")
    options: Mapping[str, Any] = {**config.options, **more}
    task: LabelTask = getattr(module, TASKS[config.name])(config.sequences, seed=config.seed, **options)
    return task


def speech_manifest() -> Path | None:
    """The manifest of recorded people in the folder that NEMO_SORTFORMER_SPEECH names, or beside the checkout.

    Returns:
        None where there is no such file.
    """
    folder = os.environ.get(_SPEECH) or Path(__file__).parents[4] / "shared" / "data"
    path = Path(folder) / "pool" / "manifest.jsonl"
    return path if path.is_file() else None


def _found(value: Any) -> Any:
    if value != "auto":
        return value
    path = speech_manifest()
    return None if path is None else str(path)
