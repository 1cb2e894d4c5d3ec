# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Counts what torch keeps for the backward pass."""

import torch
from torch.distributed.tensor import DTensor


def saved_bytes(forward, model):
    """Bytes of what `forward()` keeps for gradients: each storage once, parameters and buffers left out."""
    held = [*model.parameters(), *model.buffers()]
    own = {(t.to_local() if isinstance(t, DTensor) else t).untyped_storage()._cdata for t in held}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage  # held, so that no later one gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = forward()
    del output
    return sum(storage.nbytes() for storage in found.values())
