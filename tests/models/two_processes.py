# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One of the processes of test_diarizer_ddp.py: train a step, validate, and write down gradients and metrics."""

import sys

import torch
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from nemo_sortformer.models.diarizer import SortformerDiarizer


class WritingDiarizer(SortformerDiarizer):
    """Keeps the gradients that the optimizer sees."""

    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        self.gradients = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}


def run(config: str, result: str, devices: int) -> None:
    """Train one step on the settings in the file `config`, validate, and save what came out to `result`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    model = WritingDiarizer(cfg=OmegaConf.load(config), trainer=trainer)
    trainer.fit(model)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
    if trainer.global_rank == 0:
        torch.save({"gradients": model.gradients, "metrics": metrics, "world": trainer.world_size}, result)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
