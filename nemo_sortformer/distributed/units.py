# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Which modules of a model are divided, gathered and recomputed as one: layers, their encoders, and parts of heads."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_ENTRIES = ("forward_with_labels",)
"""Methods beside `forward` through which an encoder is called from outside."""
_WRITES = "generate"
"""The method of a head that writes token by token."""


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


def entries(module: nn.Module) -> list[str]:
    """Names of the methods, beside `forward`, by which the model runs an encoder or a writer."""
    return [name for name in (*_ENTRIES, _WRITES) if hasattr(module, name)]


def writers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of the heads that write token by token, each to be gathered as one, with all its layers.

    They run their parts as often as their own recordings have tokens, which other processes could not keep up with.
    """
    for name, child in model.named_children():
        if callable(getattr(child, _WRITES, None)) and has_parameters(child):
            yield name, child
        else:
            for inner, module in writers(child):
                yield f"{name}.{inner}", module


def stacks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The :func:`encoders` whose layers are gathered one by one: those outside the :func:`writers`."""
    inside = {id(part) for _, head in writers(model) for part in head.modules()}
    return ((name, encoder) for name, encoder in encoders(model) if id(encoder) not in inside)


def head_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of the smallest modules outside :func:`stacks` that have parameters of their own.

    A head may be called by other methods than `forward`, its smallest parts hardly. Each writer is one.
    """
    taken = {id(encoder) for _, encoder in stacks(model)}
    whole = {id(head) for _, head in writers(model)}

    def visit(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in module.named_children():
            if id(child) in taken or not has_parameters(child):
                continue
            if id(child) in whole or next(child.parameters(recurse=False), None) is not None:
                yield prefix + name, child
            else:
                yield from visit(child, f"{prefix}{name}.")

    return visit(model, "")


def has_parameters(module: nn.Module) -> bool:
    """Whether a module has any parameter, of its own or further in."""
    return next(module.parameters(), None) is not None
