# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What the order of the labels costs, for 2 to 64 slots: `python -m benchmarks.sorting_cost`.

Four ways to find the target of a batch of 90-second recordings: brute force over all S! orders, assignment in
O(S^3), comparison sort in O(S log S), counting sort in O(T). Brute force works on the S x S table of costs, so it
holds S! numbers per recording and not frames times as many; above 8 slots even these are too many. Both sorts leave
ties in input order; "ours" is the library's comparison sort, whose rule for ties costs something. Beside the order
alone (arrivals or costs given) stand the whole target, and the loss forward and backward, from logits to their
gradient: what a training step pays. `--out docs/sorting_cost.json` keeps all of it.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.page_blocks import fill_blocks
from benchmarks.targets import make_batch
from benchmarks.timing import best_seconds, commit, machine, markdown, peak_bytes, report
from nemo_sortformer.functional.arrival import arrival_frames, arrival_order, gather_columns
from nemo_sortformer.functional.losses import masked_bce, sorted_targets
from nemo_sortformer.functional.permutation import best_assignment, pairwise_bce

MOST_BRUTE_SLOTS = 8
TIE = 1.25
"""Two times whose ratio is at most this are called a tie."""
WAYS = ("brute", "assignment", "comparison", "counting", "ours")
FRAMES_PER_SECOND = 12.5
Calls = dict[str, Callable[[], object]]


def main() -> None:
    """Measure all numbers of slots, print three tables, and write everything to a file where one is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=90.0, help="length of each recording")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the shortest time is taken")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for all of it")
    parser.add_argument("--page", type=Path, help="a page whose blocks `<!-- cost: loss -->` are filled")
    arguments = parser.parse_args()
    frames = round(arguments.seconds * FRAMES_PER_SECOND)
    settings = {"device": arguments.device, "batch": arguments.batch, "frames": frames, "seed": arguments.seed}
    tables: dict[str, list[dict[str, object]]] = {"order": [], "target": [], "loss, forward and backward": []}
    for slots in arguments.slots:
        logits, labels = make_batch(arguments.batch, frames, slots, arguments.seed, arguments.device)
        for name, make_calls in zip(tables, (order_calls, target_calls, loss_calls), strict=True):
            tables[name].append({"slots": slots, **measure(make_calls(logits, labels), arguments.rounds)})
    for name, rows in tables.items():
        report(name, rows, **settings)
        print()
    if arguments.out is not None:
        record = {"machine": machine(), "commit": commit(), **settings, "tables": tables}
        arguments.out.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")
    if arguments.page is not None:
        page = fill_blocks(arguments.page.read_text(encoding="utf-8"), "cost", page_tables(tables))
        arguments.page.write_text(page, encoding="utf-8")


def page_tables(tables: Mapping[str, Sequence[Mapping[str, object]]]) -> dict[str, str]:
    """The tables that a page can show, by the first word of their names."""
    return {name.split(",")[0]: markdown(rows) for name, rows in tables.items()}


def order_calls(logits: Tensor, labels: Tensor) -> Calls:
    """The order alone: arrivals, or the table of costs, are given."""
    cost, arrival = pairwise_bce(logits, labels), arrival_frames(labels)
    calls: Calls = {
        "assignment": partial(best_assignment, cost),
        "comparison": lambda: arrival.argsort(dim=1, stable=True),
        "counting": partial(counting_order, arrival, labels.shape[1]),
        "ours": partial(arrival_order, labels),  # finds the arrivals itself
    }
    return _with_brute(calls, labels.shape[2], partial(brute_force_order, cost))


def target_calls(logits: Tensor, labels: Tensor) -> Calls:
    """From labels (and logits, where the target depends on them) to the target."""
    calls: Calls = {
        "assignment": lambda: gather_columns(labels, best_assignment(pairwise_bce(logits, labels))),
        "comparison": lambda: gather_columns(labels, arrival_frames(labels).argsort(dim=1, stable=True)),
        "counting": lambda: gather_columns(labels, counting_order(arrival_frames(labels), labels.shape[1])),
        "ours": partial(sorted_targets, logits, labels),
    }
    brute = lambda: gather_columns(labels, brute_force_order(pairwise_bce(logits, labels)))  # noqa: E731
    return _with_brute(calls, labels.shape[2], brute)


def loss_calls(logits: Tensor, labels: Tensor) -> Calls:
    """From logits to their gradient."""
    scores = logits.clone().requires_grad_()

    def step(make_target: Callable[[], object]) -> None:
        masked_bce(scores, make_target()).backward()  # type: ignore[arg-type]

    return {name: partial(step, call) for name, call in target_calls(logits, labels).items()}


def counting_order(arrival: Tensor, frames: int) -> Tensor:
    """Sort columns by arrival without comparing two of them: each marks its own place on the line of time.

    Args:
        arrival: frame of each column's arrival in [0, frames], shape (batch, slots).
        frames: T.

    Returns:
        Entry r is the column that arrives r-th, ties in input order, shape (batch, slots), int64.
    """
    batch, slots = arrival.shape
    place = arrival * slots + torch.arange(slots, device=arrival.device)
    line = torch.zeros(batch, (frames + 1) * slots, dtype=torch.int32, device=arrival.device)
    line.scatter_(1, place, 1)
    rank = line.cumsum(dim=1).gather(1, place) - 1
    return torch.empty_like(rank).scatter_(1, rank, torch.arange(slots, device=arrival.device).expand_as(rank))


def brute_force_order(cost: Tensor) -> Tensor:
    """The best of all orders by trying each; `cost` (batch, slots, slots) -> (batch, slots), as `best_assignment`."""
    orders = all_orders(cost.shape[1]).to(cost.device)
    total = cost.new_zeros(cost.shape[0], len(orders))
    for slot in range(cost.shape[1]):
        total += cost[:, slot, orders[:, slot]]
    return orders[total.argmin(dim=1)]


@cache
def all_orders(slots: int) -> Tensor:
    """All orders of the slots, shape (slots!, slots), made once as a model would."""
    return torch.tensor(list(itertools.permutations(range(slots))))


def _with_brute(calls: Calls, slots: int, brute: Callable[[], object]) -> Calls:
    return {"brute": brute, **calls} if slots <= MOST_BRUTE_SLOTS else calls


def measure(calls: Calls, rounds: int) -> dict[str, object]:
    """Milliseconds and MiB of each way, assignment over comparison sort, and what that says."""
    seconds = best_seconds(calls, rounds)
    row: dict[str, object] = {f"{w} ms": 1e3 * seconds[w] if w in seconds else None for w in WAYS}
    row |= {f"{w} MiB": peak_bytes(calls[w]) / 2**20 if w in calls else None for w in WAYS}
    row["assignment / comparison"] = seconds["assignment"] / seconds["comparison"]
    row["assignment / ours"] = seconds["assignment"] / seconds["ours"]
    row["comparison / counting"] = seconds["comparison"] / seconds["counting"]
    row["fastest"] = fastest({way: seconds[way] for way in seconds if way != "ours"})
    return row


def fastest(seconds: Mapping[str, float]) -> str:
    """The fastest way, or all that tie with it.

    Example:
        >>> fastest({"brute": 9.0, "assignment": 1.2, "comparison": 1.0})
        'tie: comparison, assignment'
    """
    ranked: Sequence[str] = sorted(seconds, key=lambda way: seconds[way])
    near = [way for way in ranked if seconds[way] <= TIE * seconds[ranked[0]]]
    return near[0] if len(near) == 1 else "tie: " + ", ".join(near)


if __name__ == "__main__":
    main()
