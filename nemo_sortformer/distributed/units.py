# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Which modules of a model are divided, gathered and recomputed as one: layers, their encoders, and parts of heads."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_ENTRIES = ("forward_with_labels",)
"""Methods beside `forward` through which an encoder is called from outside."""


def encoders(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of each stack of layers: a module with parameters in an `nn.ModuleList` called `layers`."""
    for name, child in model.named_children():
        layers = getattr(child, "layers", None)
        if isinstance(layers, nn.ModuleList) and has_parameters(layers):
            yield name, child
        else:
            for inner, module in encoders(child):
                yield f"{name}.{inner}", module


def layers(encoder: nn.Module) -> list[nn.Module]:
    """The layers of one stack, those with parameters."""
    return [layer for layer in encoder.layers if has_parameters(layer)]  # type: ignore[union-attr]


def entries(encoder: nn.Module) -> list[str]:
    """Names of the methods, beside `forward`, by which the model runs an encoder."""
    return [name for name in _ENTRIES if hasattr(encoder, name)]


def head_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of the smallest modules outside the encoders that have parameters of their own.

    A head may be called by other methods than `forward`, its smallest parts hardly.
    """
    taken = {id(encoder) for _, encoder in encoders(model)}

    def visit(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in module.named_children():
            if id(child) in taken or not has_parameters(child):
                continue
            if next(child.parameters(recurse=False), None) is not None:
                yield prefix + name, child
            else:
                yield from visit(child, f"{prefix}{name}.")

    return visit(model, "")


def has_parameters(module: nn.Module) -> bool:
    """Whether a module has any parameter, of its own or further in."""
    return next(module.parameters(), None) is not None
