# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""How far a run is: what a checkpoint says of it, and what that means for another number of processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from nemo.utils import logging

_host_groups: dict[str, Any] = {}


def host_group(device: torch.device) -> Any:
    """The processes, talking through main memory; all must call this at the same point."""
    if dist.get_backend() == "gloo":
        return None
    key = str(device.type)
    if key not in _host_groups:
        _host_groups[key] = dist.new_group(backend="gloo")
    return _host_groups[key]


def correct_counts(checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint say which batches are done, where Lightning's counts are a step behind or ahead.

    The batch after which a checkpoint is made is done; Lightning would run it again. An epoch that ends early, as the
    last step has come, is not done; Lightning would leave out the rest of it in a longer run. Where an epoch is done,
    with all that follows it, none of the next one is; Lightning would leave it out.
    """
    fit_loop = (checkpoint.get("loops") or {}).get("fit_loop", {})
    batches, epochs = fit_loop.get("epoch_loop.batch_progress"), fit_loop.get("epoch_progress")
    if not batches or not epochs:
        return
    for part in ("total", "current"):
        batches[part]["completed"] = batches[part]["processed"]
        if not batches.get("is_last_batch", True) and epochs[part]["processed"] == epochs[part]["ready"]:
            for name in ("processed", "completed"):
                epochs[part][name] = epochs[part]["ready"] - 1
    if batches.get("is_last_batch") and epochs["current"]["completed"] == epochs["current"]["ready"]:
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False


def recount(current: Any, *, before: int, now: int) -> None:
    """Count the batches of the running epoch anew, where all processes together have other batches than before.

    What is kept is the number of items that all have seen. Where that is no whole number of batches, some come again.

    Args:
        current: Lightning's counts; changed.
        before: items in the batches of all processes, or, where these have no fixed number, processes.
        now: the same of this run.
    """
    if before == now:
        return
    if current.completed * before % now:
        logging.warning(
            f"The items seen in this epoch, {current.completed} times {before}, are no whole number of batches of "
            f"{now}: up to {now - 1} come twice."
        )
    for name in ("ready", "started", "processed", "completed"):
        setattr(current, name, getattr(current, name) * before // now)
