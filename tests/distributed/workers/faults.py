# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Training where something is uneven or goes wrong; which of the cases below is the second argument."""

import os
import signal
import sys

import torch
from lightning.pytorch import Callback
from nemo.utils import logging
from small import RANK, Batches, Diarizer, collate, everyone, new_model, recordings, save, settings, train

logging.setLevel(logging.WARNING)
BATCHES = [recordings(number, seconds=(0.96, 1.28)) for number in range(4)]
VALIDATION = [collate(recordings(90 + number, seconds=(1.28 + 0.32 * number,))) for number in range(3)]


class Stream(torch.utils.data.IterableDataset):
    """Batches whose number nobody knows beforehand."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Uneven(Diarizer):
    """Two of three validation batches are those of process 0; a third loader gives process 1 all of them."""

    unsized = False

    def val_dataloader(self):
        shares = [VALIDATION[RANK::2], VALIDATION if RANK == 1 else []]
        kind = Stream if self.unsized else Batches
        return [torch.utils.data.DataLoader(kind(share), batch_size=None) for share in shares]


class UnevenStream(Uneven):
    """The same, and training data that end first on process 1."""

    unsized = True

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Stream(self.data[: 4 - RANK]), batch_size=None)


class Die(Callback):
    """Process 1 is killed after the first step."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        if RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def by_hand():
    """Validation of all three batches in one process."""
    model = new_model(settings()).eval()
    model.encoder.sync_max_audio_length = False
    metrics = model._evaluation_metrics()
    with torch.no_grad():
        for batch in VALIDATION:
            _, parts, (output, targets, lengths) = model.compute_losses(batch)
            counts = model._counts_of(parts, targets, lengths)
            for name, part in parts.items():
                metrics[f"loss_{name}"].update(part, counts[name])
            model._update_frame_metrics(metrics, output.probs, targets, lengths)
    for metric in metrics.values():
        metric.distributed_available_fn = bool  # says no
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def uneven(kind):
    """Validate without having learnt anything, then train to the end of an epoch."""
    optim = {"name": "sgd", "lr": 0.0}
    options = {"max_epochs": 1, "max_steps": -1} if kind is UnevenStream else {}
    trainer, _, watch = train(settings({"zero_stage": 3}, optim=optim), BATCHES, kind=kind, **options)
    return {
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items() if "val" in name},
        "steps": everyone(len(watch.losses)),
        "wanted": by_hand() if RANK == 0 else None,
    }


if __name__ == "__main__":
    result, case = sys.argv[1:3]
    if case == "uneven":
        save({"sized": uneven(Uneven), "unsized": uneven(UnevenStream)}, result)
    elif case == "die":
        train(settings({"timeout_seconds": 20.0}), BATCHES, callbacks=[Die()])
    elif case == "overflow":
        parallel = {"dtype": "fp16", "fp16_init_scale": 1e38, "fp16_max_skipped_steps": 3}
        train(settings(parallel), BATCHES)
    elif case == "optimizer":
        train(settings({}, optim={"name": "novograd", "lr": 0.1}), BATCHES)
    elif case == "precision":
        train(settings({"dtype": "fp16"}), BATCHES, precision="bf16-mixed")
    elif case == "true precision":
        train(settings({}), BATCHES, precision="bf16-true")
    elif case == "sizes":
        train(settings({"tensor_parallel_size": 2}), BATCHES)
    elif case == "meet":
        train(settings({}), BATCHES)
    elif case == "tied":
        cfg = settings({})
        cfg.encoder.untie_biases = False
        train(cfg, BATCHES)
    elif case == "missing":
        train(settings({}), BATCHES, ckpt=result + ".ckpt")
