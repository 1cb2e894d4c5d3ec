# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Mixed precision by Megatron's rules: half precision in layers, float32 wherever values are summed up over steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision.precision import Precision
from nemo.utils import logging
from torch import Tensor
from torch.optim import Optimizer

from nemo_sortformer.config import ParallelConfig
from nemo_sortformer.distributed import gradients


class OverflowError16(ValueError):
    """float16 overflows in step after step, whatever the factor on the loss."""


class LossScale:
    """The factor on a float16 loss: halved at an overflow, doubled after a while without one.

    Args:
        start: the first factor.
        growth_interval: steps without overflow before it doubles.
    """

    def __init__(self, start: float, growth_interval: int) -> None:
        self.scale = start
        self.growth_interval = growth_interval
        self.good_steps = 0
        self.skipped_steps = 0
        self.skipped_in_a_row = 0

    def update(self, finite: bool) -> None:
        """Take note of a step, and whether its gradient was finite."""
        if not finite:
            self.scale /= 2
            self.good_steps = 0
            self.skipped_steps += 1
            self.skipped_in_a_row += 1
            return
        self.skipped_in_a_row = 0
        self.good_steps += 1
        if self.good_steps == self.growth_interval:
            self.scale *= 2
            self.good_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        names = ("scale", "good_steps", "skipped_steps", "skipped_in_a_row")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name, value in state.items():
            setattr(self, name, value)


class MainParamsPrecision(Precision):
    """The optimizer sees float32 parameters, divided as they may be; layers see copies in `dtype`.

    The copies, and the float32 sums of gradients, are made where parameters are gathered and gradients exchanged, see
    :func:`~nemo_sortformer.distributed.sharding.shard`. Here: the factor on a float16 loss, one norm of the gradient
    over all processes, and clipping by it. An overflow anywhere makes that norm infinite everywhere, so that all
    processes leave the step out together.

    Args:
        dtype: `fp32`, `bf16` or `fp16`.
        config: the settings about float16.
    """

    def __init__(self, dtype: str, config: ParallelConfig) -> None:
        super().__init__()
        self.dtype = dtype
        self.precision = f"{dtype}-main"  # type: ignore[assignment]
        self.max_skipped_steps = config.fp16_max_skipped_steps
        is_fp16 = dtype == "fp16"
        self.scaler = LossScale(config.fp16_init_scale, config.fp16_growth_interval) if is_fp16 else None

    @staticmethod
    def global_norm(parameters: Iterable[Tensor]) -> Tensor:
        """Norm of the gradient over all processes; each must call this."""
        return gradients.global_norm(parameters)

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        """Multiply the loss by the factor."""
        return super().pre_backward(tensor if self.scaler is None else tensor * self.scaler.scale, module)

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, model: LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Step, unless the gradient overflowed somewhere."""
        if self.scaler is None:
            return super().optimizer_step(optimizer, model=model, closure=closure, **kwargs)
        result = closure()
        parameters = list(self.main_params(optimizer))
        finite = bool(torch.isfinite(gradients.global_norm(parameters)))  # the one wait for the device in a step
        if finite:
            gradients.scale_gradients(parameters, 1 / self.scaler.scale)
            self._after_closure(model, optimizer)  # hooks and clipping see the true gradient
            optimizer.step(**kwargs)
        self.scaler.update(finite)
        if not finite:
            self._report(model)
        return result

    @property
    def left_out_step(self) -> bool:
        """Whether the last step was left out."""
        return self.scaler is not None and self.scaler.skipped_in_a_row > 0

    def hold_schedules(self, model: LightningModule) -> None:
        """Let schedules that count steps stand still at a step that is left out, so that none of theirs is lost."""
        if self.scaler is None:
            return
        advance = type(model).lr_scheduler_step

        def lr_scheduler_step(scheduler: Any, metric: Any) -> None:
            configs = model.trainer.lr_scheduler_configs
            counts_steps = any(one.scheduler is scheduler and one.interval == "step" for one in configs)
            if not (counts_steps and self.left_out_step):
                advance(model, scheduler, metric)

        model.__dict__["lr_scheduler_step"] = lr_scheduler_step

    def _report(self, model: LightningModule) -> None:
        scaler = self.scaler
        logging.warning(
            f"Step {model.trainer.global_step} is left out: float16 overflowed. The factor on the loss is "
            f"{scaler.scale:g} now; {scaler.skipped_steps} steps were left out so far."
        )
        if scaler.skipped_in_a_row >= self.max_skipped_steps:
            raise OverflowError16(
                f"float16 overflowed in {scaler.skipped_in_a_row} steps in a row, so that the model learns nothing. "
                f"The loss or a weight is not finite: lower `optim.lr`, or set `model.parallel.dtype: bf16`."
            )

    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        """Clip by the norm over all processes."""
        gradients.clip_by_norm(self.main_params(optimizer), clip_val)

    def clip_grad_by_value(self, optimizer: Optimizer, clip_val: float) -> None:
        """Clip each element."""
        gradients.clip_by_value(self.main_params(optimizer), clip_val)

    def state_dict(self) -> dict[str, Any]:
        """The factor and its counts; nothing without float16."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a saved factor; one saved by another type is no use."""
        if self.scaler is not None and state_dict:
            self.scaler.load_state_dict(state_dict)
