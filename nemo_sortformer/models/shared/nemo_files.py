# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A model and .nemo files: what may be restored as which class, and how weights of other models start a training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from nemo.core.classes import ModelPT
from nemo.utils import logging
from omegaconf import DictConfig

from nemo_sortformer import nemo_bridge
from nemo_sortformer.config import ConfigError


class NemoFiles:
    """The part of a model that reads files; a mixin in front of `ModelPT`."""

    model_kind = "model of this package"
    """What messages call the class."""
    readable_targets: tuple[str, ...] = ()
    """Names of NeMo's own classes whose settings this class understands."""
    hint_for_other_kinds = ""
    """The end of the message that a file holds another kind of model."""

    # In the next two methods `super` must not be written: Lightning walks the callers' frames for the arguments of
    # __init__, and takes any frame that knows `super` for one.

    @classmethod
    def from_config_dict(cls, config: DictConfig, trainer: Trainer | None = None) -> Any:
        """Build a part, or a whole model of this class from its own settings or those that it understands.

        Raises:
            ConfigError: the settings are those of another kind of model.
        """
        if not isinstance(config, DictConfig) or "_target_" in config or "target" not in config:
            return ModelPT.from_config_dict.__func__(cls, config, trainer)
        own_names = {f"{one.__module__}.{one.__qualname__}" for one in cls.__mro__ if issubclass(one, NemoFiles)}
        if config.target in own_names or config.target in cls.readable_targets:
            return cls(cfg=config, trainer=trainer)
        if str(config.target).startswith(nemo_bridge.PREFIX):
            return ModelPT.from_config_dict.__func__(cls, config, trainer)
        raise ConfigError(
            f"This is a model of the class `{config.target}`, which is no {cls.model_kind}. Restore it with that "
            f"class{cls.hint_for_other_kinds}."
        )

    @classmethod
    def restore_from(cls, restore_path: str, *args: Any, **kwargs: Any) -> Any:
        """Restore from a .nemo file of this class or of one that it understands; arguments as in NeMo.

        Raises:
            NemoFileError: the file is missing or is no .nemo file.
            ConfigError: it holds another kind of model.
        """
        restore_path = os.path.expanduser(str(restore_path))
        connector = kwargs.get("save_restore_connector")
        if connector is None or connector.model_extracted_dir is None:
            nemo_bridge.read_nemo_config(restore_path)
        try:
            return ModelPT.restore_from.__func__(cls, restore_path, *args, **kwargs)
        finally:
            nemo_bridge.reset_restore_state()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Set the weights; arguments as in PyTorch.

        Raises:
            WeightsError: with `strict`, a weight has no place here or one is missing. Weights of NeMo's diarizers that
                take part in training only are named in a warning instead.
        """
        keys = super().load_state_dict(state_dict, strict=False, assign=assign)  # type: ignore[misc]
        if strict:
            nemo_bridge.check_names(missing=keys.missing_keys, unexpected=keys.unexpected_keys)
        return keys

    def maybe_init_from_pretrained_checkpoint(self, cfg: DictConfig, map_location: str = "cpu") -> None:
        """Start from other models' weights, by NeMo's keys `init_from_{nemo_model,pretrained_model,ptl_ckpt}`.

        As in NeMo each is a path (or name), or a group of groups with `path` (or `name`), `include`, `exclude`. Unlike
        in NeMo the source model is not built, names are compared by whole prefixes, keys that are null count as
        absent, and it is an error where nothing fits. A diarizer takes the `encoder` of a bare path of another kind.

        Raises:
            NemoFileError: nothing fits, or the shapes differ.
        """
        kinds = ("init_from_nemo_model", "init_from_pretrained_model", "init_from_ptl_ckpt")
        given = [kind for kind in kinds if cfg.get(kind) is not None]
        if len(given) > 1:
            raise ConfigError(f"Only one of `{'` and `'.join(given)}` can be given.")
        for kind in given:
            sources = cfg[kind].values() if isinstance(cfg[kind], Mapping) else [{"path": cfg[kind]}]
            for source in sources:
                path = source.get("path") or source.get("name")
                if not path:
                    raise ConfigError(f"Each group in `{kind}` must have a `path`, but this one is {dict(source)}.")
                self._init_from(path, kind, source)

    def _init_from(self, path: str, kind: str, source: Mapping[str, Any]) -> None:
        name = path
        if kind == "init_from_pretrained_model":
            path = str(type(self).from_pretrained(name, return_model_file=True))
        include, exclude = source.get("include") or [""], source.get("exclude") or []
        one_part = "include" not in source or ([name.rstrip(".") for name in include] == ["encoder"] and not exclude)
        if (
            kind != "init_from_ptl_ckpt"
            and one_part
            and self._starts_in_part(str(nemo_bridge.read_nemo_config(path).get("target", "")), path)
        ):
            return
        weights = nemo_bridge.read_nemo_weights(path)
        logging.info(str(nemo_bridge.load_weights(self, weights, path=name, include=include, exclude=exclude)))

    def _starts_in_part(self, target: str, path: str) -> bool:
        """Start a part of the model from a file of the class `target`; false leaves all weights to be compared."""
        return False
