# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Layers of which each tensor-parallel process holds a part: styles for torch's `parallelize_module`.

A style shards parameters as DTensors, so that optimizers, checkpoints and FSDP2 know the whole, and gives the module a
class whose forward pass computes with this process's part, without the cost of DTensor's dispatch at each operation.
The parameters keep their names. What is exchanged stands at the borders of blocks, see :mod:`.tensor_group`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle
from torch.nn import functional as F

from nemo_sortformer.distributed.split_randomness import SplitDropout
from nemo_sortformer.distributed.tensor_group import TensorGroup


def own_part(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; a plain one as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@functools.cache
def with_own_parts(cls: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """A subclass of `cls` in which reading the parameters or buffers `names` gives this process's part of them."""

    def reader(name: str) -> property:
        def read(self: nn.Module) -> Tensor | None:
            held = self._parameters if name in self._parameters else self._buffers
            tensor = held[name]
            if isinstance(tensor, DTensor) and tensor.device_mesh.ndim > 1:
                return tensor  # at rest, divided among data-parallel processes too: only `fully_shard` reads it then
            return None if tensor is None else own_part(tensor)

        return property(read)

    return type(f"Split{cls.__name__}", (cls,), {name: reader(name) for name in names} | {"__doc__": cls.__doc__})


@functools.cache
def on_top_of(cls: type[nn.Module], own: type[nn.Module]) -> type[nn.Module]:
    """`cls`, where that extends a module's `own` class; else, as for a linear map in float8, a class of both."""
    return (
        cls if issubclass(cls, own) else type(f"{cls.__name__}On{own.__name__}", (cls, own), {"__doc__": cls.__doc__})
    )


def shard(module: nn.Module, name: str, mesh: DeviceMesh, dim: int, seen: dict[Tensor, nn.Parameter]) -> None:
    """Replace a parameter or buffer by a DTensor sharded along `dim`; one that several modules share stays shared."""
    placements: Sequence[Placement] = [Shard(dim)]
    parameter = module._parameters.get(name)
    if parameter is not None:
        if parameter not in seen:
            whole = distribute_tensor(parameter.detach(), mesh, placements)
            seen[parameter] = nn.Parameter(whole, requires_grad=parameter.requires_grad)
        module.register_parameter(name, seen[parameter])
    elif module._buffers.get(name) is not None:
        module._buffers[name] = distribute_tensor(module._buffers[name], mesh, placements)


class SplitChannels(ParallelStyle):
    """Each process has its rows of the parameters: output features of a linear map, channels, heads.

    Args:
        names: parameters and buffers, sharded along their first dimension; those that the module lacks are left out.
        sizes: attributes that count channels, heads or groups, and become this process's share.
        seen: parameters sharded so far, see :func:`shard`.
    """

    def __init__(
        self,
        names: Sequence[str] = ("weight", "bias"),
        *,
        sizes: Sequence[str] = (),
        seen: dict[Tensor, nn.Parameter] | None = None,
    ) -> None:
        super().__init__()
        self.names, self.sizes = tuple(names), tuple(sizes)
        self.seen = {} if seen is None else seen

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name in self.names:
            shard(module, name, device_mesh, 0, self.seen)
        for size in self.sizes:
            setattr(module, size, getattr(module, size) // device_mesh.size())
        present = tuple(n for n in self.names if n in module._parameters or n in module._buffers)
        module.__class__ = with_own_parts(type(module), present)
        return module


class InGroup(ParallelStyle):
    """Gives the module a class that knows the group of processes.

    Args:
        cls: the class, a subclass of the module's with the attribute `group`.
        group: the processes.
        columns: parameters sharded along their second dimension: input features.
        rows: parameters sharded along their first dimension.
    """

    def __init__(
        self, cls: type[nn.Module], group: TensorGroup, *, columns: Sequence[str] = (), rows: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.cls, self.group, self.columns, self.rows = cls, group, columns, rows

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for names, dim in ((self.rows, 0), (self.columns, 1)):
            for name in names:
                shard(module, name, device_mesh, dim, {})
        module.__class__ = on_top_of(self.cls, type(module))
        module.group = self.group
        return module


class Both(ParallelStyle):
    """One style after the other on the same module."""

    def __init__(self, first: ParallelStyle, second: ParallelStyle) -> None:
        super().__init__()
        self.styles = (first, second)

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for style in self.styles:
            module = style._apply(module, device_mesh)
        return module


class InputSplitLinear(with_own_parts(nn.Linear, ("weight",))):  # type: ignore[misc]
    """Linear map of which each process has some input features; the bias is added once, after the sum."""

    group: TensorGroup

    @property
    def bias(self) -> Tensor | None:
        """None for the product; at rest, when only `fully_shard` reads it, what it is."""
        held = self._parameters["bias"]
        return held if isinstance(held, DTensor) else None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's own name
        """(batch, frames, features / size) -> (batch, frames, features), or this process's frames of that."""
        total = self.group.leave(super().forward(input))
        (bias,) = self.group.shared(self._parameters["bias"])
        return total if bias is None else total + bias


class InputSplitPointwise(nn.Conv1d):
    """:class:`InputSplitLinear` as a convolution over one frame."""

    group: TensorGroup

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's own name
        """(batch, channels / size, frames) -> (batch, channels, frames), or this process's frames of that."""
        partial = F.linear(input.transpose(1, 2), own_part(self.weight).squeeze(-1))
        (bias,) = self.group.shared(self.bias)
        total = self.group.leave(partial)
        return (total if bias is None else total + bias).transpose(1, 2)


class GatedPointwise(nn.Conv1d):
    """Convolution over one frame in front of a gated linear unit, which pairs channel c with channel c + width.

    The parameters are sharded as they lie, so that a process holds no pairs; the weight, which is small beside the
    states, is put together for each pass, and each process computes with its pairs.
    """

    group: TensorGroup

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's own name
        """(batch, width, frames) -> (batch, 2 * width / size, frames): this process's values, then their gates."""
        weight = self._own_pairs(self.weight)
        bias = None if self.bias is None else self._own_pairs(self.bias)
        return F.conv1d(input, weight, bias)

    def _own_pairs(self, parameter: Tensor) -> Tensor:
        whole = self.group.join_for_own_work(own_part(parameter))
        return whole.unflatten(0, (2, self.group.size, -1))[:, self.group.rank].flatten(0, 1)


class SplitChannelNorm(nn.LayerNorm):
    """Layer norm over channels of which each process has its own: mean and variance are put together from all."""

    group: TensorGroup

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's own name
        """(batch, frames, width / size) -> same shape."""
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        variances, means = torch.var_mean(values, dim=-1, correction=0)
        means, variances = self.group.join_for_own_work(torch.stack((means, variances))[None]).unbind(1)
        mean = means.mean(dim=0)
        variance = (variances + (means - mean).square()).mean(dim=0)  # of equal parts: no difference of large squares
        normal = ((values - mean[..., None]) * (variance + self.eps).rsqrt()[..., None]).to(input.dtype)
        if self.weight is not None:
            normal = normal * own_part(self.weight)
        return normal if self.bias is None else normal + own_part(self.bias)


class FrameNorm(nn.LayerNorm):
    """Layer norm of this process's frames; the parameters are whole and learn from all frames."""

    group: TensorGroup

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's own name
        """(batch, frames / size, width) -> same shape."""
        weight, bias = self.group.shared(self.weight, self.bias)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


def split_dropout(group: TensorGroup) -> InGroup:
    """The style of a dropout whose input is split."""
    return InGroup(SplitDropout, group)


def check_divides(size: int, what: str, value: int, where: str) -> None:
    """Raise where `value` things cannot be divided among `size` processes.

    Raises:
        ValueError: with the sizes and the ways out.
    """
    if value % size:
        fits = ", ".join(str(n) for n in range(1, value + 1) if value % n == 0 and n <= 64)
        raise ValueError(
            f"`tensor_parallel_size` must divide the {value} {what} of `{where}`, but is {size}. Set it to one of "
            f"{fits}, or change the model."
        )


def check_class(module: nn.Module, allowed: tuple[type[nn.Module], ...], where: str) -> None:
    """Raise where a module is of a class that no style here was written for: a split would change its numbers.

    Raises:
        ValueError: with the class found.
    """
    if type(module) not in allowed:
        names = ", ".join(f"`{cls.__name__}`" for cls in allowed)
        raise ValueError(
            f"Tensor parallelism splits {names} at `{where}`, but finds `{type(module).__name__}` there. Set "
            f"`tensor_parallel_size` to 1."
        )
