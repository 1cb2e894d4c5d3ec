# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What all benchmarks share: seconds and peak memory of a call, the machine and commit, and one form of report."""

import ctypes
import gc
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch


def median_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Median wall-clock time of `repeats` calls, after one that is not counted."""
    function()
    return median(one_call(function) for _ in range(repeats))


def best_seconds(
    functions: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Shortest time of each function: all take turns, so that a slow phase of the machine hits all alike.

    In its turn a function is called at least five times and for 20 ms, but no longer than half a second if it can be
    helped. After ten seconds in all it is not called again. `clock` may be one that does not run while others have the
    processor, as `time.thread_time` for one thread.
    """
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            if sum(times[name]) > 10:
                continue
            turn = [one_call(function, clock)]
            while sum(turn) < 0.5 and (len(turn) < 5 or sum(turn) < 0.02):
                turn.append(one_call(function, clock))
            times[name] += turn
    return {name: min(spent) for name, spent in times.items()}


def one_call(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call by a clock, the work of the GPU included."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    start = clock()
    function()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock() - start


def peak_bytes(function: Callable[[], object]) -> int:
    """Growth of memory during one call: torch's count on a GPU in use, else the resident set (Linux; 0 elsewhere)."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return 0
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed goes back to the system, so that it is not hidden
    reset.write_text("5")  # resets the high-water mark
    before = resident_bytes("VmRSS")
    function()
    return max(resident_bytes("VmHWM") - before, 0)


def resident_bytes(field: str, process: int | str = "self") -> int:
    """Memory that a process holds (`VmRSS`) or held at most (`VmHWM`); 0 where it is gone, or without Linux."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def machine() -> str:
    """Processor, cores in use, GPU and versions, in one line."""
    parts = [_processor(), f"{torch.get_num_threads()} of {os.cpu_count()} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}", f"NeMo {version('nemo_toolkit')}"])


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The checkout's commit, with "+" where tracked files were changed since; "unknown" outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + ("+" if changed.returncode else "")


def report(name: str, rows: Sequence[Mapping[str, object]], **settings: object) -> None:
    """Print the rows, which have the same keys, as a Markdown table, and everything again as one line of JSON."""
    print(f"{name}: {machine()}, commit {commit()}; " + ", ".join(f"{key} {value}" for key, value in settings.items()))
    print()
    print(markdown(rows))
    results = [{key: _rounded(value) for key, value in row.items()} for row in rows]
    print(json.dumps({"benchmark": name, "machine": machine(), "commit": commit(), **settings, "rows": results}))


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows that have the same keys as a Markdown table."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _rounded(value: object) -> object:
    """Four digits of a measured number say all it knows."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)
