# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Settings of training on several devices: the keys under `model.parallel`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nemo_sortformer.config.merge import ConfigError


@dataclass(kw_only=True)
class ParallelConfig:
    """How a model trains with `trainer.strategy=nemo_sortformer`, on one device or many."""

    dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Type of the parameters in computation and communication. The parameters that the optimizer changes, gradients
    while they are summed, the optimizer's state, and the loss are float32 in any case. None: follows
    `trainer.precision`, `32-true`, `bf16-mixed` or `16-mixed`."""
    tensor_parallel_size: int = 1
    """Processes that split each layer among them; they read the same data."""
    sequence_parallel: bool = False
    """With tensor parallelism, also split the frames between its blocks."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What is divided among the data-parallel processes: 0 nothing, 1 the float32 parameters and the optimizer's
    state, 2 also the gradients while they are summed over micro-batches, 3 also the parameters between their uses."""
    replicate_size: int = 1
    """Groups of processes with a whole copy each, e.g. the number of nodes: division stays within a group."""
    activation_checkpointing: bool = False
    """Keep only the input of each layer for the backward pass, and compute the rest anew."""
    compile: bool = False
    """Run each layer through `torch.compile`."""
    fp8: Literal["auto", "on", "off", True, False] = "off"
    """Compute the linear maps of layers in float8, on GPUs that have it, with `nemo_sortformer[fp8]`: `on` all whose
    sizes fit, `auto` those large enough to gain by it, where it can be had."""
    sharded_checkpoints: bool = False
    """Each process writes its part of a checkpoint; otherwise the first one writes all in one file."""
    fp16_init_scale: float = 65536.0
    """With `dtype: fp16`, the first factor on the loss; halved at each overflow."""
    fp16_growth_interval: int = 2000
    """Steps without an overflow after which the factor doubles."""
    fp16_max_skipped_steps: int = 50
    """Steps in a row that may be left out for overflow before training stops."""
    timeout_seconds: float = 1800.0
    """How long a process waits for the others before it stops with an error."""

    def __post_init__(self) -> None:
        if isinstance(self.fp8, bool):  # YAML takes `on` and `off` for true and false
            self.fp8 = "on" if self.fp8 else "off"
        for name in ("tensor_parallel_size", "replicate_size", "fp16_growth_interval", "fp16_max_skipped_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        for name in ("fp16_init_scale", "timeout_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"`{name}` must be above 0, but is {getattr(self, name)}.")
        if self.sequence_parallel and self.tensor_parallel_size == 1:
            raise ConfigError(
                "`sequence_parallel` needs `tensor_parallel_size` of 2 or more, but is true with 1. Raise the size, "
                "or leave `sequence_parallel` out."
            )
        if self.zero_stage == 0 and self.replicate_size > 1:
            raise ConfigError(
                f"`replicate_size` must be 1 with `zero_stage: 0`, where each process has a whole copy, but is "
                f"{self.replicate_size}. Leave it out, or raise `zero_stage`."
            )

    def mesh_shape(self, world_size: int) -> tuple[int, int, int]:
        """Processes by (copies, parts of a copy, parts of a layer), the last ones neighbours; the product is all.

        Raises:
            ConfigError: the sizes do not divide the number of processes.
        """
        tensor, copies = self.tensor_parallel_size, self.replicate_size
        if world_size % (tensor * copies):
            raise ConfigError(
                f"`tensor_parallel_size` times `replicate_size`, {tensor} times {copies}, must divide the number of "
                f"processes, but that is {world_size}. Change one of the sizes, `trainer.devices` or "
                f"`trainer.num_nodes`."
            )
        if self.zero_stage == 0:
            copies = world_size // tensor
        return copies, world_size // (tensor * copies), tensor

    def data_share(self, rank: int, world_size: int) -> tuple[int, int]:
        """Which part of the data process `rank` reads: its number, and how many parts there are.

        Raises:
            ConfigError: as :meth:`mesh_shape`.
        """
        copies, parts, tensor = self.mesh_shape(world_size)
        return rank // tensor, copies * parts
