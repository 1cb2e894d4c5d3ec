# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""States of the random generators, saved and brought back by data-parallel process."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def random_state() -> dict[str, Any]:
    """States of python's, NumPy's and torch's generators of this process."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Go on from what :func:`random_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def gather_random_states(tensor_parallel_size: int) -> list[dict[str, Any]]:
    """The state of each data-parallel process, in order; all processes must call this."""
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, random_state())
    return states[::tensor_parallel_size]
