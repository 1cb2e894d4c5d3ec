# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""How much memory a layout of training takes on each process: parameters, gradients, optimizer, activations.

Computed from the model's shapes alone, so it may stand on the meta device. On d data-parallel shards, of N parameters
per tensor-parallel process:

* float32 parameters 4 N and optimizer state s N are divided by d from ZeRO stage 1 on;
* gradients, float32, 4 N: divided by d; whole while they are summed over micro-batches at stages 0 and 1;
* gathered parameters in the type of computation, c N: all layers' until the backward pass below stage 3, at stage 3 of
  the one that runs and the next;
* what comes and goes with the largest unit u that is gathered at once: its float32 gradient for the exchange, 4 u, and
  copies in the type of computation, 2 c u.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from nemo_sortformer.config import ConfigError, ParallelConfig
from nemo_sortformer.distributed import units
from nemo_sortformer.distributed.activations import Activations, Cost, activations_of

ELEMENT = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a number in the types of computation."""
OPTIMIZER_STATE = {"adam": 8, "adamw": 8, "adamax": 8, "nadam": 8, "adan": 12, "adagrad": 4, "rmsprop": 4, "sgd": 4}
"""Bytes per parameter of NeMo's optimizers; SGD with momentum."""
CONTEXT = 1.0
"""GB for CUDA itself, its libraries and the exchange of messages; assumed."""
FRAGMENTS = 0.06
"""Share of the memory that the allocator cannot use; assumed."""
GB = 1e9

_SPLIT = re.compile(
    r"\.layers\.\d+\.(?:"
    r"\w+\.(?:linear_q|linear_k|linear_v|linear_pos|global_\w|linear1|query_net|key_net|value_net|dense_in)\.(?:weight|bias)"
    r"|\w+\.(?:linear_out|linear2|out_projection|dense_out)\.weight"
    r"|self_attn\.pos_bias_[uv]"
    r"|conv\.(?:pointwise_conv1|depthwise_conv|batch_norm)\.(?:weight|bias)|conv\.pointwise_conv2\.weight)$"
)
_SPLIT_WITH_FRAMES = re.compile(r"\.layers\.\d+\.conv\.conv\.(?:weight|bias)$")


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of a model, or of a process's part of one."""

    trained: int
    frozen: int
    largest_unit: int
    """In the largest module that is gathered at once."""

    @property
    def total(self) -> int:
        """All."""
        return self.trained + self.frozen


