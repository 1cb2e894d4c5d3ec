# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Trains layers that are split and compiled: against the whole model, and with dropout against layers as they are."""

import functools
import sys
from unittest import mock

import torch
import torch.distributed as dist
from nemo.utils import logging
from small_diarizer import SORTFORMER, build, make_batch
from split_tensors import compare, relative, spread, train, whole
from torch._dynamo.utils import counters

from nemo_sortformer.config import ParallelConfig
from nemo_sortformer.distributed.apply import apply, build_mesh

ONE_LAYER = {"n_layers": 1, "state_encoder": SORTFORMER | {"num_layers": 1}}


def layout(**options):
    """Two processes that share each layer, and divide nothing else."""
    return ParallelConfig(tensor_parallel_size=2, **options)


def dropped(config):
    """Losses, gradients and weights after some steps with dropout."""
    model = build(dropout=0.1, **ONE_LAYER)
    apply(model, config, build_mesh(config, "cpu"))
    torch.manual_seed(5)
    losses, gradients = train(model, make_batch())
    weights = {name: whole(parameter) for name, parameter in model.named_parameters()}
    return losses, gradients, weights


def with_dropout():
    """Random numbers come from the same states of the generators in either form; gradients tell if not."""
    plain = dropped(layout(sequence_parallel=True))
    compiled = dropped(layout(sequence_parallel=True, compile=True))
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in zip(compiled[0], plain[0], strict=True)),
        "gradient": max(relative(compiled[1][name], grad) for name, grad in plain[1].items()),
        "parameter": max(relative(compiled[2][name], weight) for name, weight in plain[2].items()),
        "ranks differ": spread(compiled[2]),
    }


def counted(case):
    """The result of a case with the number of its graphs, which torch's operations run, and no C++ compiler."""
    torch._dynamo.reset()
    counters.clear()
    with mock.patch.object(torch, "compile", functools.partial(torch.compile, backend="aot_eager")):
        return case() | {"graphs": counters["stats"]["unique_graphs"]}


def main(result):
    """Run all cases, save the results of the first process."""
    torch.set_num_threads(1)
    logging.setLevel(logging.ERROR)
    dist.init_process_group("gloo")
    results = {
        "tensor": counted(lambda: compare(None, config=layout(compile=True), **ONE_LAYER)),
        "sequence, with dropout": counted(with_dropout),
    }
    if dist.get_rank() == 0:
        torch.save(results, result)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
