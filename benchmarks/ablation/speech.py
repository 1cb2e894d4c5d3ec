# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The comparison on real speech: state encoders on the frames of one acoustic encoder, scored as diarizers.

The acoustic encoder is that of a trained diarizer and stays as it is, so that all systems see the same frames and a
run costs a minute. Conversations of training speakers are mixed once; the test is on recorded sessions of other
speakers, longer than those trained on. Thresholds are chosen on `sessions/dev` for each run by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.progress import track
from torch import Tensor

from benchmarks.ablation.run import learning_rate
from benchmarks.ablation.settings import AblationConfig, Run
from nemo_sortformer.config import ConfigError, InferenceConfig, from_cfg
from nemo_sortformer.config.mixing import MixingConfig
from nemo_sortformer.data.manifest import read_manifest
from nemo_sortformer.data.mixing.dataset import MixingDataset
from nemo_sortformer.functional.counts import der_counts
from nemo_sortformer.inference.score import Condition, ErrorCounts
from nemo_sortformer.inference.tune import GRIDS, Objective, Recording, Search
from nemo_sortformer.inference.windows import Outputs
from nemo_sortformer.models.labeler import SortformerLabeler

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

SETTINGS = {name: GRIDS[name] for name in ("onset", "offset", "min_duration_off", "min_duration_on", "median_frames")}
"""What is chosen on dev, and from which values."""


@dataclass(kw_only=True)
class SpeechAblationConfig(AblationConfig):
    """Everything in configs/ablation_speech.yaml, beside what both comparisons have."""

    speech: str
    """Folder with pool/, sessions/dev and sessions/test."""
    model: str | None = None
    """The diarizer whose acoustic encoder makes the frames; None: the shipped one."""
    recordings: int = 2000
    """Mixed conversations to train on."""
    mixing: dict[str, Any] = field(default_factory=dict)
    """How they are mixed, beside `manifest`; keys of `MixingConfig`."""


@dataclass(frozen=True)
class Session:
    """A recorded session as frames."""

    features: Tensor
    """Shape (frames, width)."""
    targets: Tensor
    """Shape (frames, slots), in order of arrival."""
    recording: Recording
    """Its truth in seconds; the outputs are empty."""
    num_speakers: int


@dataclass(frozen=True)
class SpeechFrames:
    """All that the runs read, in memory."""

    train: Tensor
    """Half precision, shape (conversations, frames, width)."""
    targets: Tensor
    """Bool, shape (conversations, frames, slots)."""
    sessions: dict[str, list[Session]]
    """`dev` and `test`."""
    frame_seconds: float


def prepare_frames(config: SpeechAblationConfig) -> SpeechFrames:
    """Mix the training conversations, read the sessions, run the acoustic encoder; kept in `config.out` for later.

    Raises:
        ConfigError: the acoustic encoder has another width than `task.dim`.
    """
    from nemo_sortformer.inference.checkpoint import load_model

    model = load_model(config.model)
    model.eval()
    if model.encoder.d_model != config.task.dim:
        raise ConfigError(
            f"`task.dim` must be the width of the acoustic encoder, {model.encoder.d_model}, but is {config.task.dim}."
        )
    kept = Path(config.out) / "frames.pt"
    if kept.is_file():
        train, targets = torch.load(kept, weights_only=True)
    else:
        train, targets = _mixed_frames(model, config)
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save((train, targets), kept)
    sessions = {
        split: _read_sessions(
            model, Path(config.speech) / "sessions" / split / "manifest.jsonl", config.task.num_slots
        )
        for split in ("dev", "test")
    }
    return SpeechFrames(train, targets, sessions, model.frame_seconds)


def _mixed_frames(model: SortformerDiarizer, config: SpeechAblationConfig) -> tuple[Tensor, Tensor]:
    settings = {"manifest": str(Path(config.speech) / "pool" / "manifest.jsonl"), **config.mixing}
    mixed = MixingDataset(from_cfg(MixingConfig, settings, path="mixing"), num_slots=config.task.num_slots)
    frames, labels = [], []
    for number in track(range(config.recordings), "Mixing"):
        item = mixed.conversation(0, 0, number)
        features = _features(model, item.audio)
        count = min(len(features), len(item.targets))
        frames.append(features[:count].half())
        labels.append(item.targets[:count] > 0.5)
    return torch.stack(frames), torch.stack(labels)


@torch.no_grad()
def _features(model: SortformerDiarizer, audio: Tensor) -> Tensor:
    """The acoustic encoder's frames of one recording (samples,), shape (frames, width)."""
    mel, lengths = model.mel_features(audio[None], torch.tensor([len(audio)]))
    features, lengths = model.encoder(audio_signal=mel, length=lengths)
    return features[0, :, : int(lengths[0])].T.contiguous()


