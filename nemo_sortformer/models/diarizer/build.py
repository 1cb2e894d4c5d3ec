# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From settings to the parts of the model: NeMo's configurations translated, the rest checked and filled in."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch import nn

from nemo_sortformer import nemo_bridge
from nemo_sortformer.config import ConfigError, DatasetConfig, DiarizerConfig, from_cfg
from nemo_sortformer.config.streaming import streaming_keys
from nemo_sortformer.losses import SortedLabelLoss
from nemo_sortformer.models.shared import settings
from nemo_sortformer.models.shared.settings import (
    DATASET_NAMES,
    NEMO_DATASET_KEYS,
    NEMO_MODEL_KEYS,
    build_loss,
    instantiate,
    with_agreed,
    without_nemo_keys,
)
from nemo_sortformer.modules import ActivityHead, AffinityHead
from nemo_sortformer.modules.stacking import count_frames_alike

NEMO_DIARIZER = nemo_bridge.NEMO_DIARIZER
_OURS = {
    "nemo.collections.asr.modules.sortformer_modules.SortformerModules": "nemo_sortformer.modules.SpeakerHead",
    "nemo.collections.asr.modules.SortformerModules": "nemo_sortformer.modules.SpeakerHead",
    "nemo.collections.asr.modules.transformer.transformer_encoders.TransformerEncoder": (
        "nemo_sortformer.modules.TransformerStateEncoder"
    ),
    "nemo.collections.asr.modules.transformer.TransformerEncoder": "nemo_sortformer.modules.TransformerStateEncoder",
}
"""NeMo's classes, and ours of the same parameter names and numbers."""
_SPEAKER_HEAD = "nemo_sortformer.modules.SpeakerHead"


def register_parts() -> None:
    """Let NeMo build our modules; see :func:`nemo_bridge.register`."""
    nemo_bridge.register()


def is_nemo_config(cfg: Mapping[str, Any]) -> bool:
    """Whether the settings are those of NeMo's own diarizer, which :func:`translate` turns into ours."""
    targets = [(cfg.get(part) or {}).get("_target_") for part in ("sortformer_modules", "transformer_encoder")]
    return cfg.get("target") == NEMO_DIARIZER or any(target in _OURS for target in targets)


def translate(cfg: DictConfig, *, target: str) -> DictConfig:
    """Turn the settings of NeMo's `SortformerEncLabelModel` into ours; the same weights give the same numbers.

    Args:
        cfg: settings as in NeMo's published YAMLs or .nemo files, resolved; not changed.
        target: dotted path of the model class to name in the result.

    Returns:
        A new configuration. NeMo's loss weights are divided by their sum, as NeMo does, since ours are used as given.
        The streaming settings of a streaming configuration go to the key `streaming`.
        Keys that are not known here are named in a warning.

    Raises:
        ConfigError: keys that change the numbers ask for what is not here; each is named with a way out.
    """
    old: dict[str, Any] = copy.deepcopy(dict(OmegaConf.to_container(cfg, resolve=True)))  # type: ignore[arg-type]
    findings = nemo_bridge.diarizer_findings(old)
    if any(finding.fatal for finding in findings):
        told = "\n".join(f"- {finding}" for finding in findings if finding.fatal)
        raise ConfigError(f"This diarizer of NeMo cannot be loaded here:\n{told}")
    for finding in findings:
        logging.warning(str(finding))
    if "loss" in old and "_target_" not in (old["loss"] or {}):
        new_loss = old["loss"]  # ours already: only the modules are named as in NeMo
    else:
        sort_weight, pil_weight = old.get("ats_weight", 1.0), old.get("pil_weight", 0.0)
        total = sort_weight + pil_weight
        if total <= 0:
            raise ConfigError(f"One of `ats_weight` and `pil_weight` must be above 0, but their sum is {total}.")
        new_loss = {"sort_weight": sort_weight / total, "pil_weight": pil_weight / total}
    known = {field.name for field in fields(DiarizerConfig)} | set(NEMO_MODEL_KEYS)
    new = {key: value for key, value in old.items() if key in known and value is not None}
    new["target"], new["loss"] = target, new_loss
    ignored = {finding.key for finding in findings}
    for part in [name for name in nemo_bridge.PARTS if name in new]:
        new[part] = {key: value for key, value in new[part].items() if f"{part}.{key}" not in ignored}
    for part in ("sortformer_modules", "transformer_encoder"):
        new[part]["_target_"] = _OURS.get(new[part].get("_target_"), new[part].get("_target_"))
    if "ConformerEncoder" in new["encoder"].get("_target_", ""):
        new["encoder"].setdefault("use_pytorch_sdpa", True)  # the same numbers, faster
    if old.get("streaming_mode"):
        given = new["sortformer_modules"]
        new["level"] = "none"
        new["streaming"] = {key: given[key] for key in streaming_keys() if given.get(key) is not None}
    for name in DATASET_NAMES:
        if isinstance(new.get(name), Mapping) and "manifest_filepath" in new[name]:
            ignored_keys = nemo_bridge.ignored_data_keys(new[name], _known_data_keys())
            if ignored_keys and not new[name].get("use_lhotse"):
                logging.warning(f"`{name}`: not known here, and ignored: {', '.join(f'`{k}`' for k in ignored_keys)}.")
            new[name] = _translate_dataset(new[name])
    return OmegaConf.create(new)


