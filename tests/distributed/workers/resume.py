# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One leg of a run: trains from a checkpoint, or from the start, to a step; saves a checkpoint, .nemo and numbers.

resume.py RESULT LEG [LEG ...]     with LEG = '{"parallel": {...}, "steps": 5, "from": ..., "to": ..., ...}'
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from nemo.utils import logging
from small import (
    RANK,
    WORLD,
    Diarizer,
    Watch,
    collate,
    mean_over_processes,
    recordings,
    save,
    settings,
    whole_state,
)

from nemo_sortformer.data.loaders import EpochSampler

logging.setLevel(logging.ERROR)
BATCH = 2
OPTIM = {
    "name": "adamw",
    "lr": 2e-3,
    "eps": 1e-4,
    "sched": {"name": "CosineAnnealing", "warmup_steps": 2, "max_steps": 12},
}
ITEMS = [item for number in range(4) for item in recordings(number, seconds=(1.28, 1.28, 1.28, 1.28))]
"""16 recordings: four steps an epoch, whoever reads which."""


class Recordings(torch.utils.data.Dataset):
    """The recordings, one by one."""

    def __len__(self):
        return len(ITEMS)

    def __getitem__(self, index):
        return ITEMS[index]


class Shuffled(Diarizer):
    """Reads the recordings shuffled anew each epoch, as our loaders do."""

    def train_dataloader(self):
        share = self.trainer.strategy.distributed_sampler_kwargs
        sampler = EpochSampler(Recordings(), shuffle=True, seed=3, **share)
        size = 4 // share["num_replicas"]
        return torch.utils.data.DataLoader(Recordings(), batch_size=size, sampler=sampler, collate_fn=collate)


class Stop(Callback):
    """Ends a run before its last step, which the schedule knows of."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, pl_module, *_):
        trainer.should_stop = trainer.global_step >= self.steps


class SaveAt(Callback):
    """Saves in the middle of a run, which goes on."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


class SlowSave(Callback):
    """Saves after each step; from the second time on, says so and waits with half of the file written."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == 2:
            write = torch.save

            def stuck(value, file, *args, **kwargs):
                write(value, file, *args, **kwargs)
                if not isinstance(file, Path):  # parts are written to streams
                    return
                with open(file, "r+b") as half:
                    half.truncate(os.path.getsize(file) // 2)
                Path(f"{self.path}.writing").touch()
                time.sleep(600)

            torch.save = stuck
        trainer.save_checkpoint(self.path)


def leg(
    parallel,
    steps,
    dropout=0.0,
    norm="layer_norm",
    to=None,
    nemo=None,
    save_at=None,
    slow_save=None,
    die=False,
    **options,
):
    """Run one leg; the mean losses of its steps, the weights, and what else a test looks at."""
    watch = Watch()
    callbacks = [watch, Stop(steps)]
    if save_at:
        callbacks.append(SaveAt(*save_at))
    if slow_save:
        callbacks.append(SlowSave(slow_save))
    if options.get("ema"):
        from nemo.collections.common.callbacks import EMA

        callbacks.append(EMA(decay=options["ema"]))
    trainer = Trainer(
        accelerator="cpu",
        devices=WORLD,
        strategy="nemo_sortformer",
        max_epochs=-1,
        max_steps=8,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=callbacks,
    )
    torch.manual_seed(RANK)  # the weights of process 0 are those of all
    model = Shuffled(cfg=settings(parallel, dropout=dropout, norm=norm, optim=OPTIM), trainer=trainer)
    trainer.fit(model, ckpt_path=options.get("from"))
    if to:
        trainer.save_checkpoint(to)
    if nemo:
        model.save_to(nemo)
    states = trainer.optimizers[0].state_dict()["param_groups"][0]
    result = {
        "losses": mean_over_processes(watch.losses),
        "weights": whole_state(model),
        "learning_rate": states["lr"],
        "scale": getattr(getattr(trainer.precision_plugin, "scaler", None), "scale", None),
    }
    average = trainer.strategy.extra_tensors.get("weight_average")
    if average:
        result["average"] = {name: value.full_tensor() for name, value in average.items()}
    return result


if __name__ == "__main__":
    results = [leg(**json.loads(text)) for text in sys.argv[2:]]
    save(results, sys.argv[1])
