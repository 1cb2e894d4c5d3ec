# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The checkpoint that ships with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from nemo_sortformer.models.diarizer.model import SortformerDiarizer


def shipped_checkpoint() -> Path:
    """Where the shipped checkpoint lies.

    Raises:
        FileNotFoundError: the installation has none.
    """
    folder = Path(str(files("nemo_sortformer"))) / "checkpoints"
    found = sorted(folder.glob("*.nemo"))
    if not found:
        raise FileNotFoundError(
            f"This installation has no shipped checkpoint (`*.nemo` in `{folder}`). Name a .nemo file yourself."
        )
    return found[0]


def load_shipped(**options: Any) -> SortformerDiarizer:
    """Load the diarizer that ships with the package, ready for inference; `options` are those of `restore_from`."""
    return SortformerDiarizer.restore_from(str(shipped_checkpoint()), **options).eval()