def _known_data_keys() -> set[str]:
    return {field.name for field in fields(DatasetConfig)} | set(NEMO_DATASET_KEYS)


def _translate_dataset(old: Mapping[str, Any]) -> dict[str, Any]:
    known = _known_data_keys()
    new = {key: value for key, value in old.items() if key in known and value not in (None, "???")}
    if (new.get("session_len_sec") or 0) <= 0:
        new.pop("session_len_sec", None)  # NeMo's -1: whole recordings
    if new.get("use_lhotse"):
        dropped = {"num_spks", "num_speakers", "labels", "validation_mode", "window_stride", "subsampling_factor"}
        new["lhotse"] = {k: v for k, v in old.items() if k not in known | dropped and v is not None}
    return new


def typed_config(cfg: DictConfig) -> DiarizerConfig:
    """Check the settings under `model:` against :class:`DiarizerConfig`.

    Raises:
        ConfigError: a key is unknown, missing or out of its range.
    """
    return settings.typed_config(DiarizerConfig, cfg)


def dataset_config(cfg: Any, *, name: str) -> DatasetConfig:
    """Check the settings of one data source, e.g. those under `train_ds`."""
    plain = without_nemo_keys(cfg)
    if "num_spks" in plain or "labels" in plain or "validation_mode" in plain:  # NeMo's form
        plain = without_nemo_keys(_translate_dataset(plain))
    return from_cfg(DatasetConfig, plain, path=f"model.{name}")


@dataclass(frozen=True)
class Parts:
    """The modules of the model, under the attribute names that NeMo gives them."""

    preprocessor: nn.Module
    spec_augmentation: nn.Module | None
    encoder: nn.Module
    sortformer_modules: nn.Module
    transformer_encoder: nn.Module
    affinity_head: AffinityHead | None
    activity_head: ActivityHead | None
    loss: SortedLabelLoss
    hop_samples: int
    """Samples from one mel frame to the next."""
    subsampling: int
    """Mel frames per output frame."""


def build_parts(config: DiarizerConfig) -> Parts:
    """Build all modules; widths and slots that the settings leave out follow from those that they give.

    Raises:
        ConfigError: two parts disagree about a width or the number of slots.
    """
    register_parts()
    preprocessor = instantiate(config.preprocessor)
    encoder = count_frames_alike(instantiate(config.encoder))
    state_encoder_cfg = with_agreed(
        config.transformer_encoder, "transformer_encoder", {"num_labels": config.max_num_of_spks}, only_if_given=True
    )
    if state_encoder_cfg["_target_"].endswith("SortformerEncoder"):
        state_encoder_cfg.setdefault("num_labels", config.max_num_of_spks)
    state_encoder = instantiate(state_encoder_cfg)
    width = int(config.encoder.get("d_model", 0)) or int(getattr(encoder, "d_model", 0))
    if not width:
        raise ConfigError("`model.encoder.d_model` must say how wide the acoustic encoder's output is.")
    head_cfg = with_agreed(
        config.sortformer_modules,
        "sortformer_modules",
        {"fc_d_model": width, "tf_d_model": int(state_encoder.hidden_size), "num_spks": config.max_num_of_spks},
    )
    affinity_head, affinity_layers = None, getattr(state_encoder, "affinity_layers", 0)
    if affinity_layers and config.affinity is None:
        raise ConfigError(
            f"`model.transformer_encoder.affinity_layers` is {affinity_layers}, but `model.affinity`, which makes the "
            "embeddings that these layers read, is null. Set it, e.g. `model.affinity.weight=1.0`, or set "
            "`affinity_layers` to 0."
        )
    if config.affinity is not None:
        affinity_head = AffinityHead(width, config.affinity.dim)
        learns = config.affinity.weight > 0 or affinity_layers > 0
        affinity_head.requires_grad_(learns)  # else DDP waits for a gradient that never comes
    activity_head = None
    if config.activity is not None:
        activity_head = ActivityHead(int(state_encoder.hidden_size))
        activity_head.requires_grad_(config.activity.weight > 0)
    stride = config.preprocessor.get("window_stride", 0.01)
    return Parts(
        preprocessor=preprocessor,
        spec_augmentation=None if config.spec_augment is None else instantiate(config.spec_augment),
        encoder=encoder,
        sortformer_modules=instantiate({"_target_": _SPEAKER_HEAD} | head_cfg),
        transformer_encoder=state_encoder,
        affinity_head=affinity_head,
        activity_head=activity_head,
        loss=build_loss(config.loss),
        hop_samples=int(stride * config.sample_rate),
        subsampling=int(config.encoder.get("subsampling_factor", 0) or getattr(encoder, "subsampling_factor", 1)),
    )