def parameters_of(model: nn.Module, *, tensor_size: int = 1, sequence_parallel: bool = False) -> Parameters:
    """Parameters that one of `tensor_size` processes holds."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def held(parameter: nn.Parameter) -> int:
        name = "." + names[id(parameter)]
        split = _SPLIT.search(name) or (sequence_parallel and _SPLIT_WITH_FRAMES.search(name))
        return parameter.numel() // tensor_size if split else parameter.numel()

    sizes = {name: held(parameter) for name, parameter in model.named_parameters()}
    trained = sum(sizes[name] for name, parameter in model.named_parameters() if parameter.requires_grad)
    largest = max((sum(held(p) for p in unit.parameters()) for unit in _units(model)), default=0)
    return Parameters(trained, sum(sizes.values()) - trained, largest)


def _units(model: nn.Module) -> Iterator[nn.Module]:
    for _, encoder in units.stacks(model):
        yield from units.layers(encoder)
        yield nn.ModuleList(child for name, child in encoder.named_children() if name != "layers")
    for _, module in units.head_parts(model):
        yield module


@dataclass(frozen=True)
class Memory:
    """Bytes on each process."""

    parameters: float
    """The float32 ones that the optimizer changes."""
    gradients: float
    optimizer: float
    gathered: float
    """Parameters in the type of computation, at the start of the backward pass."""
    exchange: float
    """Buffers of the largest unit."""
    recording: float
    """Activations of one recording."""

    def at_rest(self) -> float:
        """Between steps."""
        return self.parameters + self.optimizer

    def peak(self, batch_size: int, *, accumulate: bool = False) -> float:
        """At the start of the backward pass, or at its end, whichever is more.

        Args:
            batch_size: recordings per process and micro-batch.
            accumulate: gradients of earlier micro-batches are there already.
        """
        start = self.at_rest() + self.gathered + batch_size * self.recording + accumulate * self.gradients
        end = self.at_rest() + self.gradients
        return max(start, end) + self.exchange


def memory_of(
    parameters: Parameters,
    activations: Activations,
    config: ParallelConfig,
    world_size: int,
    *,
    optimizer_state: int = 8,
) -> Memory:
    """Memory of one process.

    Args:
        parameters: of this process's tensor-parallel part, of :func:`parameters_of`.
        activations: likewise, of :func:`~nemo_sortformer.distributed.activations.activations_of`.
        config: the layout; `dtype: null` counts as fp32.
        world_size: number of processes.
        optimizer_state: bytes per trained parameter.

    Raises:
        ConfigError: the layout does not fit the number of processes.
    """
    _, shards, _ = config.mesh_shape(world_size)
    element = ELEMENT[config.dtype or "fp32"]
    all_gathered = config.zero_stage < 3
    return Memory(
        parameters=4 * parameters.total / shards,
        gradients=4 * parameters.trained / (1 if config.zero_stage < 2 else shards),
        optimizer=optimizer_state * parameters.trained / shards,
        gathered=element * (parameters.total if all_gathered else min(2 * parameters.largest_unit, parameters.total)),
        exchange=(4 + 2 * element) * parameters.largest_unit,
        recording=activations.peak(checkpointing=config.activation_checkpointing),
    )


@dataclass(frozen=True)
class Row:
    """One layout in the plan."""

    config: ParallelConfig
    memory: Memory
    parameters: Parameters
    whole_parameters: int
    """Of the whole model."""
    largest_batch: int
    """Recordings per group of tensor-parallel processes and micro-batch that fit; 0: not even one."""
    needed: float
    """Bytes with the wanted batch."""
    fits: bool
    """Whether the wanted batch fits."""

    @property
    def bytes_per_parameter(self) -> float:
        """Parameters, gradients and optimizer on one process, per parameter of the whole model."""
        return (self.memory.at_rest() + self.memory.gradients) / self.whole_parameters

    def overrides(self) -> list[str]:
        """The layout as overrides of a training script."""
        config = self.config
        keys = {
            "dtype": config.dtype,
            "zero_stage": config.zero_stage,
            "replicate_size": config.replicate_size,
            "tensor_parallel_size": config.tensor_parallel_size,
            "sequence_parallel": config.sequence_parallel,
            "activation_checkpointing": config.activation_checkpointing,
        }
        default = {"replicate_size": 1, "tensor_parallel_size": 1}
        said = {key: value for key, value in keys.items() if value is not False and default.get(key) != value}
        return [f"+model.parallel.{key}={str(value).lower()}" for key, value in said.items()]


def plan(
    model: nn.Module,
    *,
    num_frames: int,
    gpus: int,
    gpu_memory: float,
    batch_size: int = 1,
    gpus_per_node: int = 8,
    dtype: str = "bf16",
    optimizer: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Memory of all sensible layouts, those first that cost least beside the computation itself.

    Args:
        model: whole; only its shapes are read.
        num_frames: frames of one recording, behind the subsampling.
        gpus: number of processes, one each.
        gpu_memory: GB of each, 1e9 bytes.
        batch_size: recordings per data-parallel process and micro-batch that must fit.
        gpus_per_node: they exchange faster than those of different nodes.
        dtype: `fp32`, `bf16` or `fp16`.
        optimizer: its settings, as under `model.optim`; by default AdamW.

    Raises:
        ConfigError: a number out of range, or a model of which nothing is known.
    """
    numbers = {"gpus": gpus, "gpus_per_node": gpus_per_node, "batch_size": batch_size, "num_frames": num_frames}
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"`{name}` must be at least 1, but is {value}.")
    if gpus > gpus_per_node and gpus % gpus_per_node:
        raise ConfigError(
            f"`gpus` must be a multiple of `gpus_per_node`, {gpus_per_node}, where there are more nodes than one, but "
            f"is {gpus}."
        )
    if dtype not in ELEMENT:
        raise ConfigError(f"`dtype` must be one of {', '.join(ELEMENT)}, but is {dtype!r}.")
    usable = gpu_memory * GB * (1 - FRAGMENTS) - CONTEXT * GB
    if usable <= 0:
        raise ConfigError(
            f"`gpu_memory` must be above {CONTEXT / (1 - FRAGMENTS):.2f} GB, which CUDA itself takes, but is "
            f"{gpu_memory:g}."
        )
    state = optimizer_state(optimizer)
    rows = []
    for config in layouts(model, gpus, gpus_per_node=gpus_per_node, dtype=dtype):
        cost = Cost(
            element=ELEMENT[dtype],
            tensor_size=config.tensor_parallel_size,
            sequence_parallel=config.sequence_parallel,
        )
        held = parameters_of(
            model, tensor_size=config.tensor_parallel_size, sequence_parallel=config.sequence_parallel
        )
        memory = memory_of(held, activations_of(model, num_frames, cost), config, gpus, optimizer_state=state)
        free = usable - memory.peak(0)
        start = usable - memory.at_rest() - memory.gathered - memory.exchange
        largest = int(start // memory.recording) if free >= 0 and start > 0 else 0
        total = sum(parameter.numel() for parameter in model.parameters())
        needed = (memory.peak(batch_size) + CONTEXT * GB) / (1 - FRAGMENTS)
        rows.append(Row(config, memory, held, total, largest, needed, largest >= batch_size))
    return rows


def layouts(model: nn.Module, gpus: int, *, gpus_per_node: int, dtype: str) -> Iterator[ParallelConfig]:
    """Layouts in the order of what they cost: none shares layers before the others have been tried.

    Whole copies per node cost memory and save exchange between nodes; stage 3 gathers twice per step; recomputing
    takes a third more arithmetic; sharing layers exchanges states in each of them, and so stays within a node.
    """
    nodes = max(1, gpus // gpus_per_node)
    sizes = [size for size in (1, 2, 4, 8) if gpus % size == 0 and size <= gpus_per_node]
    sizes = [size for size in sizes if size == 1 or _divides(model, size)]
    for size in sizes:
        for checkpointing in (False, True):
            for stage in (2, 3) if gpus > size else (2,):
                for copies in dict.fromkeys((nodes, 1)):
                    if gpus % (size * copies) == 0:
                        yield ParallelConfig(
                            dtype=dtype,  # type: ignore[arg-type]  # checked by the caller
                            tensor_parallel_size=size,
                            sequence_parallel=size > 1,
                            zero_stage=stage,  # type: ignore[arg-type]
                            replicate_size=copies,
                            activation_checkpointing=checkpointing,
                        )


def _divides(model: nn.Module, size: int) -> bool:
    from nemo_sortformer.distributed.tensor_parallel import check_model

    try:
        check_model(model, size=size, sequence_parallel=size > 1)
    except ValueError:
        return False
    return True


def recommend(rows: list[Row]) -> Row | None:
    """The first layout that fits; None where none does."""
    return next((row for row in rows if row.fits), None)


def optimizer_state(optimizer: Mapping[str, Any] | None) -> int:
    """Bytes per trained parameter of an optimizer's state.

    Raises:
        ConfigError: an optimizer whose state is not known.
    """
    name = str((optimizer or {}).get("name") or "adamw").lower()
    if name not in OPTIMIZER_STATE:
        raise ConfigError(f"The memory of `optim.name` {name!r} is not known; it is of {', '.join(OPTIMIZER_STATE)}.")
    return OPTIMIZER_STATE[name] if name != "sgd" or (optimizer or {}).get("momentum") else 0
