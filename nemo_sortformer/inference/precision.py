# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""A model made ready to run: on its lean ways, and where it is wanted with its products in bfloat16 or in 8 bits."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal, get_args

import torch

from nemo_sortformer.config.merge import ConfigError

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

Precision = Literal["float32", "bfloat16", "float16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def check_precision(precision: str | None) -> None:
    """Stop at a name that is none.

    Raises:
        ConfigError: it is not one of `PRECISIONS`, and not None.
    """
    if precision is not None and precision not in PRECISIONS:
        raise ConfigError(f"`precision` must be one of {', '.join(PRECISIONS)}, but is `{precision}`.")


def make_lean(model: SortformerDiarizer) -> None:
    """Let a model take the ways for inference: same parameters, same numbers, less time and memory."""
    from nemo_sortformer.modules.lean_conformer import use_lean_inference  # here, as it imports NeMo, which is slow
    from nemo_sortformer.modules.lean_products import use_lean_products

    use_lean_inference(model.encoder)
    use_lean_products(model)


def in_precision(model: SortformerDiarizer, precision: str | None) -> SortformerDiarizer:
    """The model to run, on its lean ways.

    Args:
        model: stays as it is, but for the ways that its modules take without gradients.
        precision: `float32`, `bfloat16`, `float16`, or `int8` for the products of the layers with 8-bit weights and
            inputs, and float32 for all else; None for that of the model.

    Returns:
        The model itself where it has that precision, else a copy whose weights are no longer those of the model. The
        state of a stream goes from one to the other.

    Raises:
        ConfigError: there is no such precision, or the model's device cannot have it.
    """
    check_precision(precision)
    make_lean(model)
    if precision is None:
        return model
    dtype = torch.float32 if precision == "int8" else getattr(torch, precision)
    has_int8 = is_int8(model)
    if precision == "int8" and model.device.type != "cpu":
        raise ConfigError(f"`precision` int8 runs on a CPU, but the model is on `{model.device}`. Take bfloat16.")
    if has_int8 and precision != "int8":
        raise ConfigError(f"The model has 8-bit weights already; {precision} needs the model that it was made from.")
    if model.dtype == dtype and has_int8 == (precision == "int8"):
        return model
    found = own_copy(model).to(dtype)
    if precision == "int8":
        from nemo_sortformer.inference.model_identity import identify
        from nemo_sortformer.modules.int8_products import use_int8_products

        found.known_as = identify(model)
        for part in (found.encoder, found.transformer_encoder):
            use_int8_products(part)
    return found


def is_int8(model: SortformerDiarizer) -> bool:
    """Whether a model has 8-bit weights."""
    return getattr(model, "known_as", None) is not None


def own_copy(model: SortformerDiarizer) -> SortformerDiarizer:
    """A copy with modules of its own; what else the model refers to, as its settings and trainer, is shared."""
    found = copy.copy(model)
    found.__dict__["_modules"] = {name: copy.deepcopy(part) for name, part in model._modules.items()}
    return found
