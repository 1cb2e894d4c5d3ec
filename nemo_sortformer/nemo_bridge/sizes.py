# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Whether the weights of a NeMo diarizer's file are those that its settings promise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nemo_sortformer.nemo_bridge.compat import Finding
from nemo_sortformer.nemo_bridge.contents import TensorInfo
from nemo_sortformer.nemo_bridge.names import TRAINING_ONLY, listed, prefix_test

_HEAD_WEIGHTS = ("hidden_to_spks", "first_hidden_to_hidden", "single_hidden_to_spks", "encoder_proj")
_PARTS = ("preprocessor", "encoder", "sortformer_modules", "transformer_encoder")
_SAVED_OTHERWISE = "Save it again with the settings that it was trained with, or give those as `override_config_path`."


def weight_findings(cfg: Mapping[str, Any], weights: Mapping[str, TensorInfo]) -> list[Finding]:
    """Compare names and shapes with the settings, as far as that goes without building the model."""
    return [*_strangers(weights), *_layers(cfg, weights), *_shapes(cfg, weights)]


def _strangers(weights: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    for_training = [name for name in weights if prefix_test(TRAINING_ONLY)(name)]
    if for_training:
        yield Finding("model_weights.ckpt", f"{listed(for_training, most=2)} take part in training only; left out.")
    known = prefix_test([*(part for part in _PARTS if part != "sortformer_modules"), *_head_names(), *TRAINING_ONLY])
    strangers = [name for name in weights if not known(name)]
    if strangers:
        text = f"{len(strangers)} weights have no place in a diarizer here: {listed(strangers, most=4)}."
        yield Finding("model_weights.ckpt", text, "Use the file with the NeMo that wrote it.")
    for part in _PARTS[1:]:
        if not any(name.startswith(f"{part}.") for name in weights):
            yield Finding("model_weights.ckpt", f"there are no weights of `{part}`.", _SAVED_OTHERWISE)


def _head_names() -> list[str]:
    return [f"sortformer_modules.{name}" for name in _HEAD_WEIGHTS]


def _layers(cfg: Mapping[str, Any], weights: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    for part, key in (("encoder", "n_layers"), ("transformer_encoder", "num_layers")):
        said = (cfg.get(part) or {}).get(key)
        pattern = re.compile(rf"{part}\.layers\.(\d+)\.")
        found = len({match[1] for name in weights if (match := pattern.match(name))})
        if isinstance(said, int) and found and said != found:
            yield Finding(f"{part}.{key}", f"it is {said}, but the weights have {found} layers.", _SAVED_OTHERWISE)


def _shapes(cfg: Mapping[str, Any], weights: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    slots, width = cfg.get("max_num_of_spks"), (cfg.get("transformer_encoder") or {}).get("hidden_size")
    mels = (cfg.get("preprocessor") or {}).get("features")
    expected = (
        ("max_num_of_spks", "sortformer_modules.single_hidden_to_spks.weight", (slots, width)),
        ("sortformer_modules.tf_d_model", "sortformer_modules.first_hidden_to_hidden.weight", (width, width)),
        ("preprocessor.features", "preprocessor.featurizer.fb", (1, mels, None)),
    )
    for key, name, shape in expected:
        if name in weights and len(weights[name].shape) == len(shape):
            pairs = zip(shape, weights[name].shape)
            if any(isinstance(said, int) and said != found for said, found in pairs):
                text = f"with it `{name}` would have the shape {shape}, but has {weights[name].shape}."
                yield Finding(key, text, _SAVED_OTHERWISE)
