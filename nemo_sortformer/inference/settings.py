# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The settings of one run: what the model carries, changed by what the caller gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nemo_sortformer.config.inference import InferenceConfig, PostProcessingConfig
from nemo_sortformer.config.merge import ConfigError, from_cfg, to_plain


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
    if override is None:
        return from_cfg(InferenceConfig, values)
    given = nemo_parameters(override) if is_nemo_config(override) else to_plain(override)
    if not isinstance(given, Mapping):
        raise ConfigError(f"`override_config` must be an `InferenceConfig` or a group of keys, but is {override!r}.")
    for key, value in given.items():
        group = isinstance(value, Mapping) and isinstance(values.get(key), dict)
        values[key] = {**values[key], **value} if group else value
    return from_cfg(InferenceConfig, values, path="override_config")


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
    parameters: dict[str, Any] = content["parameters"]
    from_cfg(PostProcessingConfig, parameters, path=f"{path}: parameters")
    return parameters


def is_nemo_config(override: Any) -> bool:
    """Whether this is NeMo's `DiarizeConfig`, which is told by its fields, so that NeMo need not be imported."""
    return hasattr(override, "postprocessing_params") and hasattr(override, "include_tensor_outputs")


def nemo_parameters(override: Any) -> dict[str, Any]:
    """The post-processing parameters of a `DiarizeConfig`; none where it leaves them to the YAML.

    Raises:
        ConfigError: `session_len_sec` is set: recordings are never cut short here.
    """
    if override.session_len_sec is not None and override.session_len_sec > 0:
        raise ConfigError(
            f"`session_len_sec` must be -1, but is {override.session_len_sec}: recordings are diarized whole. Give a "
            "manifest with `offset` and `duration` to diarize a part."
        )
    parameters = to_plain(override.postprocessing_params)
    return dict(parameters if isinstance(parameters, Mapping) else vars(parameters)) if parameters is not None else {}
