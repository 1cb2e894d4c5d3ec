# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From settings to parts: what the models' `build.py` have in common."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from nemo.core.classes import ModelPT
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_sortformer import nemo_bridge
from nemo_sortformer.config import ConfigError, DiarizerLossConfig, from_cfg
from nemo_sortformer.losses import SortedLabelLoss

ConfigT = TypeVar("ConfigT")

DATASET_NAMES = ("train_ds", "validation_ds", "test_ds")
NEMO_DATASET_KEYS = ("defer_setup", "name", "val_dl_idx", "test_dl_idx")
NEMO_MODEL_KEYS = nemo_bridge.NEMO_ONLY


def typed_config(cls: type[ConfigT], cfg: DictConfig) -> ConfigT:
    """Check the settings under `model:` against a dataclass of :mod:`nemo_sortformer.config`.

    Raises:
        ConfigError: a key is unknown, missing or out of its range.
    """
    plain = {k: v for k, v in OmegaConf.to_container(cfg, resolve=True).items() if k not in NEMO_MODEL_KEYS}
    for name in DATASET_NAMES:
        if isinstance(plain.get(name), dict):
            plain[name] = without_nemo_keys(plain[name])
    return from_cfg(cls, plain, path="model")


def without_nemo_keys(cfg: Any) -> dict[str, Any]:
    """The settings of one data source as a plain dict, without the keys that NeMo reads by itself."""
    plain = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else dict(cfg or {})
    return {k: v for k, v in plain.items() if k not in NEMO_DATASET_KEYS}  # type: ignore[union-attr]


def instantiate(cfg: Mapping[str, Any]) -> Any:
    """Build the part that `_target_` names."""
    return ModelPT.from_config_dict(OmegaConf.create(dict(cfg)))


def with_agreed(
    cfg: Mapping[str, Any], name: str, values: Mapping[str, int], *, only_if_given: bool = False
) -> dict[str, Any]:
    """Fill in `values`, and stop where the settings say something else."""
    for key, value in values.items():
        if cfg.get(key) is not None and cfg[key] != value:
            raise ConfigError(
                f"`model.{name}.{key}` must be {value}, as the other parts of the model have it, but is {cfg[key]}. "
                f"It can be left out."
            )
    return dict(cfg) if only_if_given else dict(cfg) | dict(values)


def build_loss(config: DiarizerLossConfig) -> SortedLabelLoss:
    """The loss on the labels, with the weights of the settings."""
    return SortedLabelLoss(
        sort_weight=config.sort_weight,
        pil_weight=config.pil_weight,
        tie_tolerance=config.tie_tolerance,
        pos_weight=config.pos_weight,
    )


def set_target(cfg: DictConfig, target: str) -> DictConfig:
    """A copy of `cfg` that names `target` as its model class."""
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        cfg.target = target
    return cfg


def set_aside_data(cfg: DictConfig) -> dict[str, Any]:
    """Take the data sources out of `cfg` and return them; NeMo prints each in a warning when it restores a model."""
    with open_dict(cfg):
        return {name: cfg.pop(name) for name in DATASET_NAMES if cfg.get(name) is not None}


def with_data(cfg: DictConfig, data: Mapping[str, Any]) -> DictConfig:
    """Put back what :func:`set_aside_data` took."""
    with open_dict(cfg):
        cfg.update(data)
    return cfg