def _read_sessions(model: SortformerDiarizer, manifest: Path, num_slots: int) -> list[Session]:
    from nemo_sortformer.data.audio import read_audio
    from nemo_sortformer.data.targets import frame_targets
    from nemo_sortformer.inference.exact_score import Truth
    from nemo_sortformer.inference.score_inputs import pair_sessions

    entries = read_manifest(manifest)
    pairs = pair_sessions(manifest, {entry.uniq_id: [] for entry in entries}).sessions
    sessions = []
    for entry, pair in zip(entries, pairs, strict=True):
        audio = read_audio(entry.audio_filepath)
        features = _features(model, torch.from_numpy(audio))
        targets = frame_targets(pair.reference, num_samples=len(audio), num_slots=num_slots)
        recording = Recording(
            Outputs(np.empty((0, num_slots)), None), Truth(pair.reference, Condition(0.25)), len(audio) / 16000, 0.0
        )
        count = min(len(features), len(targets))
        speakers = len({segment.speaker for segment in pair.reference})
        sessions.append(Session(features[:count], torch.from_numpy(targets[:count]), recording, speakers))
    return sessions


def build_system(config: SpeechAblationConfig, run: Run) -> SortformerLabeler:
    """The labeler of a run; `affinity_weight` among the keys of its loss adds affinity embeddings and their loss."""
    system = config.systems[run.system]
    loss = {**config.losses[run.loss], **system.loss}
    weight = loss.pop("affinity_weight", None)
    settings: dict[str, Any] = {
        "input_dim": config.task.dim,
        "max_num_of_classes": config.task.num_slots,
        "encoder": system.encoder,
        "loss": loss,
        "affinity": None if weight is None else {"weight": weight, "max_frames": 96},
    }
    if system.head is not None:
        settings["head"] = system.head
    return SortformerLabeler(cfg=OmegaConf.create(settings))


def run_speech(
    config: SpeechAblationConfig, frames: SpeechFrames, run: Run, on_step: Callable[[int], None] = lambda step: None
) -> dict[str, Any]:
    """Train one system on the frames, choose its thresholds on dev, score it on dev and test."""
    start = time.perf_counter()
    torch.manual_seed(run.seed)
    model = build_system(config, run)
    _train(model, config, run, frames, on_step)
    answers = {split: _answers(model, sessions) for split, sessions in frames.sessions.items()}
    search = Search(Objective([answers["dev"]], frames.frame_seconds), InferenceConfig(), SETTINGS)
    chosen = search.run().config
    result: dict[str, Any] = {
        "run": {"system": run.system, "loss": run.loss, "pool": run.pool, "seed": run.seed},
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "dev": _rates(answers["dev"], chosen, frames.frame_seconds),
        "test": _rates(answers["test"], chosen, frames.frame_seconds),
    }
    for number in sorted({session.num_speakers for session in frames.sessions["test"]}):
        part = [a for a, s in zip(answers["test"], frames.sessions["test"], strict=True) if s.num_speakers == number]
        result[f"test_{number}"] = _rates(part, chosen, frames.frame_seconds)
    result["unseen"] = {"1": _frame_errors(answers["test"], frames.sessions["test"])}
    return result | {"seconds": time.perf_counter() - start}


def _train(
    model: SortformerLabeler,
    config: SpeechAblationConfig,
    run: Run,
    data: SpeechFrames,
    on_step: Callable[[int], None],
) -> None:
    train = config.train
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=train.lr, betas=(0.9, 0.98), weight_decay=train.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, train.warmup_steps, train.steps)
    )
    generator = torch.Generator().manual_seed(run.seed)
    lengths = torch.full((train.batch_size,), train.frames)
    longest = data.train.shape[1] - train.frames + 1
    inside = torch.arange(train.frames)
    model.train()
    for step in range(1, train.steps + 1):
        rows = torch.randint(len(data.train), (train.batch_size, 1), generator=generator)
        places = torch.randint(longest, (train.batch_size, 1), generator=generator) + inside
        batch = (data.train[rows, places].float(), lengths, data.targets[rows, places].float(), lengths)
        loss = model.compute_losses(batch)[0]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_gradient_norm)
        optimizer.step()
        schedule.step()
        on_step(step)


@torch.no_grad()
def _answers(model: SortformerLabeler, sessions: list[Session]) -> list[Recording]:
    model.eval()
    answers = []
    for session in sessions:
        probs = model(embeddings=session.features[None], lengths=torch.tensor([len(session.features)])).probs[0]
        answers.append(
            Recording(Outputs(probs.numpy(), None), session.recording.truth, session.recording.duration, 0.0)
        )
    return answers


def _rates(recordings: list[Recording], chosen: InferenceConfig, frame_seconds: float) -> dict[str, float]:
    counts: ErrorCounts = Objective([recordings], frame_seconds).counts(chosen)[0]
    return {
        "der": counts.der,
        "missed": counts.missed / counts.speech,
        "false_alarm": counts.false_alarm / counts.speech,
        "confusion": counts.confusion / counts.speech,
    }


def _frame_errors(answers: list[Recording], sessions: list[Session]) -> dict[str, float]:
    """Frame errors at one half: slot k against the k-th to arrive, and after the best mapping."""
    totals = torch.zeros(2, 4, dtype=torch.float64)
    for answer, session in zip(answers, sessions, strict=True):
        probs = torch.from_numpy(answer.outputs.probs)[None]
        totals[0] += der_counts(probs, session.targets[None], as_is=True)
        totals[1] += der_counts(probs, session.targets[None])
    as_is, mapped = (totals[:, :3].sum(dim=1) / totals[:, 3]).tolist()
    return {"as_is": as_is, "mapped": mapped}
