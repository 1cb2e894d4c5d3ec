# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The settings of one run: what the model carries, changed by what the caller gives."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from nemo_sortformer.config.inference import InferenceConfig, PostProcessingConfig
from nemo_sortformer.config.merge import ConfigError, from_cfg


def inference_settings(
    base: InferenceConfig, *, override: Any = None, postprocessing_yaml: str | Path | None = None
) -> InferenceConfig:
    """Merge the settings; the later of these wins: the model's own, `postprocessing_yaml`, `override`.

    Args:
        base: what the model carries.
        override: an `InferenceConfig`, which replaces everything, or a group of single keys.
        postprocessing_yaml: a file in NeMo's form, with NeMo's keys under `parameters:`.

    Raises:
        ConfigError: the file is missing or has no `parameters`, or a key is unknown (with the nearest known one).
    """
    if isinstance(override, InferenceConfig):
        return override
    values = asdict(base)
    if postprocessing_yaml is not None:
        values.update(read_postprocessing(postprocessing_yaml))
    if override is not None:
        given = _nemo_parameters(override)
        values.update(_checked(given, InferenceConfig, "override_config"))
    return from_cfg(InferenceConfig, values)


def read_postprocessing(path: str | Path) -> dict[str, Any]:
    """The keys that a post-processing YAML sets, checked; those that it leaves out are not in the result.

    Raises:
        ConfigError: the file is missing, is not YAML, has no group `parameters`, or a key or value is wrong.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"`postprocessing_yaml` must be a file, but `{path}` is none.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise ConfigError(f"{path}: must have the group `parameters:`, with keys as `onset` and `pad_onset` in it.")
    return _checked(content["parameters"], PostProcessingConfig, f"{path}: parameters")


def _checked(given: Any, cls: type, where: str) -> dict[str, Any]:
    checked = from_cfg(cls, given, path=where)
    return {key: getattr(checked, key) for key in given}


def _nemo_parameters(override: Any) -> Any:
    """NeMo's `DiarizeConfig` holds the parameters under `postprocessing_params`; anything else passes."""
    parameters = getattr(override, "postprocessing_params", None)
    if parameters is None or isinstance(override, dict):
        return override
    from nemo_sortformer.config.merge import to_plain

    plain = to_plain(parameters)
    return plain if isinstance(plain, dict) else dict(vars(plain))
