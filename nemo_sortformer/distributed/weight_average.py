# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""An exponential moving average of divided weights: what NeMo's EMA callback does for whole ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from nemo.collections.common.callbacks import EMA
from nemo.utils import logging
from torch import Tensor
from torch.distributed.tensor import DTensor

from nemo_sortformer.distributed.sharding import put_to_rest

GROUP = "weight_average"
"""Name of the averages in checkpoints."""


class WeightAverage(Callback):
    """Keeps `average = decay * average + (1 - decay) * weight` of each process's parts, in float32.

    Validation and test use the averages. They are part of each checkpoint. `save_to` writes the weights as they are,
    and the averages to a second file, named with `-EMA` as by NeMo.

    Args:
        decay: in [0, 1].
        every_n_steps: steps of the optimizer from one update to the next.
        validate_original_weights: validate and test the weights as they are.
    """

    def __init__(self, decay: float, *, every_n_steps: int = 1, validate_original_weights: bool = False) -> None:
        self.decay, self.every_n_steps = decay, every_n_steps
        self.validate_original_weights = validate_original_weights
        self.average: dict[str, Tensor] = {}
        self._seen_step = -1
        self._is_swapped = False

    @torch.no_grad()
    def start(self, model: LightningModule) -> dict[str, Tensor]:
        """Begin with the weights as they are; returns the averages, which change in place."""
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.average = {name: parameter.detach().clone() for name, parameter in trained.items()}
        return self.average

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Take in the weights of a step."""
        step = trainer.global_step
        if step == self._seen_step or step % self.every_n_steps:
            return
        self._seen_step = step
        if getattr(trainer.precision_plugin, "left_out_step", False):
            return
        weights = dict(pl_module.named_parameters())
        averages = [_local(average) for average in self.average.values()]
        torch._foreach_lerp_(averages, [_local(weights[name]) for name in self.average], 1 - self.decay)

    @torch.no_grad()
    def swap(self, model: LightningModule) -> None:
        """Exchange weights and averages."""
        put_to_rest(model)
        weights = dict(model.named_parameters())
        for name, average in self.average.items():
            weight, average = _local(weights[name]), _local(average)
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        self._is_swapped = not self._is_swapped

    def _use(self, model: LightningModule, wanted: bool) -> None:
        if self.average and not self.validate_original_weights and self._is_swapped != wanted:
            self.swap(model)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the averages."""
        self._use(pl_module, True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the weights."""
        self._use(pl_module, False)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Test the averages."""
        self._use(pl_module, True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the weights."""
        self._use(pl_module, False)

    def save_both(self, model: LightningModule) -> None:
        """Let `save_to` write the averages as well."""
        save_plain = model.save_to

        def save_to(save_path: str) -> None:
            save_plain(save_path)
            path = Path(save_path)
            self.swap(model)
            try:
                save_plain(str(path.with_name(f"{path.stem}-EMA{path.suffix}")))
            finally:
                self.swap(model)

        model.__dict__["save_to"] = save_to


def replace_ema(trainer: Trainer, strategy: Any) -> None:
    """Put :class:`WeightAverage` in the place of NeMo's EMA callback, whose optimizer holds whole tensors."""
    theirs = [callback for callback in trainer.callbacks if isinstance(callback, EMA)]
    if not theirs:
        return
    ema = theirs[0]
    average = WeightAverage(
        ema.decay, every_n_steps=ema.every_n_steps, validate_original_weights=ema.validate_original_weights
    )
    trainer.callbacks = [average, *(callback for callback in trainer.callbacks if not isinstance(callback, EMA))]
    model = trainer.lightning_module
    strategy.extra_tensors[GROUP] = average.start(model)
    average.save_both(model)
    logging.info("NeMo's EMA callback works on whole weights; an average of each process's parts takes its place.")


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()
