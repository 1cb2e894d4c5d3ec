# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Trains five steps in each of the given layouts, and once by hand in one process; saves what came out of each."""

import sys

import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from nemo.utils import logging
from small import (
    RANK,
    WORLD,
    Diarizer,
    DoubleDiarizer,
    Half,
    collate,
    everyone,
    local_bytes,
    mean_over_processes,
    recordings,
    reference,
    save,
    settings,
    train,
    whole_state,
)

import nemo_sortformer.models.shared.steps as steps

logging.setLevel(logging.ERROR)
STEPS = 5
SECONDS = (1.6, 2.4, 0.96, 2.0)
OPTIM = {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01, "eps": 1e-4}
"""With the usual `eps` Adam makes whole steps of gradients that are zero but for rounding, as that of a key's bias."""
BATCHES = [recordings(number, seconds=SECONDS, silent=(1,) if number == 2 else ()) for number in range(STEPS)]
"""In step 2 the second recording, which is all that process 1 of 4 has, is silent."""
VALIDATION = [recordings(90 + number, seconds=(1.6, 2.4, 0.96, 1.28)) for number in range(2)]


class Overflow(Callback):
    """Plants an infinite gradient, on process 1 only, in the third step."""

    def on_after_backward(self, trainer, pl_module):
        if RANK == 1 and trainer.global_step == 2:
            part = pl_module.sortformer_modules.single_hidden_to_spks.weight.grad.to_local()
            part.view(-1)[:1] = float("inf")


class NoAllReduce(Callback):
    """A broken layout: copies do not add up their gradients."""

    def on_train_start(self, trainer, pl_module):
        trainer.strategy.model.require_backward_grad_sync = False


AFFINITY = {"dim": 8, "weight": 0.5, "max_frames": 64}
"""Its loss compares embeddings that are much alike before training: differences of nearly equal numbers. A sum in
another order then changes the gradient by 1e-6, and in five steps by 1e-5. So layouts are compared without it, or with
it in float64."""
DOUBLE = {"affinity": AFFINITY, "kind": DoubleDiarizer}
SMOOTH = {"state_encoder": "TransformerStateEncoder", "loss": {"pil_weight": 0.0}}
"""Where rounding makes no other order of speakers the best one: what is left is the rounding of each value."""


LAYOUTS = {
    "ddp": {"strategy": "ddp"},
    "zero0": {"parallel": {"zero_stage": 0}},
    "zero1": {"parallel": {"zero_stage": 1}},
    "zero2": {"parallel": {"zero_stage": 2}},
    "zero3": {"parallel": {"zero_stage": 3}},
    "zero3 clipped": {"parallel": {"zero_stage": 3}, "clip": 0.5},
    "zero1 accumulated": {"parallel": {"zero_stage": 1}, "accumulate": 2},
    "zero3 accumulated": {"parallel": {"zero_stage": 3}, "accumulate": 2},
    "recomputed": {"parallel": {"zero_stage": 3, "activation_checkpointing": True}},
    "transformer": {"parallel": {"zero_stage": 3}, "state_encoder": "TransformerStateEncoder"},
    "hybrid": {"parallel": {"zero_stage": 3, "replicate_size": 2}},
    "hybrid accumulated": {"parallel": {"zero_stage": 2, "replicate_size": 2}, "accumulate": 2},
    "tensor": {"parallel": {"tensor_parallel_size": 2}, "clip": 0.5},
    "tensor sequence": {"parallel": {"tensor_parallel_size": 2, "sequence_parallel": True, "zero_stage": 3}},
    "ddp affinities": {"strategy": "ddp", **DOUBLE},
    "zero3 affinities": {"parallel": {"zero_stage": 3}, **DOUBLE},
    "hybrid affinities": {"parallel": {"zero_stage": 3, "replicate_size": 2}, **DOUBLE},
    "zero3 affinities in float32": {"parallel": {"zero_stage": 3}, "affinity": AFFINITY},
    "bf16": {"parallel": {"dtype": "bf16", "zero_stage": 0}, **SMOOTH},
    "bf16 zero3": {"parallel": {"dtype": "bf16", "zero_stage": 3}, "affinity": AFFINITY},
    "fp16": {"parallel": {"dtype": "fp16", "zero_stage": 2, "fp16_init_scale": 1024.0}},
    "fp16 overflow": {
        "parallel": {"dtype": "fp16", "zero_stage": 2},
        "callbacks": [Overflow],
        "skip": 2,
        "optim": OPTIM | {"sched": {"name": "StepLR", "step_size": 1, "gamma": 0.5}},
        **SMOOTH,
    },
    "no all-reduce": {"strategy": "ddp", "callbacks": [NoAllReduce]},
    "no frame counts": {"strategy": "ddp", "plain_mean": True},
}


