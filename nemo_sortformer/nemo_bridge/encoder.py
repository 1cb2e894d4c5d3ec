# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The acoustic encoder of any NeMo model as the start of ours, without building that model."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nemo_sortformer.config.merge import to_plain
from nemo_sortformer.nemo_bridge.archive import NemoFileError, read_nemo_config, read_nemo_weights
from nemo_sortformer.nemo_bridge.names import listed
from nemo_sortformer.nemo_bridge.signatures import signature_of
from nemo_sortformer.nemo_bridge.weights import LoadReport, WeightsError, load_weights

SAME_MELS = (
    "sample_rate",
    "features",
    "normalize",
    "window_size",
    "window_stride",
    "window",
    "n_fft",
    "preemph",
    "lowfreq",
    "highfreq",
    "log",
    "log_zero_guard_type",
    "log_zero_guard_value",
    "frame_splicing",
    "mag_power",
    "mel_norm",
)
"""Other mels would silently give other numbers; `dither` and the rounding of lengths do not."""
SAME_ENCODER = (
    "feat_in",
    "n_layers",
    "d_model",
    "n_heads",
    "subsampling",
    "subsampling_factor",
    "subsampling_conv_channels",
    "causal_downsampling",
    "reduction",
    "reduction_position",
    "reduction_factor",
    "ff_expansion_factor",
    "self_attention_model",
    "xscaling",
    "untie_biases",
    "use_bias",
    "conv_kernel_size",
    "conv_norm_type",
    "conv_context_size",
)
"""What the weights were trained as. Several of these change no shape, so nothing else would notice."""
MAY_DIFFER = ("att_context_size", "att_context_style")
"""How far attention reaches: a trained encoder is often given another reach, so a difference is only noted."""
_UNLIMITED = (None, [-1, -1], [[-1, -1]])
_MASKING_WRAPPER = "pre_encode.pre_encode."
"""NeMo's self-supervised models that mask behind the subsampling wrap `pre_encode` in a module of that name."""


def load_encoder(model: nn.Module, cfg: Any, path: str | os.PathLike[str], *, prefix: str = "encoder") -> LoadReport:
    """Start the acoustic encoder of `model` from any NeMo .nemo file that has one, without building that file's model.

    Args:
        model: has the attribute `encoder`.
        cfg: the model's own configuration, with `preprocessor` and `encoder`.
        path: a .nemo file of a CTC, RNN-T, TDT, hybrid, AED, self-supervised, speaker or diarization model.
        prefix: name of the encoder there and here.

    Returns:
        What was loaded.

    Raises:
        NemoFileError: the mel front ends or the sizes differ, or the file has no such encoder, or only a part of it.
    """
    source = read_nemo_config(path)
    if source.get(prefix) is None:
        groups = sorted(str(key) for key in source if isinstance(source[key], Mapping))
        raise NemoFileError(f"`{path}` has no `{prefix}` to start from; it has {listed(groups)}.")
    differences = encoder_differences(source, cfg)
    if differences:
        raise NemoFileError(
            f"The encoder of `{path}` does not fit this model: {'; '.join(differences)}. "
            f"Give the model the values of the file."
        )
    weights = unwrapped(read_nemo_weights(path), prefix=prefix)
    report = load_weights(model, weights, path=str(path), include=[prefix])
    if report.missing:
        raise WeightsError(
            f"`{path}` lacks {len(report.missing)} weights of this encoder: {listed(report.missing, most=4)}. Half of "
            f"an encoder is no start. Give the model the sizes of the file."
        )
    return dataclasses.replace(report, notes=tuple(_reach(source, cfg)))


def encoder_differences(source: Mapping[str, Any], cfg: Mapping[str, Any]) -> list[str]:
    """List where the front end and the encoder of `source` are not those of `cfg`.

    A key that one of them leaves out counts with the default of its class, so leaving out is no way to differ.
    """
    differences = []
    for group, keys in (("preprocessor", SAME_MELS), ("encoder", SAME_ENCODER)):
        theirs, ours = source.get(group), cfg.get(group)
        if theirs is None or ours is None:
            continue
        their_class, our_class = (str(one.get("_target_", "")).rpartition(".")[2] for one in (theirs, ours))
        if their_class.removesuffix("Adapter") != our_class.removesuffix("Adapter"):
            differences.append(f"`{group}._target_` is {their_class!r} there and {our_class!r} here")
            continue
        for key in keys:
            there, here = _effective(theirs, key), _effective(ours, key)
            if there != here:
                differences.append(f"`{group}.{key}` is {there!r} there and {here!r} here")
    return differences


def unwrapped(weights: Mapping[str, Tensor], *, prefix: str) -> dict[str, Tensor]:
    """Undo the wrapping of `pre_encode` in self-supervised models; other weights keep their names."""
    wrapper = f"{prefix}.{_MASKING_WRAPPER}"
    if not any(name.startswith(wrapper) for name in weights):
        return dict(weights)
    inside = f"{prefix}.pre_encode."
    return {
        name.replace(wrapper, inside, 1): tensor
        for name, tensor in weights.items()
        if name.startswith(wrapper) or not name.startswith(inside)
    }


def _reach(source: Mapping[str, Any], cfg: Mapping[str, Any]) -> list[str]:
    notes = []
    for key in MAY_DIFFER:
        there, here = _effective(source["encoder"], key), _effective(cfg["encoder"], key)
        if there != here:
            notes.append(f"It was trained with `encoder.{key}` {there!r}, here it is {here!r}")
    return notes


def _effective(group: Mapping[str, Any], key: str) -> Any:
    """The value of a key, given or default, with spellings of one value made equal."""
    if key in group:
        value = to_plain(group[key])
    else:
        signature = signature_of(str(group.get("_target_", "")))
        value = signature.defaults.get(key) if signature is not None else None
    if key == "att_context_size" and value in _UNLIMITED:
        return [-1, -1]
    if key == "subsampling_conv_channels" and value in (None, -1):
        return group.get("d_model")
    if key == "normalize" and value in (None, False, "", "na"):
        return "NA"
    if key == "n_fft" and value is None:
        return 2 ** math.ceil(math.log2(_effective(group, "window_size") * _effective(group, "sample_rate")))
    if key == "conv_context_size" and value is None:
        return [(_effective(group, "conv_kernel_size") - 1) // 2] * 2
    return value
