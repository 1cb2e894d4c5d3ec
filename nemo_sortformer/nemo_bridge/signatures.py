# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What a class takes, read from its source: importing NeMo to ask would take ten seconds."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Signature:
    """The arguments of a class, by name."""

    defaults: dict[str, Any]
    """Each argument with its default, None where it has none or where the default is no plain value."""
    takes_any: bool
    """Whether it takes further keyword arguments."""


@cache
def signature_of(target: str) -> Signature | None:
    """Look up what the class of a ``_target_`` takes, without importing it.

    Args:
        target: dotted path of a class, as in a YAML; names that a package passes on from its modules are followed.

    Returns:
        None where no installed module has such a class, or it gets its arguments from a base class elsewhere.

    Example:
        >>> signature_of("nemo_sortformer.modules.PermutationEncoding").takes_any
        False
    """
    found = _find_class(target, follow=4)
    if found is None:
        return None
    tree, node = found
    for _ in range(4):  # a class without __init__ has that of its base
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                return _read_arguments(part.args)
        names = [base.id for base in node.bases if isinstance(base, ast.Name)]
        bases = [part for part in tree.body if isinstance(part, ast.ClassDef) and part.name in names]
        if not bases:
            return None
        node = bases[0]
    return None


def class_exists(target: str) -> bool:
    """Whether an installed module defines or passes on this class, read from the source alone."""
    return _find_class(target, follow=4) is not None


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _find_class(target: str, *, follow: int) -> tuple[ast.Module, ast.ClassDef] | None:
    module, _, name = target.rpartition(".")
    path = _module_file(module)
    if path is None:
        return None
    tree = _parse(path)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return tree, node
    for node in ast.walk(tree):
        if follow and isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find_class(f"{node.module}.{alias.name}", follow=follow - 1)
    return None


def _module_file(module: str) -> Path | None:
    """Find the source of a module; only its top-level package is asked for, as others would be imported on the way."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        place = Path(folder, *rest)
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def _read_arguments(arguments: ast.arguments) -> Signature:
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)][1:]  # without self
    defaults = dict.fromkeys(positional)
    for name, value in zip(reversed(positional), reversed(arguments.defaults)):
        defaults[name] = _plain(value)
    for argument, value in zip(arguments.kwonlyargs, arguments.kw_defaults):
        defaults[argument.arg] = None if value is None else _plain(value)
    return Signature(defaults=defaults, takes_any=arguments.kwarg is not None)


def _plain(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
