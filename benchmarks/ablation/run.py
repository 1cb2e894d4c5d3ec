# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One run: build the system, train it, test it on seen and unseen classes, on longer recordings, in other modes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.ablation.settings import AblationConfig, Run
from nemo_sortformer.data.prototypes import PrototypeBatch, PrototypeTask
from nemo_sortformer.functional.arrival import sort_by_arrival
from nemo_sortformer.functional.counts import der_counts, speaker_count_counts
from nemo_sortformer.models.labeler import SortformerLabeler

TRAIN_SEED, TEST_SEED = 1000, 77
TEST_BATCH = 32

Rates = dict[str, float]


def run_one(config: AblationConfig, run: Run, on_step: Callable[[int], None] = lambda step: None) -> dict[str, Any]:
    """Train and test one system.

    Args:
        config: all settings.
        run: which system, loss, pool and seed.
        on_step: called with the number of each finished step.

    Returns:
        What grid.py writes: curves, test results, parameters, seconds.
    """
    start = time.perf_counter()
    task = replace(config.task, pool_size=run.pool)
    torch.manual_seed(run.seed)
    model = build_labeler(config, run)
    curve = _train(model, config, run, task, on_step)
    frames, recordings = config.train.frames, config.test_recordings
    return {
        "run": {"system": run.system, "loss": run.loss, "pool": run.pool, "seed": run.seed},
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "curve": curve,
        "seen": evaluate(model, draw_tests(task, frames, recordings["1"], unseen=False)),
        "unseen": evaluate_lengths(model, config, task),
        "by_classes": evaluate_by_classes(model, draw_tests(task, frames, recordings["1"], unseen=True)),
        "same_weights": _other_modes(model, config, run, task),
        "seconds": time.perf_counter() - start,
    }


def build_labeler(config: AblationConfig, run: Run, **encoder: Any) -> SortformerLabeler:
    """The labeler of a run, with other keys of the encoder where they are given."""
    system = config.systems[run.system]
    settings: dict[str, Any] = {
        "input_dim": config.task.dim,
        "max_num_of_classes": config.task.num_slots,
        "encoder": {**system.encoder, **encoder},
        "loss": {**config.losses[run.loss], **system.loss},
    }
    if system.head is not None:
        settings["head"] = system.head
    return SortformerLabeler(cfg=OmegaConf.create(settings))


def _train(
    model: SortformerLabeler, config: AblationConfig, run: Run, task: PrototypeTask, on_step: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Train, and give the learning curve."""
    train = config.train
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=train.lr, betas=(0.9, 0.98), weight_decay=train.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, train.warmup_steps, train.steps)
    )
    generator = torch.Generator().manual_seed(TRAIN_SEED + run.seed)
    lengths = torch.full((train.batch_size,), train.frames)
    tests = {
        name: draw_tests(task, train.frames, train.curve_recordings, unseen=name == "unseen")
        for name in ("seen", "unseen")
    }
    curve: list[dict[str, Any]] = []
    losses: list[float] = []
    for step in range(1, train.steps + 1):
        model.train()
        data = task.draw(train.batch_size, train.frames, generator)
        loss = model.compute_losses((data.embeddings, lengths, data.labels, lengths))[0]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_gradient_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % train.curve_every == 0 or step == train.steps:
            point = {name: evaluate(model, data) for name, data in tests.items()}
            curve.append({"step": step, "train_loss": sum(losses) / len(losses), **point})
            losses.clear()
        on_step(step)
    return curve


def learning_rate(step: int, warmup_steps: int, steps: int) -> float:
    """The learning rate as a share of the largest: linear warm-up, then half a cosine down to 1 %."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def _other_modes(model: SortformerLabeler, config: AblationConfig, run: Run, task: PrototypeTask) -> dict[str, Any]:
    """Test the same weights in encoders with other keys, e.g. a causal one as an offline one."""
    results = {}
    for name, encoder in config.systems[run.system].same_weights.items():
        other = build_labeler(config, run, **encoder)
        other.load_state_dict(model.state_dict())
        results[name] = evaluate_lengths(other, config, task)
    return results


def draw_tests(task: PrototypeTask, frames: int, recordings: int, *, unseen: bool) -> PrototypeBatch:
    """Test recordings, the same for every run of one task."""
    return task.draw(recordings, frames, torch.Generator().manual_seed(TEST_SEED), unseen=unseen)


def predict(model: SortformerLabeler, embeddings: Tensor) -> Tensor:
    """Probabilities (recordings, frames, slots) of recordings of equal length (recordings, frames, dim)."""
    model.eval()
    with torch.no_grad():
        return torch.cat(
            [
                model(embeddings=x, lengths=torch.full((len(x),), x.shape[1])).probs
                for x in embeddings.split(TEST_BATCH)
            ]
        )


def evaluate(model: SortformerLabeler, tests: PrototypeBatch) -> Rates:
    """Error rates of a model; see :func:`error_rates`."""
    return error_rates(predict(model, tests.embeddings), tests.labels)


def evaluate_lengths(model: SortformerLabeler, config: AblationConfig, task: PrototypeTask) -> dict[str, Rates]:
    """The error rates on unseen classes, by length in training lengths."""
    return {
        times: evaluate(model, draw_tests(task, int(times) * config.train.frames, count, unseen=True))
        for times, count in config.test_recordings.items()
    }


def error_rates(probs: Tensor, labels: Tensor) -> Rates:
    """Error of probabilities against labels in any column order, both (recordings, frames, slots).

    Returns:
        Shares of the active frames: "as_is", slot k against the k-th to arrive; "mapped", after the best one-to-one
        mapping; "self_sorted", after the columns have been put in the order of their own arrival; and "count", the
        share of recordings whose number of classes is right.
    """
    right, recordings = speaker_count_counts(probs, labels).tolist()
    return {
        "as_is": _rate_of(der_counts(probs, labels, as_is=True)),
        "mapped": _rate_of(der_counts(probs, labels)),
        "self_sorted": _rate_of(der_counts(sort_by_arrival(probs), labels, as_is=True)),
        "count": right / recordings,
    }


def evaluate_by_classes(model: SortformerLabeler, tests: PrototypeBatch) -> dict[str, Rates]:
    """The error rates of the recordings with 1, 2, ... classes, where there are any."""
    probs = predict(model, tests.embeddings)
    classes = (tests.labels > 0.5).any(dim=1).sum(dim=1)
    chosen = {str(number): classes == number for number in classes.unique().tolist() if number}
    return {number: error_rates(probs[rows], tests.labels[rows]) for number, rows in chosen.items()}


def _rate_of(counts: Tensor) -> float:
    *errors, scored = counts.tolist()
    return sum(errors) / max(scored, 1)
