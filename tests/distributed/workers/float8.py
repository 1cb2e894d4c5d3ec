# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Trains some steps with float8 layers, emulated, in each of the given layouts, and once by hand in one process."""

import functools
import sys
from pathlib import Path
from unittest import mock

import torch.distributed as dist
from nemo.utils import logging
from small import (
    RANK,
    Diarizer,
    everyone,
    mean_over_processes,
    recordings,
    reference,
    save,
    settings,
    train,
    whole_state,
)

from nemo_sortformer.config import ParallelConfig
from nemo_sortformer.distributed import accelerators, fp8, strategy
from nemo_sortformer.distributed.accelerators import Accelerator
from nemo_sortformer.distributed.apply import apply

logging.setLevel(logging.ERROR)
STEPS = 3
BATCHES = [recordings(number, seconds=(1.6, 2.4, 0.96, 2.0)) for number in range(STEPS)]
OPTIM = {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01, "eps": 1e-4}
LAYOUTS = {
    "zero2": {"zero_stage": 2},
    "tensor": {"tensor_parallel_size": 2},
    "bf16": {
        "dtype": "bf16",
        "zero_stage": 3,
        "tensor_parallel_size": 2,
        "sequence_parallel": True,
        "activation_checkpointing": True,
    },
}
SMOOTH = {"state_encoder": "TransformerStateEncoder", "loss": {"pil_weight": 0.0}}
"""Where rounding makes no other order of speakers the best one."""


def sizes(parallel=None):
    """Settings of a small diarizer whose widths two processes can share."""
    cfg = settings(parallel, optim=OPTIM, affinity=None, **SMOOTH)
    cfg.transformer_encoder.update({"hidden_size": 32, "inner_size": 64})
    return cfg


class Rounded(Diarizer):
    """A diarizer with float8 layers in one process."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        fp8.convert_layers(self, ParallelConfig(fp8="on"), emulate=True)


def run(name, folder):
    """Train in one layout; what process 0 keeps of it."""
    here = Accelerator("torchao", True, "emulated", "tests")
    with (
        mock.patch.dict(accelerators.FINDERS, {"torchao": lambda: here}),
        mock.patch.object(strategy, "apply", functools.partial(apply, emulate_fp8=True)),
    ):
        _, model, watch = train(sizes({"fp8": True, **LAYOUTS[name]}), BATCHES)
    file = folder / f"{name}.nemo"
    model.cfg.target = "nemo_sortformer.models.diarizer.model.SortformerDiarizer"  # whose file it is but for the data
    model.save_to(str(file))
    weights = whole_state(model)
    return {
        "losses": mean_over_processes(watch.losses),
        "gradients": watch.gradients,
        "weights": weights,
        "checksums": everyone([float(value.double().abs().sum()) for value in weights.values()]),
        "classes": {name: type(module).__name__ for name, module in model.named_modules()},
        "dtypes": {parameter.dtype for parameter in model.parameters()},
        "file": file,
    }


if __name__ == "__main__":
    result = Path(sys.argv[1])
    results = {name: run(name, result.parent) for name in sys.argv[2:]}
    if RANK == 0:
        for name, kind in (("float8", Rounded), ("float32", Diarizer)):
            results[name] = reference(sizes(), BATCHES, kind=kind)
            del results[name]["model"]
    dist.barrier()
    save(results, result)
