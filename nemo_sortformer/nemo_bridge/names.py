# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Names of weights: tests by whole prefixes, and lists of them in messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

TRAINING_ONLY = ("sortformer_modules.activity_head", "activity_loss", "phantom_loss")
"""Parts of newer diarizers that take part in training alone: without them the probabilities are the same."""


def listed(names: Iterable[str], *, most: int = 8) -> str:
    """Names in backticks, with dots in place of those beyond `most`."""
    names = list(names)
    return ", ".join(f"`{name}`" for name in names[:most]) + (", ..." if len(names) > most else "")


def prefix_test(include: Sequence[str], exclude: Sequence[str] = ()) -> Callable[[str], bool]:
    """A test of names: under one of `include`, each a whole path, and under none of `exclude`."""

    def starts(name: str, prefix: str) -> bool:
        return not prefix or name == prefix or name.startswith(prefix.rstrip(".") + ".")

    return lambda name: any(starts(name, p) for p in include) and not any(starts(name, p) for p in exclude)
