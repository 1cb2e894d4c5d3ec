# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Time and memory of targets and losses for 2 to 16 slots beside NeMo's: `python -m benchmarks.targets`.

A batch of 90-second recordings. "sorted" is the sort by arrival, "tied" lets speakers who arrive together take the
order that fits, as NeMo's sorted targets do, "pil" is permutation invariant, by the Hungarian algorithm. Losses run
forward and backward, from logits to their gradient. NeMo lists all permutations: above 6 slots its tensors do not fit
(5 GiB each for 4 recordings and 8 slots), so nothing is measured. A ratio above one is in our favour.
"""

import argparse
import itertools
import warnings
from collections.abc import Callable
from functools import partial

import torch
from nemo.collections.asr.losses.bce_loss import BCELoss
from nemo.collections.asr.parts.utils.asr_multispeaker_utils import get_ats_targets, get_pil_targets
from torch import Tensor

from benchmarks.timing import best_seconds, peak_bytes, report
from nemo_sortformer.functional.losses import (
    permutation_invariant_loss,
    permuted_targets,
    sorted_label_cross_entropy,
    sorted_targets,
)

MOST_NEMO_SLOTS = 6
FRAMES_PER_SECOND = 12.5

Calls = dict[str, Callable[[], object]]


def main() -> None:
    """Measure all numbers of slots and print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8, 12, 16])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=90.0, help="length of each recording")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the shortest time is taken")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # NeMo's loss warns of a deprecated call each time
    frames = round(arguments.seconds * FRAMES_PER_SECOND)
    settings = {"device": arguments.device, "batch": arguments.batch, "frames": frames, "seed": arguments.seed}

    targets, losses = [], []
    for slots in arguments.slots:
        logits, labels = make_batch(arguments.batch, frames, slots, arguments.seed, arguments.device)
        lengths = torch.full((arguments.batch,), frames, device=arguments.device)
        targets.append({"slots": slots, **measure(target_calls(logits, labels), arguments.rounds)})
        losses.append({"slots": slots, **measure(loss_calls(logits, labels, lengths), arguments.rounds)})
    report("targets", targets, **settings)
    print()
    report("losses, forward and backward", losses, **settings)


def make_batch(batch: int, frames: int, slots: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Random logits, and labels that switch on and off about every two seconds, both (batch, frames, slots)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, frames, slots, generator=generator) * 2
    switches = torch.rand(batch, frames, slots, generator=generator) < 0.04
    return logits.to(device), (switches.cumsum(dim=1) % 2).float().to(device)


def target_calls(logits: Tensor, labels: Tensor) -> Calls:
    """The functions that make targets; NeMo's take probabilities."""
    slots = logits.shape[2]
    calls: Calls = {
        "sorted": partial(sorted_targets, logits, labels),
        "tied": partial(sorted_targets, logits, labels, tie_tolerance=0),
        "pil": partial(permuted_targets, logits, labels),
    }
    if slots <= MOST_NEMO_SLOTS:
        probs, orders = torch.sigmoid(logits), permutations(slots, logits.device)
        calls["nemo sorted"] = partial(get_ats_targets, labels, probs, orders)
        calls["nemo pil"] = partial(get_pil_targets, labels, probs, orders)
    return calls


def loss_calls(logits: Tensor, labels: Tensor, lengths: Tensor) -> Calls:
    """The same as losses, from the logits to their gradient."""
    slots = logits.shape[2]
    scores = logits.clone().requires_grad_()

    def ours(loss: Callable[..., Tensor], **options: int) -> None:
        loss(scores, labels, lengths, **options).backward()

    def nemos(make_targets: Callable[..., Tensor], orders: Tensor, bce: BCELoss) -> None:
        probs = torch.sigmoid(scores)
        with torch.no_grad():
            target = make_targets(labels, probs, orders)
        bce(probs=probs, labels=target, target_lens=lengths).backward()

    calls: Calls = {
        "sorted": partial(ours, sorted_label_cross_entropy),
        "tied": partial(ours, sorted_label_cross_entropy, tie_tolerance=0),
        "pil": partial(ours, permutation_invariant_loss),
    }
    if slots <= MOST_NEMO_SLOTS:
        orders, bce = permutations(slots, logits.device), BCELoss()
        calls["nemo sorted"] = partial(nemos, get_ats_targets, orders, bce)
        calls["nemo pil"] = partial(nemos, get_pil_targets, orders, bce)
    return calls


def permutations(slots: int, device: torch.device) -> Tensor:
    """All orders of the slots, which NeMo's model makes once."""
    return torch.tensor(list(itertools.permutations(range(slots))), device=device)


def measure(calls: Calls, rounds: int) -> dict[str, float | None]:
    """Milliseconds, MiB and ratios of one table row."""
    seconds = best_seconds(calls, rounds)
    memory = {name: peak_bytes(call) / 2**20 for name, call in calls.items()}
    row: dict[str, float | None] = {}
    for name in ("sorted", "tied", "pil", "nemo sorted", "nemo pil"):
        row[f"{name} ms"] = 1e3 * seconds[name] if name in seconds else None
    for name in ("sorted", "pil", "nemo sorted", "nemo pil"):
        row[f"{name} MiB"] = memory.get(name)
    for ours, theirs in (("sorted", "nemo sorted"), ("tied", "nemo sorted"), ("pil", "nemo pil"), ("sorted", "pil")):
        row[f"{theirs} / {ours}"] = seconds[theirs] / seconds[ours] if theirs in seconds else None
    return row


if __name__ == "__main__":
    main()
