# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""From settings to the parts of the labeler."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo.utils import model_utils
from omegaconf import DictConfig
from torch import nn

from nemo_sortformer import nemo_bridge
from nemo_sortformer.config import AffinityConfig, ConfigError, from_cfg
from nemo_sortformer.config.labeler import EmbeddingDatasetConfig, LabelerConfig
from nemo_sortformer.losses import SortedLabelLoss
from nemo_sortformer.models.shared import settings
from nemo_sortformer.models.shared.settings import build_loss, instantiate, with_agreed, without_nemo_keys
from nemo_sortformer.modules import AffinityHead, LabelHeads

_LABEL_HEAD = "nemo_sortformer.modules.LabelHead"


def typed_config(cfg: DictConfig) -> LabelerConfig:
    """Check the settings under `model:` against :class:`LabelerConfig`.

    Raises:
        ConfigError: a key is unknown, missing or out of its range.
    """
    config = settings.typed_config(LabelerConfig, cfg)
    _ = config.kinds  # checks them
    return config


def dataset_config(cfg: Any, *, name: str) -> EmbeddingDatasetConfig:
    """Check the settings of one data source, e.g. those under `train_ds`."""
    return from_cfg(EmbeddingDatasetConfig, without_nemo_keys(cfg), path=f"model.{name}")


@dataclass(frozen=True)
class Parts:
    """The modules of the model."""

    input_projection: nn.Module
    state_encoder: nn.Module
    label_head: nn.Module
    affinity_head: AffinityHead | None
    loss: SortedLabelLoss


def build_parts(config: LabelerConfig) -> Parts:
    """Build all modules; widths and slots that the settings leave out follow from those that they give.

    Raises:
        ConfigError: two parts disagree about a width or the number of slots.
    """
    nemo_bridge.register()
    kinds = config.kinds
    encoder_cfg = dict(config.encoder)
    if "num_labels" in _arguments(encoder_cfg["_target_"]):
        encoder_cfg.setdefault("num_labels", next(iter(kinds.values())).num_classes)
    encoder = instantiate(encoder_cfg)
    width = int(encoder.hidden_size)
    heads = {
        name: _build_head(
            kind.head or config.head, f"heads.{name}.head" if kind.head else "head", width, kind.num_classes
        )
        for name, kind in kinds.items()
    }
    return Parts(
        input_projection=nn.Identity() if config.input_dim == width else nn.Linear(config.input_dim, width),
        state_encoder=encoder,
        label_head=LabelHeads(heads) if config.heads else heads[""],
        affinity_head=_build_affinity(config.affinity, width, getattr(encoder, "affinity_layers", 0)),
        loss=build_loss(config.loss),
    )


def _build_head(cfg: Mapping[str, Any], name: str, width: int, num_classes: int) -> nn.Module:
    agreed = with_agreed(cfg, name, {"hidden_size": width, "num_classes": num_classes})
    return instantiate({"_target_": _LABEL_HEAD} | agreed)


def _build_affinity(config: AffinityConfig | None, width: int, affinity_layers: int) -> AffinityHead | None:
    if config is None:
        if affinity_layers:
            raise ConfigError(
                f"`model.encoder.affinity_layers` is {affinity_layers}, but `model.affinity`, which makes the "
                "embeddings that these layers read, is null. Set it, e.g. `model.affinity.weight=1.0`, or set it to 0."
            )
        return None
    head = AffinityHead(width, config.dim)
    head.requires_grad_(config.weight > 0 or affinity_layers > 0)  # else DDP waits for a gradient that never comes
    return head


def _arguments(target: str) -> Mapping[str, inspect.Parameter]:
    """The arguments of the class that `_target_` names.

    Raises:
        ConfigError: there is no such class.
    """
    try:
        found = model_utils.import_class_by_path(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"`model.encoder._target_` must be a class, but `{target}` is none: {error}") from error
    return inspect.signature(found).parameters
