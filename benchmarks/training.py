# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Training steps of our diarizer beside NeMo's, same size, batch and weights: `python -m benchmarks.training`.

On a GPU: `python -m benchmarks.training --device cuda --dtype bf16 --recompute --compile --fp8`. Steps are those of
`benchmarks/training_step.py`. "memory" is the peak of a step, without what the weights and the optimizer's state take
before it. Ratios above one are in our favour. With float8, all else is in bf16. What cannot run here is left out with
its reason. `--layers 2 --seconds 8 --batch 1` is the small form for a CPU.

`--waits` counts the operations of a step that make the host wait for the GPU.
`--longest` doubles the length of a session at batch 1 until memory ends.
Losses in each precision over many steps: `python -m benchmarks.training_curves`.
"""

import argparse
import json
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from nemo.utils import logging

from benchmarks.timing import best_seconds, peak_bytes, report
from benchmarks.training_step import make_batch, make_step, why_no_float8

LIMIT_SECONDS = 4 * 3600.0
WAITING = ("aten::_local_scalar_dense", "aten::item", "cudaStreamSynchronize", "cudaDeviceSynchronize")


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[90.0], help="lengths of the recordings")
    parser.add_argument("--batch", type=int, default=4, help="recordings per step")
    parser.add_argument("--layers", type=int, default=18, help="layers of each encoder; 18 is the published size")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the shortest time is taken")
    parser.add_argument("--recompute", action="store_true", help="ours with activation checkpointing as well")
    parser.add_argument("--compile", action="store_true", help="ours compiled as well")
    parser.add_argument("--fp8", action="store_true", help="ours with layers in float8 over bf16 as well")
    parser.add_argument("--waits", action="store_true", help="operations that make the host wait, instead")
    parser.add_argument("--longest", action="store_true", help="the longest session at batch 1, instead")
    arguments = parser.parse_args()
    logging.setLevel(logging.ERROR)
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if arguments.device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            run(arguments)
        finally:
            dist.destroy_process_group()


def run(arguments: argparse.Namespace) -> None:
    """Choose the measurement."""
    if arguments.waits:
        print(json.dumps({"benchmark": "training waits", "calls": waits(arguments)}))
    elif arguments.longest:
        rows = [{"model": name, "longest session [s]": longest(arguments, name)} for name in ("NeMo", "ours")]
        report("longest session", rows, dtype=arguments.dtype, layers=arguments.layers, device=arguments.device)
    else:
        rows = [row for seconds in arguments.seconds for row in compare(arguments, seconds)]
        settings = {"batch": arguments.batch, "layers": arguments.layers, "dtype": arguments.dtype, "seed": 0}
        report("training", rows, **settings, device=arguments.device, rounds=arguments.rounds)


def compare(arguments: argparse.Namespace, seconds: float) -> list[dict[str, object]]:
    """All models on one batch, a row each. They take turns, each alone in memory while its peak is taken."""
    batch = make_batch(arguments.batch, seconds, arguments.device)
    rows: list[dict[str, object]] = []
    for name, options in forms(arguments).items():
        missing = why_no_float8() if "fp8" in options else None
        row: dict[str, object] = {"recordings [s]": seconds, "model": name}
        row |= dict.fromkeys(("recordings/s", "memory [MB]", "speed ratio", "memory ratio"))
        row["left out, as"] = missing
        if missing is None:
            step = make_step(arguments.device, arguments.layers, **options)
            spent = best_seconds({name: lambda step=step: step(batch)}, arguments.rounds)[name]
            memory = peak_bytes(lambda step=step: step(batch)) / 1e6
            row |= {"recordings/s": arguments.batch / spent, "memory [MB]": memory}
            del step
            if arguments.device == "cuda":
                torch.cuda.empty_cache()
            if rows:
                row["speed ratio"] = row["recordings/s"] / rows[0]["recordings/s"]
                row["memory ratio"] = rows[0]["memory [MB]"] / memory if memory else None
        rows.append(row)
    return rows


def forms(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Names of the models to compare, NeMo's first, and what :func:`make_step` takes for each."""
    dtype = {"dtype": arguments.dtype}
    found = {"NeMo": dtype | {"nemo": True}, "ours": dtype}
    if arguments.recompute:
        found["ours, recomputed"] = dtype | {"activation_checkpointing": True}
    if arguments.compile:
        found["ours, compiled"] = dtype | {"compile": True}
    if arguments.fp8:
        found["ours, float8"] = {"dtype": "bf16", "fp8": "on"}
        if arguments.compile:
            found["ours, float8, compiled"] = {"dtype": "bf16", "fp8": "on", "compile": True}
    return found


def waits(arguments: argparse.Namespace) -> dict[str, dict[str, int]]:
    """How often a step of either model does what makes the host wait; the first steps are not counted."""
    batch = make_batch(arguments.batch, arguments.seconds[0], arguments.device)
    found = {}
    for name in ("NeMo", "ours"):
        step = make_step(arguments.device, arguments.layers, arguments.dtype, nemo=name == "NeMo")
        for _ in range(2):
            step(batch)
        with torch.profiler.profile() as profile:
            step(batch)
        counts = {event.key: event.count for event in profile.key_averages()}
        found[name] = {key: counts.get(key, 0) for key in WAITING}
    return found


def longest(arguments: argparse.Namespace, name: str) -> float:
    """Seconds of the longest session that a step fits into memory, to a tenth; a GPU only."""
    if arguments.device != "cuda":
        raise SystemExit("--longest fills the memory of a GPU: add --device cuda.")
    step = make_step(arguments.device, arguments.layers, arguments.dtype, nemo=name == "NeMo")

    def fits(seconds: float) -> bool:
        try:
            step(make_batch(1, seconds, arguments.device))
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return True

    low = 30.0
    while low < LIMIT_SECONDS and fits(2 * low):
        low *= 2
    high = 2 * low
    while high / low > 1.1:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


if __name__ == "__main__":
    main()