def changes(layout):
    """The settings of the model in a layout."""
    names = ("state_encoder", "loss", "optim", "affinity")
    return {"optim": OPTIM, "affinity": None} | {name: layout[name] for name in names if name in layout}


def evaluate(model):
    """Validation by hand, in one process."""
    model.eval()
    metrics = model._evaluation_metrics()
    for metric in metrics.values():
        metric.distributed_available_fn = bool  # says no
    with torch.no_grad():
        for items in VALIDATION:
            _, parts, (output, targets, lengths) = model.compute_losses(collate(items))
            counts = model._counts_of(parts, targets, lengths)
            for name, part in parts.items():
                metrics[f"loss_{name}"].update(part, counts[name])
            model._update_frame_metrics(metrics, output.probs, targets, lengths)
    return {f"val_{name}": float(metric.compute()) for name, metric in metrics.items()}


def run(name):
    """Train in one layout; what process 0 keeps of it."""
    layout = dict(LAYOUTS[name])
    options = {}
    if "accumulate" in layout:
        options["accumulate_grad_batches"] = layout["accumulate"]
        options["max_steps"] = STEPS // layout["accumulate"]
    if "clip" in layout:
        options["gradient_clip_val"] = layout["clip"]
    cfg = settings(layout.get("parallel"), **changes(layout))
    weigh = steps.rank_weights
    if layout.get("plain_mean"):
        steps.rank_weights = torch.ones_like
    try:
        trainer, model, watch = train(
            cfg,
            BATCHES,
            strategy=layout.get("strategy", "nemo_sortformer"),
            validation=VALIDATION,
            kind=layout.get("kind", Diarizer),
            callbacks=[callback() for callback in layout.get("callbacks", [])],
            check_val_every_n_epoch=None,
            val_check_interval=4 if "accumulate" in layout else STEPS,
            **options,
        )
    finally:
        steps.rank_weights = weigh
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    states = [value for state in trainer.optimizers[0].state.values() for value in state.values() if value.dim()]
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    weights = whole_state(model)
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    return {
        "losses": [loss * layout.get("accumulate", 1) for loss in mean_over_processes(watch.losses)],
        "gradients": watch.gradients,
        "weights": weights,
        "metrics": {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val_")},
        "checksums": everyone([float(value.double().abs().sum()) for value in weights.values()]),
        "parameters": sum(parameter.numel() for parameter in trained),
        "parameter_bytes": everyone(local_bytes(trained)),
        "state_bytes": everyone(local_bytes(states)),
        "dtypes": {str(parameter.dtype) for parameter in trained},
        "skipped": None if scaler is None else everyone(scaler.skipped_steps),
        "schedule": [(one.last_epoch, one.get_last_lr()[0]) for one in schedules],
        "scale": None if scaler is None else everyone(scaler.scale),
    }


def rounding(name):
    """How a layout in half precision rounds."""
    parallel = LAYOUTS[name].get("parallel", {})
    if parallel.get("dtype") == "bf16":
        return Half(torch.bfloat16, WORLD)
    scale = parallel.get("fp16_init_scale", 65536.0)
    return Half(torch.float16, WORLD, scale) if parallel.get("dtype") == "fp16" else None


def by_hand(name, half=None):
    """The reference of a layout."""
    layout = LAYOUTS[name]
    batches = list(BATCHES)
    if "accumulate" in layout:
        batches = batches[: STEPS // layout["accumulate"] * layout["accumulate"]]
    result = reference(
        settings(**changes(layout)),
        batches,
        accumulate=layout.get("accumulate", 1),
        clip=layout.get("clip"),
        skip=layout.get("skip"),
        kind=layout.get("kind", Diarizer),
        half=half,
    )
    result["metrics"] = evaluate(result.pop("model"))
    return result


if __name__ == "__main__":
    results, references = {}, {}
    for name in sys.argv[2:]:
        results[name] = run(name)
        key = tuple(LAYOUTS[name].get(part) for part in ("accumulate", "clip", "skip", "state_encoder"))
        key += (str(changes(LAYOUTS[name])), LAYOUTS[name].get("kind"))
        if RANK == 0:
            references.setdefault(key, None)
            references[key] = references[key] or by_hand(name)
            results[name]["reference"] = references[key]
            if rounding(name) is not None:
                results[name]["rounded"] = by_hand(name, rounding(name))
        dist.barrier()
    save(results, sys.argv[1])
