# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What a .nemo file is, what it can do here, and what would stop it, read without building its model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_sortformer.config import DiarizerConfig
from nemo_sortformer.config.merge import ConfigError, from_cfg, to_plain
from nemo_sortformer.config.streaming import LATENCIES, StreamingConfig, streaming_keys, streaming_settings
from nemo_sortformer.nemo_bridge.allow_list import PREFIX
from nemo_sortformer.nemo_bridge.archive import NemoFileError, member_names, read_nemo_config
from nemo_sortformer.nemo_bridge.compat import NEMO_DIARIZER, NEMO_ONLY, Finding, diarizer_findings
from nemo_sortformer.nemo_bridge.contents import TensorInfo, read_contents
from nemo_sortformer.nemo_bridge.kinds import kind_of, tokenizer_of
from nemo_sortformer.nemo_bridge.signatures import class_exists
from nemo_sortformer.nemo_bridge.sizes import weight_findings

OWN_DIARIZER = "nemo_sortformer.models.diarizer.model.SortformerDiarizer"


@dataclass(frozen=True)
class Ability:
    """One thing that one may want to do with a file."""

    possible: bool
    text: str
    """How, or why not."""


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`describe` finds out."""

    path: str
    file_bytes: int
    kind: str
    """In words, e.g. ``Sortformer diarizer``."""
    target: str
    """The class that the file names."""
    nemo_version: str | None
    """Of the NeMo that wrote it."""
    sample_rate: int | None
    """In Hz."""
    mel: dict[str, Any]
    """The front end's settings."""
    encoder: dict[str, Any]
    """The acoustic encoder's class and sizes."""
    state_encoder: dict[str, Any]
    """Those of a diarizer's state encoder."""
    slots: int | None
    """Speakers that a diarizer tells apart."""
    frame_seconds: float | None
    """From one frame of the encoder's output to the next."""
    streaming: dict[str, Any] | None
    """A diarizer's chunks and speaker cache in frames, where it was trained for streaming."""
    latencies: list[str]
    """The latencies with a name at which a diarizer can stream."""
    tokenizer: dict[str, Any] | None
    """A speech recognizer's: kind and number of tokens."""
    parameters: dict[str, int]
    """Number of values in each part."""
    dtypes: dict[str, int]
    """Number of values of each type."""
    abilities: dict[str, Ability]
    """`diarize`, `stream`, `init_encoder` and `transcribe`."""
    problems: list[Finding] = field(default_factory=list)
    """What stops it from loading as a diarizer here, each with the way out."""
    notes: list[Finding] = field(default_factory=list)
    """What is ignored here, and changes nothing."""

    @property
    def total_parameters(self) -> int:
        """Number of values in all parts."""
        return sum(self.parameters.values())


def describe(path: str | os.PathLike[str]) -> Checkpoint:
    """Say what a .nemo file, or a folder with its contents, is.

    The settings are parsed and the names and shapes of the weights listed; no model is built, no code of the file is
    run, and neither NeMo nor (for files of PyTorch 1.6 and later) torch is imported.

    Raises:
        NemoFileError: the file is missing, or is no .nemo file that can be read.
    """
    raw = read_nemo_config(path)
    problems: list[Finding] = []
    try:
        cfg: dict[str, Any] = to_plain(raw)
    except ConfigError as error:
        cfg = _unresolved(raw)
        problems.append(Finding("model_config.yaml", str(error), "Give a repaired one as `override_config_path`."))
    if "model" in cfg and "target" not in cfg and isinstance(cfg["model"], dict):
        cfg = cfg["model"]
    weights = _weights(path, problems)
    target = str(cfg.get("target") or "")
    notes: list[Finding] = []
    found: list[Finding]
    if target == NEMO_DIARIZER:
        found = [*diarizer_findings(cfg), *(weight_findings(cfg, weights) if weights else [])]
        problems += [one for one in found if one.fatal]
        notes += [one for one in found if not one.fatal]
    elif target == OWN_DIARIZER:
        cfg, found = _with_defaults(cfg)
        problems += found
    elif target.startswith(PREFIX) and not class_exists(target):
        text = f"this version of nemo_sortformer has no class `{target}`."
        problems.append(Finding("target", text, "Install the version that wrote it."))
    encoder, mel = _group(cfg, "encoder"), _group(cfg, "preprocessor")
    return Checkpoint(
        path=str(path),
        file_bytes=_size(Path(path)),
        kind=kind_of(target, cfg),
        target=target,
        nemo_version=cfg.get("nemo_version"),
        sample_rate=mel.get("sample_rate") or cfg.get("sample_rate"),
        mel=mel,
        encoder=encoder,
        state_encoder=_group(cfg, "transformer_encoder") if _is_diarizer(target) else {},
        slots=cfg.get("max_num_of_spks"),
        frame_seconds=_frame_seconds(mel, encoder),
        streaming=_streaming(cfg) if _is_diarizer(target) else None,
        latencies=_latencies(cfg) if _is_diarizer(target) and not problems else [],
        tokenizer=tokenizer_of(cfg),
        parameters=_by_part(weights),
        dtypes=_by_dtype(weights),
        abilities=_abilities(target, cfg, weights, problems),
        problems=problems,
        notes=notes,
    )


