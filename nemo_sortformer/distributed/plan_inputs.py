# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What a plan starts from: a training configuration, and its model built without memory for its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.overrides import TorchFunctionMode

import nemo_sortformer
from nemo_sortformer.config import ConfigError

_PACKAGE = Path(nemo_sortformer.__file__).parent
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
"""Where our configurations are: in an installed package, in a checkout."""


@dataclass(frozen=True)
class PlanInputs:
    """A model on the meta device, and what its training reads."""

    model: nn.Module
    num_frames: int
    """Of one recording, behind the subsampling."""
    seconds: float
    """Of one recording."""
    batch_size: int
    optimizer: Mapping[str, Any] | None


class _WithoutNumbers(TorchFunctionMode):
    """Parameters, which torch's layers make of `torch.empty`, get no memory; what NeMo computes with keeps its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def read_plan_inputs(config: str, *, seconds: float | None = None, batch_size: int | None = None) -> PlanInputs:
    """Read a configuration and build its model on the meta device, where tensors have shapes only.

    Args:
        config: path of a YAML file, or the name of one of ours.
        seconds: length of a recording; None: `train_ds.session_len_sec`.
        batch_size: recordings per process; None: `train_ds.batch_size`.

    Raises:
        ConfigError: no such file, no model in it, or a length that nothing says.
    """
    cfg = OmegaConf.load(find_config(config))
    if not isinstance(cfg, DictConfig) or cfg.get("model") is None:
        raise ConfigError(f"`{config}` must have the group `model`, as the YAML of a training has.")
    try:
        model_cfg = OmegaConf.create(OmegaConf.to_container(cfg.model, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"`model` of `{config}` cannot be resolved: {error}") from error
    model = build_on_meta(model_cfg)
    data = model_cfg.get("train_ds") or {}
    seconds = data.get("session_len_sec") if seconds is None else seconds
    if seconds is None or not 0 < seconds < math.inf:
        raise ConfigError(f"`--seconds` must say how long a recording is, above 0, but is {seconds}.")
    frame_seconds = getattr(model, "frame_seconds", None) or 0.08
    return PlanInputs(
        model=model,
        num_frames=max(1, math.ceil(seconds / frame_seconds)),
        seconds=float(seconds),
        batch_size=int(data.get("batch_size") or 1) if batch_size is None else batch_size,
        optimizer=model_cfg.get("optim"),
    )


def find_config(config: str) -> Path:
    """The file that a path or a name of one of our configurations means.

    Raises:
        ConfigError: there is none; the message lists ours.
    """
    path = Path(config)
    if path.is_file():
        return path
    for folder in _FOLDERS:
        if (folder / f"{path.stem}.yaml").is_file() and path.suffix in ("", ".yaml"):
            return folder / f"{path.stem}.yaml"
    ours = sorted({found.stem for folder in _FOLDERS if folder.is_dir() for found in folder.glob("*.yaml")})
    raise ConfigError(f"`--config` must be a YAML file or one of {', '.join(ours)}, but is {config!r}.")


def build_on_meta(cfg: DictConfig) -> nn.Module:
    """Build the model of a configuration; its data are left out.

    Raises:
        ConfigError: the settings are of no model that this knows.
    """
    for name in ("train_ds", "validation_ds", "test_ds", "optim"):
        cfg = OmegaConf.masked_copy(cfg, [key for key in cfg if key != name])
    with _WithoutNumbers():
        if "transformer_encoder" in cfg:
            from nemo_sortformer.models.diarizer import SortformerDiarizer

            return SortformerDiarizer(cfg=cfg).to("meta")
        if "input_dim" in cfg:
            from nemo_sortformer.models.labeler import SortformerLabeler

            return SortformerLabeler(cfg=cfg).to("meta")
    raise ConfigError(
        "`model` must be that of a diarizer, with `transformer_encoder`, or of a labeler, with `input_dim`, but has "
        f"{', '.join(sorted(str(key) for key in cfg))}."
    )
