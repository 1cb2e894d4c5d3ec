# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""NeMo's list of packages whose classes it builds, and its note that a restore is under way."""

from __future__ import annotations

PREFIX = "nemo_sortformer."


def register() -> bool:
    """Let NeMo build the classes of this package: from ``_target_`` in its YAMLs, and from .nemo files.

    NeMo 3.0 refuses classes outside an allow-list of prefixes. Exactly ``nemo_sortformer.`` is added, once. What a
    listed prefix names must still be a module, model, loss or data set: NeMo goes on to refuse functions and others.

    Returns:
        Whether NeMo has such a list; a version without one needs no entry.
    """
    from nemo.core.classes import common

    allowed = getattr(common, "ALLOWED_TARGET_PREFIXES", None)
    if not isinstance(allowed, list):
        return False
    if PREFIX not in allowed:
        allowed.append(PREFIX)
    return True


def reset_restore_state() -> None:
    """Tell NeMo that no restore is under way. NeMo forgets to when one fails, and then sets up no data any more."""
    from nemo.core.classes import ModelPT

    if hasattr(ModelPT, "_set_model_restore_state"):
        ModelPT._set_model_restore_state(is_being_restored=False)
