# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Running statistics of batch norms, of which each data-parallel process keeps its own."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def pool_running_statistics(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Give all processes of `group` the mean and variance of their batches taken together.

    The variance of a mixture is the mean of the variances plus the variance of the means. One all-reduce; all
    processes must call this. Batch norms that already share their batches are left alone.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and not isinstance(module, nn.SyncBatchNorm)
        and module.running_mean is not None
    ]
    size = dist.get_world_size(group)
    if not norms or size == 1:
        return
    means = [norm.running_mean for norm in norms]
    variances = [norm.running_var for norm in norms]
    moments = torch.cat([*means, *(var + mean.square() for mean, var in zip(means, variances))]).double()
    dist.all_reduce(moments, group=group)
    moments /= size
    mean, square = moments.chunk(2)
    pieces = zip(mean.split([len(one) for one in means]), square.split([len(one) for one in means]))
    for norm, (new_mean, new_square) in zip(norms, pieces):
        norm.running_mean.copy_(new_mean)
        norm.running_var.copy_((new_square - new_mean.square()).clamp(min=0))
