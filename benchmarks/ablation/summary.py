# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Finished runs to numbers: mean and deviation over seeds, errors at equal training error, what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import mean, stdev
from typing import Any

from benchmarks.ablation.settings import AblationConfig, CompareConfig, Run

MEASURES = ("as_is", "mapped", "self_sorted", "count")
COMPARED: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "seen, mapped": lambda result: result["seen"]["mapped"],
    "unseen, as is": lambda result: result["unseen"]["1"]["as_is"],
    "unseen, mapped": lambda result: result["unseen"]["1"]["mapped"],
    "gap": lambda result: result["unseen"]["1"]["mapped"] - result["seen"]["mapped"],
    "2x, as is": lambda result: result["unseen"]["2"]["as_is"],
    "4x, as is": lambda result: result["unseen"]["4"]["as_is"],
    "4x, mapped": lambda result: result["unseen"]["4"]["mapped"],
}
Value = list[float | int]
"""[mean, standard deviation over seeds, number of seeds]; a rate is a share, not a percentage."""


def summarize(config: AblationConfig, results: Mapping[Run, Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that tables, plots and the documentation show, as plain JSON.

    `complete` is true where all runs of the grid are there; else `missing` names the others.
    """
    runs = config.runs()
    missing = [run.name for run in runs if run not in results]
    return {
        "complete": not missing,
        "finished": len(runs) - len(missing),
        "runs": len(runs),
        "missing": missing,
        "seeds": sorted({run.seed for run in runs}),
        "commits": sorted({result["commit"] for result in results.values()}),
        "machines": sorted({result["machine"] for result in results.values()}),
        "task": asdict(config.task),
        "train": asdict(config.train),
        "titles": {name: system.title for name, system in config.systems.items()},
        "parts": {name: _part(config, name, results) for name in config.grid},
        "differences": {name: _differences(config, table, results) for name, table in config.compare.items()},
    }


def _differences(
    config: AblationConfig, table: CompareConfig, results: Mapping[Run, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Error of one minus error of the other, mean and deviation over the seeds that both have."""
    part = config.grid[table.part]
    rows = []
    for pool in part.pools:
        for a, b in table.pairs:
            for same in part.losses if table.by == "system" else part.systems:
                ends = [(x, same) if table.by == "system" else (same, x) for x in (a, b)]
                pairs = [
                    (results[one], results[other])
                    for seed in (config.seeds if part.seeds is None else part.seeds)
                    if (one := Run(*ends[0], pool, seed)) in results
                    and (other := Run(*ends[1], pool, seed)) in results
                ]
                if pairs:
                    changes = {
                        name: difference([read(one) - read(other) for one, other in pairs])
                        for name, read in COMPARED.items()
                        if name[0] not in "24" or name[0] in config.test_recordings
                    }
                    rows.append({"by": table.by, "a": a, "b": b, "same": same, "pool": pool, **changes})
    return rows


def difference(changes: Sequence[float]) -> dict[str, Any]:
    """A change of an error, seed by seed, and what it says: a change of less than its own deviation says nothing.

    Example:
        >>> difference([-0.04, -0.05, -0.06])
        {'change': [-0.05, 0.01, 3], 'says': 'better'}
        >>> difference([-0.04, 0.01, -0.06])["says"]
        'no difference'
    """
    value = spread(changes)
    same_sign = all(change > 0 for change in changes) or all(change < 0 for change in changes)
    if len(changes) < 2 or not same_sign or abs(value[0]) <= value[1]:
        says = "no difference" if len(changes) > 1 else "one seed"
    else:
        says = "better" if value[0] < 0 else "worse"
    return {"change": value, "says": says}


def _part(config: AblationConfig, name: str, results: Mapping[Run, Mapping[str, Any]]) -> dict[str, Any]:
    """One part of the grid: a row for each system, loss and pool that has a finished run."""
    part = config.grid[name]
    seeds = config.seeds if part.seeds is None else part.seeds
    rows, levels = [], {}
    for pool in part.pools:
        groups = []
        for system in part.systems:
            for loss in part.losses:
                done = [results[run] for seed in seeds if (run := Run(system, loss, pool, seed)) in results]
                if done:
                    groups.append((system, loss, done))
        level = equal_level([result["curve"] for _, _, done in groups for result in done])
        levels[str(pool or "all")] = level
        for system, loss, done in groups:
            rows.append({"system": system, "loss": loss, "pool": pool, **_row(done, level)})
    return {"systems": part.systems, "losses": part.losses, "pools": part.pools, "levels": levels, "rows": rows}


def _row(done: Sequence[Mapping[str, Any]], level: float | None) -> dict[str, Any]:
    """The runs of one system with all their seeds."""
    points = range(min(len(result["curve"]) for result in done))
    return {
        "parameters": done[0]["parameters"],
        "seen": {m: spread(r["seen"][m] for r in done) for m in MEASURES},
        "unseen": _nested(done, lambda result: result["unseen"]),
        "by_classes": _nested(done, lambda result: result["by_classes"]),
        "same_weights": {
            mode: _nested(done, lambda result, mode=mode: result["same_weights"][mode])  # type: ignore[misc]
            for mode in done[0]["same_weights"]
        },
        "gap": spread(result["unseen"]["1"]["mapped"] - result["seen"]["mapped"] for result in done),
        "at_equal_training_error": spread(
            value for result in done if (value := unseen_at(result["curve"], level)) is not None
        ),
        "curve": [
            {
                "step": done[0]["curve"][i]["step"],
                **{
                    group: {m: spread(r["curve"][i][group][m] for r in done) for m in ("as_is", "mapped")}
                    for group in ("seen", "unseen")
                },
            }
            for i in points
        ],
    }


def _nested(
    done: Sequence[Mapping[str, Any]], pick: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> dict[str, dict[str, Value]]:
    """The measures under each key that `pick` finds in every run."""
    keys = [key for key in pick(done[0]) if all(key in pick(result) for result in done)]
    return {key: {m: spread(pick(result)[key][m] for result in done) for m in MEASURES} for key in keys}


def spread(values: Iterable[float]) -> Value:
    """Mean, sample standard deviation (0 for one value) and number of values; zeros where there is none.

    Example:
        >>> spread([1.0, 3.0])
        [2.0, 1.4142, 2]
    """
    numbers = list(values)
    if not numbers:
        return [0.0, 0.0, 0]
    deviation = stdev(numbers) if len(numbers) > 1 else 0.0
    return [round(mean(numbers), 4), round(deviation, 4), len(numbers)]


def equal_level(curves: Sequence[Sequence[Mapping[str, Any]]]) -> float | None:
    """The lowest error on seen classes, mapped, that every curve reaches; None without a curve."""
    if not curves:
        return None
    return max(min(point["seen"]["mapped"] for point in curve) for curve in curves)


def unseen_at(curve: Sequence[Mapping[str, Any]], level: float | None) -> float | None:
    """The error on unseen classes, mapped, when the error on seen ones first comes down to `level`.

    Between two points of the curve the error is interpolated. None where the level is never reached.
    """
    if level is None:
        return None
    before = None
    for point in curve:
        seen, unseen = point["seen"]["mapped"], point["unseen"]["mapped"]
        if seen <= level:
            if before is None or before[0] == seen:
                return float(unseen)
            share = (before[0] - level) / (before[0] - seen)
            return float(before[1] + share * (unseen - before[1]))
        before = (seen, unseen)
    return None
