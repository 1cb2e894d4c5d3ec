# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Files that are there whole or not at all, whenever a process is killed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

PARTIAL = ".partial-"
"""In the name of what is still being written."""


def write_aside(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` make a file beside `path`, and bring it to the disk; :func:`commit` then gives it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}{PARTIAL}{uuid.uuid4().hex[:8]}")
    try:
        write(aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return aside


def commit(aside: Path, path: Path, *, instead_of: Path | None = None) -> None:
    """Rename `aside` to `path`, in place of what is there.

    Args:
        aside: a whole file, in the same folder.
        path: its name to be.
        instead_of: an older file that `path` succeeds. It takes the new content first and then the new name, so that
            at each moment exactly one of the two names is there, whole.
    """
    if instead_of is not None and instead_of != path and instead_of.exists():
        os.replace(aside, instead_of)
        os.replace(instead_of, path)
    else:
        os.replace(aside, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring new names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what a killed process left half-written in `folder`; returns what that was."""
    found = list(folder.glob(f"*{PARTIAL}*")) if folder.is_dir() else []
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found
