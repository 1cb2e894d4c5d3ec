# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Tensor and sequence parallelism: several processes share one model, each with a part of every layer."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from nemo.collections.asr.modules.conformer_encoder import ConformerEncoder
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from nemo_sortformer.distributed.plans_conformer import check_conformer, split_conformer
from nemo_sortformer.distributed.plans_text_head import check_text_head, split_text_head
from nemo_sortformer.distributed.plans_transformer import check_state_encoder, split_state_encoder
from nemo_sortformer.distributed.tensor_group import TensorGroup
from nemo_sortformer.modules import SortformerEncoder, TransformerStateEncoder
from nemo_sortformer.modules.attention_text_head import AttentionTextHead


class Check(Protocol):
    """Raises ``ValueError`` where a module, which stands at `where` in the model, cannot be split."""

    def __call__(self, module: Any, where: str, *, size: int, sequence_parallel: bool) -> None: ...


class Split(Protocol):
    """Splits a checked module among the processes of `group`, in place."""

    def __call__(self, module: Any, group: TensorGroup) -> None: ...


class Plan(NamedTuple):
    """How modules of one class are split."""

    check: Check
    split: Split


PLANS: dict[type[nn.Module], Plan] = {
    ConformerEncoder: Plan(check_conformer, split_conformer),
    SortformerEncoder: Plan(check_state_encoder, split_state_encoder),
    TransformerStateEncoder: Plan(check_state_encoder, split_state_encoder),
    AttentionTextHead: Plan(check_text_head, split_text_head),
}
"""The classes that can be split. All else, as subsampling and other heads, every process computes whole and alike."""


def parallelize_tensors(model: nn.Module, mesh_1d: DeviceMesh, *, sequence_parallel: bool) -> None:
    """Split the encoders of `model` among the processes of a mesh, in place; with one process nothing happens.

    Afterwards the split parameters are DTensors on the mesh, of the same names, and the model is called as before: all
    processes of the mesh with the same batch, and with torch seeded alike. Shard over data-parallel ranks (FSDP2), and
    make optimizers, after this. Gradients are those of the unsplit model, whole on each process where a parameter is
    not split.

    Args:
        model: the same on all processes, on its device.
        mesh_1d: one-dimensional mesh of the processes that share the model.
        sequence_parallel: between the split blocks each process holds a part of the frames: less memory, the same
            amount of communication. Any number of frames will do, they are padded inside.

    Raises:
        ValueError: sizes that cannot be divided, a model without an encoder that :data:`PLANS` knows, or one that is
            sharded already. The model is then as it was.
    """
    if mesh_1d.ndim != 1:
        raise ValueError(f"`mesh_1d` must have one dimension, but has {mesh_1d.ndim}: take one by `mesh[name]`.")
    if mesh_1d.size() == 1:
        return
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise ValueError(
            "`model` is sharded already: split its tensors first, and shard it over data-parallel ranks afterwards."
        )
    found = check_model(model, size=mesh_1d.size(), sequence_parallel=sequence_parallel)
    group = TensorGroup(mesh_1d, sequence_parallel=sequence_parallel)
    for module in found:
        _plan_of(module).split(module, group)


def check_model(model: nn.Module, *, size: int, sequence_parallel: bool) -> list[nn.Module]:
    """Find the modules of `model` that `size` processes can share; nothing is changed.

    Raises:
        ValueError: there are none, or their sizes cannot be divided.
    """
    found = {name: module for name, module in model.named_modules() if _plan_of(module) is not None}
    if not found:
        known = ", ".join(f"`{cls.__name__}`" for cls in PLANS)
        raise ValueError(f"`model` has nothing to split: tensor parallelism knows {known}.")
    for name, module in found.items():
        _plan_of(module).check(module, name or "model", size=size, sequence_parallel=sequence_parallel)
    return list(found.values())


def _plan_of(module: nn.Module) -> Plan | None:
    return next((plan for cls, plan in PLANS.items() if isinstance(module, cls)), None)
