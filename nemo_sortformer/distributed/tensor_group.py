# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The processes that share one copy of the model: what they exchange, forward and backward.

Each exchange of a forward pass has its counterpart in the backward pass. One question decides which: does every
process go on with its own part of the work (then gradients are parts of a sum), or do all do the same (then each has
the whole gradient already)?

Source: the conjugate operators of Megatron-LM, Shoeybi et al. 2019 (arXiv:1909.08053), figure 3, and for frames
Korthikanti et al. 2022 (arXiv:2205.05198), figure 5.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F


class TensorGroup:
    """The tensor-parallel processes, and how states enter and leave the blocks that they split among them.

    Args:
        mesh: one-dimensional mesh of these processes.
        sequence_parallel: between the blocks each process holds its own part of the frames, padded at the end to equal
            parts; otherwise all hold all frames.
    """

    def __init__(self, mesh: DeviceMesh, *, sequence_parallel: bool) -> None:
        self.mesh = mesh
        self.sequence_parallel = sequence_parallel
        self.processes: dist.ProcessGroup = mesh.get_group()
        self.size: int = mesh.size()
        self.rank: int = mesh.get_local_rank()

    def __deepcopy__(self, memo: dict[int, Any]) -> TensorGroup:
        return self  # processes cannot be copied; a copied module works with the same ones

    def enter(self, states: Tensor, num_frames: int | None = None) -> Tensor:
        """Give a split block its input, shape (batch, frames, width); backward, the blocks' gradients are added up.

        Args:
            states: as between the blocks.
            num_frames: with sequence parallelism, the frames without the padding; none = with it.
        """
        if not self.sequence_parallel:
            return _AddGradients.apply(states, self)
        return _JoinParts.apply(states, self, 1)[:, :num_frames]

    def leave(self, partial: Tensor) -> Tensor:
        """Add up the blocks' outputs (batch, frames, width); with sequence parallelism each keeps its frames."""
        if not self.sequence_parallel:
            return _AddUp.apply(partial, self)
        return _AddUpParts.apply(self.pad_frames(partial), self)

    def shared(self, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
        """Parameters that all processes have whole: their gradients are added up where each sees only its frames."""
        present = [p for p in parameters if p is not None]
        if not self.sequence_parallel or not present:
            return parameters
        summed = list(_AddGradientsOfAll.apply(self, *present))
        return tuple([None if p is None else summed.pop(0) for p in parameters])  # torch.compile loses a generator

    def pad_frames(self, states: Tensor) -> Tensor:
        """Append zero frames to (batch, frames, width) until the processes can have equal parts."""
        missing = -states.shape[1] % self.size
        return F.pad(states, (0, 0, 0, missing)) if missing else states

    def split_frames(self, states: Tensor) -> Tensor:
        """Keep this process's part of (batch, frames, width), which all processes have alike."""
        return _KeepPart.apply(self.pad_frames(states), self, 1)

    def join_frames(self, part: Tensor, num_frames: int | None = None) -> Tensor:
        """Undo :meth:`split_frames`; with the result all processes do the same, so nothing is added up backward."""
        return _JoinPartsAlike.apply(part, self, 1)[:, :num_frames]

    def frames_to_channels(self, part: Tensor) -> Tensor:
        """(batch, frames / size, width) to (batch, frames, width / size)."""
        return _Exchange.apply(part, self, 2, 1)

    def channels_to_frames(self, part: Tensor) -> Tensor:
        """(batch, frames, width / size) to (batch, frames / size, width), padded to equal parts."""
        return _Exchange.apply(self.pad_frames(part), self, 1, 2)

    def join_for_own_work(self, part: Tensor, dim: int = 0) -> Tensor:
        """All processes' parts along `dim`; what each does with them differs, so gradients are added up."""
        return _JoinParts.apply(part, self, dim)

    def agree(self, states: Tensor) -> Tensor:
        """The values of the first process for all, where a difference in the last bit would change a decision."""
        return _OfTheFirst.apply(states, self)


def _join(part: Tensor, group: TensorGroup, dim: int) -> Tensor:
    rows = part.movedim(dim, 0).contiguous()
    out = rows.new_empty(rows.shape[0] * group.size, *rows.shape[1:])
    dist.all_gather_into_tensor(out, rows, group=group.processes)
    return out.movedim(0, dim).contiguous()  # once here, or else each linear map behind it makes its own copy


def _keep(whole: Tensor, group: TensorGroup, dim: int) -> Tensor:
    return whole.chunk(group.size, dim)[group.rank].contiguous()


def _add_up(partial: Tensor, group: TensorGroup) -> Tensor:
    total = partial.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group.processes)
    return total


def _add_up_parts(partial: Tensor, group: TensorGroup, dim: int) -> Tensor:
    rows = partial.movedim(dim, 0).contiguous()
    out = rows.new_empty(rows.shape[0] // group.size, *rows.shape[1:])
    dist.reduce_scatter_tensor(out, rows, group=group.processes)
    return out.movedim(0, dim).contiguous()


def _exchange(part: Tensor, group: TensorGroup, split_dim: int, join_dim: int) -> Tensor:
    sent = torch.stack(part.chunk(group.size, split_dim))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group.processes)
    return torch.cat(received.unbind(), join_dim)


class _AddGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return states.view_as(states)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _add_up(grad, ctx.group), None


class _AddGradientsOfAll(torch.autograd.Function):
    """One message for the gradients of several small parameters."""

    @staticmethod
    def forward(ctx: Any, group: TensorGroup, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(p.view_as(p) for p in parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        total = _add_up(torch.cat([grad.flatten() for grad in grads]), ctx.group)
        parts = total.split([grad.numel() for grad in grads])
        return None, *(part.view_as(grad) for part, grad in zip(parts, grads, strict=True))


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: TensorGroup) -> Tensor:
        return _add_up(partial, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _AddUpParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return _add_up_parts(partial, group, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _join(grad, ctx.group, 1), None


class _JoinParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: TensorGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _join(part, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _add_up_parts(grad, ctx.group, ctx.dim), None, None


class _JoinPartsAlike(_JoinParts):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _keep(grad, ctx.group, ctx.dim), None, None


class _KeepPart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, group: TensorGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return _keep(whole, group, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _join(grad, ctx.group, ctx.dim), None, None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: TensorGroup, split_dim: int, join_dim: int) -> Tensor:
        ctx.group, ctx.dims = group, (split_dim, join_dim)
        return _exchange(part, group, split_dim, join_dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        split_dim, join_dim = ctx.dims
        return _exchange(grad, ctx.group, join_dim, split_dim), None, None, None


class _OfTheFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, group: TensorGroup) -> Tensor:
        same = states.clone(memory_format=torch.contiguous_format)
        dist.broadcast(same, group=group.processes, group_src=0)
        return same

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
