# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The .nemo file of a divided model: the same bytes of weights as from one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from nemo.core.classes import ModelPT

from nemo_sortformer.distributed import atomic_files, tensors


def gather_on_save(model: ModelPT, before: Callable[[], None]) -> None:
    """Let `model.save_to` write the whole model although its parameters are divided.

    From now on all processes must call `save_to`; process 0 writes. Others are held until the file is there.

    Args:
        model: a divided model.
        before: called first, on all processes.
    """
    if "save_to" in model.__dict__:
        return
    plain = model.save_to

    def save_to(save_path: str) -> None:
        before()
        weights = tensors.gather(model.state_dict())
        path = Path(save_path).expanduser().resolve()
        if dist.get_rank() == 0:
            model.__dict__["state_dict"] = lambda *args, **kwargs: weights
            try:
                atomic_files.commit(atomic_files.write_aside(path, lambda file: plain(str(file))), path)
            finally:
                del model.__dict__["state_dict"]
        dist.barrier()

    model.__dict__["save_to"] = save_to


def plain_save(model: Any) -> None:
    """Undo :func:`gather_on_save`."""
    model.__dict__.pop("save_to", None)
