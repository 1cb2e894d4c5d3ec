# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Keeps a package that only shares its name with NVIDIA's `apex` from breaking the import of NeMo.

NVIDIA's apex is built from source. The `apex` of the package index is a web toolkit, whose import fails in a way that
NeMo's guards do not catch. This module needs the standard library alone, as it runs before anything else is imported.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

_PARTS = (
    "apex.contrib",
    "apex.contrib.layer_norm.layer_norm",
    "apex.contrib.nccl_allocator",
    "apex.contrib.optimizers.distributed_fused_adam",
    "apex.multi_tensor_apply",
    "apex.normalization",
    "apex.normalization.fused_layer_norm",
    "apex.optimizers",
    "apex.transformer",
    "apex.transformer.enums",
    "apex.transformer.functional.fused_softmax",
)
"""Parts of NVIDIA's apex that NeMo and its neighbours ask for."""


def folder_of(package: str) -> Path | None:
    """Where a top-level package lies, without importing it; None where it is absent or a single file."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # ValueError: hidden by a None in sys.modules
        return None
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(places[0]) if places else None


def is_nvidia_apex(folder: Path) -> bool:
    """Whether a folder called `apex` holds NVIDIA's package."""
    return (folder / "multi_tensor_apply").is_dir() and (folder / "optimizers").is_dir()


def hide_foreign_apex() -> bool:
    """Make imports of NVIDIA's parts of `apex` fail as if nothing were installed, where another package has the name.

    That package itself can still be imported by those whose it is. NeMo must not have been imported before.

    Returns:
        Whether there is such a package.
    """
    folder = folder_of("apex")
    if folder is None or is_nvidia_apex(folder):
        return False
    for part in _PARTS:
        sys.modules.setdefault(part, None)  # type: ignore[arg-type]  # Python's own mark for "not to be found"
    return True