def _weights(path: str | os.PathLike[str], problems: list[Finding]) -> dict[str, TensorInfo]:
    try:
        return read_contents(path)
    except NemoFileError as error:
        names = member_names(path)
        shards = any(name.startswith("model_weights/") for name in names)
        way_out = (
            "Its weights are in shards of a distributed checkpoint: save it again on one process with NeMo."
            if shards
            else "Get the file again, or save it again with NeMo."
        )
        problems.append(Finding("model_weights.ckpt", str(error), way_out))
        return {}


def _with_defaults(cfg: dict[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """Fill in the defaults of our own diarizer, and say what its settings have that this version does not know."""
    left_out = (*NEMO_ONLY, "train_ds", "validation_ds", "test_ds")  # of no weight for a restore
    plain = {key: value for key, value in cfg.items() if key not in left_out}
    try:
        config = from_cfg(DiarizerConfig, plain, path="model")
    except ConfigError as error:
        return cfg, [Finding("model", str(error), "Install the version of nemo_sortformer that wrote it.")]
    return cfg | {"preprocessor": config.preprocessor, "max_num_of_spks": config.max_num_of_spks}, []


def _is_diarizer(target: str) -> bool:
    return target in (NEMO_DIARIZER, OWN_DIARIZER)


def _abilities(
    target: str, cfg: Mapping[str, Any], weights: Mapping[str, TensorInfo], problems: list[Finding]
) -> dict[str, Ability]:
    if not _is_diarizer(target):
        reason = "it is no diarizer; it can start the acoustic encoder of one"
        diarize = stream = Ability(False, reason if _has_encoder(cfg, weights) else "it is no diarizer")
    elif problems:
        diarize = stream = Ability(False, "see what stops it")
    else:
        diarize = Ability(True, "`nemo-sortformer diarize --model FILE`")
        stream = (
            Ability(True, f"{_STREAM}; it was trained for that")
            if _streaming(cfg)
            else Ability(True, _NOT_TRAINED_FOR_STREAMS)
        )
    return {
        "diarize": diarize,
        "stream": stream,
        "init_encoder": _init_ability(cfg, weights),
        "transcribe": _transcribe_ability(target, cfg),
    }


_STREAM = "`nemo-sortformer stream --model FILE`, `model.stream`"
_NOT_TRAINED_FOR_STREAMS = f"{_STREAM}; it was trained on whole recordings: expect more errors than whole"


def _has_encoder(cfg: Mapping[str, Any], weights: Mapping[str, TensorInfo]) -> bool:
    return bool(_group(cfg, "encoder")) and any(name.startswith("encoder.") for name in weights)


def _init_ability(cfg: Mapping[str, Any], weights: Mapping[str, TensorInfo]) -> Ability:
    if not _has_encoder(cfg, weights):
        return Ability(False, "it has no part named `encoder`")
    name = str(cfg["encoder"].get("_target_", "")).rpartition(".")[2]
    if name not in ("ConformerEncoder", "ConformerEncoderAdapter"):
        return Ability(False, f"its encoder is a `{name}`, where ours is a `ConformerEncoder`")
    return Ability(True, "`init_from_nemo_model=FILE` in a training with the same mel settings and sizes")


def _transcribe_ability(target: str, cfg: Mapping[str, Any]) -> Ability:
    if not kind_of(target, cfg).endswith("speech recognizer"):
        return Ability(False, "it is no speech recognizer")
    if not class_exists(target):
        return Ability(False, f"the installed NeMo has no class `{target}`")
    return Ability(True, "by NeMo's own class: `nemo.collections.asr.models.ASRModel.restore_from(FILE)`")


def _streaming(cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    own = _group(cfg, "streaming")
    if not own and not cfg.get("streaming_mode"):
        return None
    group = own or _group(cfg, "sortformer_modules")
    return {name: group[name] for name in streaming_keys() if group.get(name) is not None}


def _latencies(cfg: Mapping[str, Any]) -> list[str]:
    names, slots = [], cfg.get("max_num_of_spks", 4)
    for name in LATENCIES:
        try:
            streaming_settings(from_cfg(StreamingConfig, _streaming(cfg) or {}), name).check(slots)
        except ConfigError:
            continue  # no room for so many speakers
        names.append(name)
    return names


def _frame_seconds(mel: Mapping[str, Any], encoder: Mapping[str, Any]) -> float | None:
    stride, factor = mel.get("window_stride"), encoder.get("subsampling_factor")
    return round(stride * factor, 6) if isinstance(stride, (int, float)) and isinstance(factor, int) else None


def _by_part(weights: Mapping[str, TensorInfo]) -> dict[str, int]:
    parts: dict[str, int] = {}
    for name, info in weights.items():
        part = name.partition(".")[0]
        parts[part] = parts.get(part, 0) + info.size
    return parts


def _by_dtype(weights: Mapping[str, TensorInfo]) -> dict[str, int]:
    types: dict[str, int] = {}
    for info in weights.values():
        types[info.dtype] = types.get(info.dtype, 0) + info.size
    return types


def _group(cfg: Mapping[str, Any], name: str) -> dict[str, Any]:
    group = cfg.get(name)
    return dict(group) if isinstance(group, Mapping) else {}


def _unresolved(raw: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return dict(OmegaConf.to_container(raw, resolve=False))


def _size(path: Path) -> int:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
