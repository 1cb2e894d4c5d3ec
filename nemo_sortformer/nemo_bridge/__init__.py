# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The one place that touches NeMo's private parts: its allow-list of classes, and .nemo files without their model.

The names below load on first use: looking into a file, or letting NeMo build our classes, imports no torch by itself.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "allow_list": ("PREFIX", "register", "reset_restore_state"),
    "archive": ("NemoFileError", "read_nemo_config", "read_nemo_weights"),
    "compat": ("NEMO_DIARIZER", "NEMO_ONLY", "PARTS", "Finding", "diarizer_findings", "ignored_data_keys"),
    "contents": ("read_contents",),
    "describe": ("Checkpoint", "describe"),
    "encoder": ("load_encoder",),
    "signatures": ("signature_of",),
    "weights": ("LoadReport", "WeightsError", "check_names", "load_weights"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "NEMO_DIARIZER",
    "NEMO_ONLY",
    "PARTS",
    "PREFIX",
    "Checkpoint",
    "Finding",
    "LoadReport",
    "NemoFileError",
    "WeightsError",
    "check_names",
    "describe",
    "diarizer_findings",
    "ignored_data_keys",
    "load_encoder",
    "load_weights",
    "read_contents",
    "read_nemo_config",
    "read_nemo_weights",
    "register",
    "reset_restore_state",
    "signature_of",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds a name, the first time the name is asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


if TYPE_CHECKING:
    from nemo_sortformer.nemo_bridge.allow_list import PREFIX, register, reset_restore_state
    from nemo_sortformer.nemo_bridge.archive import NemoFileError, read_nemo_config, read_nemo_weights
    from nemo_sortformer.nemo_bridge.compat import (
        NEMO_DIARIZER,
        NEMO_ONLY,
        PARTS,
        Finding,
        diarizer_findings,
        ignored_data_keys,
    )
    from nemo_sortformer.nemo_bridge.contents import read_contents
    from nemo_sortformer.nemo_bridge.describe import Checkpoint, describe
    from nemo_sortformer.nemo_bridge.encoder import load_encoder
    from nemo_sortformer.nemo_bridge.signatures import signature_of
    from nemo_sortformer.nemo_bridge.weights import LoadReport, WeightsError, check_names, load_weights
