# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Linear maps of layers in float8, by torchao: inputs, weights and gradients are rounded for the products alone.

Parameters stay what they are, under the same names. Each tensor is rounded with a factor of its own, a power of two
that follows from its largest value: so that a batch or a weight which is divided among processes is rounded as the
whole one is, but for the smallest values. Weights and inputs have three bits of mantissa (e4m3), gradients two (e5m2).

Source: Micikevicius et al. 2022 (arXiv:2209.05433) for the two formats.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from nemo.utils import logging
from torch import nn

from nemo_sortformer.config import ConfigError, ParallelConfig
from nemo_sortformer.distributed import units
from nemo_sortformer.distributed.accelerators import Policy, find_torchao, wanted
from nemo_sortformer.modules.affinity_feedback import AffinityFeedback
from nemo_sortformer.modules.label_feedback import LabelFeedback

STEP = 16
"""Sizes of float8 products on a GPU are multiples of this; frames are padded to it inside."""
_EXACT = (LabelFeedback, AffinityFeedback)
"""Parts of layers that decide who came first."""


def is_wanted(policy: Policy) -> bool:
    """Whether to compute in float8 on this machine.

    Raises:
        ConfigError: `on`, but torchao or a GPU with float8 is missing.
    """
    return wanted("torchao", policy, key="model.parallel.fp8")


def convert_layers(model: nn.Module, config: ParallelConfig, *, emulate: bool = False) -> list[str]:
    """Let the linear maps of the layers of all encoders and decoders compute in float8, in place, as settled.

    With `on` all whose sizes fit; with `auto`, where the GPU has float8, those large enough to gain by it. Heads,
    subsampling, convolutions and the label estimates inside layers stay. To be called before anything is divided.

    Args:
        model: whole, with all its parameters.
        config: `fp8` and `tensor_parallel_size` count here.
        emulate: round as a GPU would, and multiply in float32: slow, on any device, for tests.

    Returns:
        Names of the maps that compute in float8 now.

    Raises:
        ConfigError: `on`, but torchao or a GPU with float8 is missing, or the model has no map that fits.
    """
    if config.fp8 == "off":
        return []
    if not emulate and not is_wanted(cast(Policy, config.fp8)):
        logging.info(f"fp8: auto leaves float8 off, as torchao is not usable: {find_torchao().reason}.")
        return []
    candidates = _linear_maps(model)
    step = STEP * config.tensor_parallel_size
    fitting = {
        name: one for name, one in candidates.items() if not (one.in_features % step or one.out_features % step)
    }
    if config.fp8 == "on" and not fitting:
        raise ConfigError(
            f"`fp8: on` needs linear maps in layers whose sizes are multiples of {step}, {STEP} for each process that "
            f"shares them, but of {len(candidates)} there is none. Change the widths, or set `fp8` to `off`."
        )
    chosen = {name: one for name, one in fitting.items() if config.fp8 == "on" or gains(one)}
    if chosen:
        _convert(model, set(chosen), emulate=emulate)
    why = "as asked for" if config.fp8 == "on" else "those that are large enough to gain"
    logging.info(f"fp8: {len(chosen)} of {len(candidates)} linear maps in layers compute in float8, {why}.")
    return list(chosen)


def gains(linear: nn.Linear) -> bool:
    """Whether float8 makes a map faster: below these sizes rounding takes longer than the products save.

    Source: the measurements on H100 in torchao's documentation of float8 training with one factor per tensor.
    """
    return linear.out_features > 1024 or linear.in_features > 4096


def _linear_maps(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear maps of layers by name, without those of the label estimates."""
    exact = {id(part) for module in model.modules() if isinstance(module, _EXACT) for part in module.modules()}
    in_layers = {
        id(part) for _, stack in units.encoders(model) for layer in units.layers(stack) for part in layer.modules()
    }
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and id(module) in in_layers - exact
    }


def _convert(model: nn.Module, names: set[str], *, emulate: bool) -> None:
    float8 = import_module("torchao.float8")
    settings = float8.Float8LinearConfig(round_scales_to_power_of_2=True, pad_inner_dim=True, emulate=emulate)
    float8.convert_to_float8_training(model, module_filter_fn=lambda _, name: name in names, config=settings)
