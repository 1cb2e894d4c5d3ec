# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""All runs of the grid, one after the other, each kept as one JSON: to stop the command loses one run at most."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.ablation.run import run_one
from benchmarks.ablation.settings import AblationConfig, Run
from benchmarks.timing import commit, machine
from nemo_sortformer.config import ConfigError

Results = dict[Run, dict[str, Any]]


def finish_grid(
    config: AblationConfig, *, work: Callable[..., dict[str, Any]] = run_one, console: Console | None = None
) -> Results:
    """Do the runs that `config.out` does not have yet, and give all.

    Args:
        config: all settings.
        work: does one run; called as :func:`run_one`.
        console: where the progress is shown; the terminal's standard error where None.

    Raises:
        ConfigError: the folder has a run that was made with other settings.
    """
    results = read_runs(config)
    waiting = [run for run in config.runs() if run not in results]
    torch.set_num_threads(config.threads)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console or Console(stderr=True)
    ) as bar:
        whole = bar.add_task("runs", total=len(results) + len(waiting), completed=len(results))
        for run in waiting:
            steps = bar.add_task(run.name, total=config.train.steps)
            result = work(config, run, lambda step, task=steps: bar.update(task, completed=step))
            result |= {"digest": config.digest(run), "commit": commit(), "machine": machine()}
            _write(path_of(config, run), result)
            results[run] = result
            bar.remove_task(steps)
            bar.advance(whole)
            bar.console.print(
                f"{run.name}: {result['seconds']:.0f} s, unseen as is {100 * result['unseen']['1']['as_is']:.1f} %"
            )
    return {run: results[run] for run in config.runs()}


def read_runs(config: AblationConfig) -> Results:
    """The runs of the grid that are finished.

    Raises:
        ConfigError: one of them was made with other settings, or its file cannot be read.
    """
    results: Results = {}
    for run in config.runs():
        path = path_of(config, run)
        if not path.is_file():
            continue
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            made_with = result["digest"]
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{path} is no finished run: {error}. Delete it, and it is made again.") from error
        if made_with != config.digest(run):
            raise ConfigError(
                f"{path} was made with other settings than those of this command. Give another folder as `out`, or "
                f"delete the file."
            )
        results[run] = result
    return results


def path_of(config: AblationConfig, run: Run) -> Path:
    """Where the result of a run is kept."""
    return Path(config.out) / f"{run.name}.json"


def _write(path: Path, result: dict[str, Any]) -> None:
    """Write at one blow, so that a file is there whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result) + "\n", encoding="utf-8")
    os.replace(part, path)
