# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer plan`: which layout of training fits the memory of so many GPUs, before they are paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_sortformer.cli.console import Verbose, command, out, quiet_nemo

if TYPE_CHECKING:
    from nemo_sortformer.distributed.memory import Row

GB = 1e9


def plan(
    config: Annotated[str, typer.Option(help="A YAML file, or the name of one of ours, e.g. diarizer_published.")],
    gpus: Annotated[int, typer.Option(help="Number of GPUs, all nodes together.")] = 1,
    gpu_memory: Annotated[float, typer.Option(help="Memory of one GPU, in GB.")] = 80.0,
    seconds: Annotated[float | None, typer.Option(help="Length of a recording. Default: that of the YAML.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Recordings per GPU and step. Default: the YAML's.")] = None,
    gpus_per_node: Annotated[int, typer.Option(help="GPUs that exchange over a fast link.")] = 8,
    dtype: Annotated[str, typer.Option(help="Type of computation: fp32, bf16 or fp16.")] = "bf16",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Compute what each layout of training takes, how large a batch fits, and which layout to take.

    Nothing is trained and no GPU is needed: the model is built without memory for its numbers.
    """
    with command(verbose=verbose):
        quiet_nemo(verbose=verbose)
        from nemo_sortformer.distributed.memory import plan as plan_rows
        from nemo_sortformer.distributed.memory import recommend
        from nemo_sortformer.distributed.plan_inputs import read_plan_inputs

        inputs = read_plan_inputs(config, seconds=seconds, batch_size=batch_size)
        rows = plan_rows(
            inputs.model,
            num_frames=inputs.num_frames,
            gpus=gpus,
            gpu_memory=gpu_memory,
            batch_size=inputs.batch_size,
            gpus_per_node=gpus_per_node,
            dtype=dtype,
            optimizer=inputs.optimizer,
        )
        best = recommend(rows)
        question = {
            "config": config,
            "parameters": rows[0].whole_parameters,
            "seconds": inputs.seconds,
            "frames": inputs.num_frames,
            "batch_size": inputs.batch_size,
            "gpus": gpus,
            "gpu_memory_gb": gpu_memory,
        }
        if as_json:
            answer = question | {"layouts": [_as_dict(row, gpus) for row in rows]}
            answer["recommended"] = None if best is None else _as_dict(best, gpus)
            answer["reason"] = reason(rows, best)
            typer.echo(json.dumps(answer, indent=2))
            return
        print_plan(question, rows, best)


def print_plan(question: dict[str, Any], rows: list[Row], best: Row | None) -> None:
    """A table of the layouts, and the one to take, with the words that set it."""
    from rich.table import Table

    console = out()
    console.print(
        f"{Path(question['config']).stem}: {question['parameters'] / 1e6:.1f} M parameters, recordings of "
        f"{question['seconds']:g} s ({question['frames']} frames), {question['gpus']} GPUs of "
        f"{question['gpu_memory_gb']:g} GB; GB are 1e9 bytes."
    )
    table = Table(title=f"Memory per GPU with {question['batch_size']} recordings", title_justify="left")
    for name in ("tensor", "stage", "copies", "recompute"):
        table.add_column(name, justify="right")
    for name in ("bytes per parameter", "at rest, GB", "gathered, GB", "per recording, GB", "needed, GB", "batch"):
        table.add_column(name, justify="right")
    widest = 2 * (best or rows[-1]).config.tensor_parallel_size
    shown = [row for row in rows if row.config.tensor_parallel_size <= widest]
    for row in shown:
        memory, layout = row.memory, row.config
        mark = "[bold green]" if row is best else "" if row.fits else "[dim]"
        cells = (
            f"{layout.tensor_parallel_size}{' + frames' if layout.sequence_parallel else ''}",
            str(layout.zero_stage),
            str(layout.replicate_size),
            "yes" if layout.activation_checkpointing else "no",
            f"{row.bytes_per_parameter:.2f}",
            f"{memory.at_rest() / GB:.2f}",
            f"{(memory.gathered + memory.exchange) / GB:.2f}",
            f"{memory.recording / GB:.2f}",
            f"{row.needed / GB:.1f}",
            str(row.largest_batch),
        )
        table.add_row(*(mark + cell for cell in cells))
    console.print(table)
    console.print("`batch` is the largest number of recordings that fits, per GPU or per GPUs that share the layers.")
    if len(shown) < len(rows):
        console.print(
            f"{len(rows) - len(shown)} layouts that share layers among more GPUs are left out; --json has all."
        )
    console.print(reason(rows, best), markup=False)
    if best is not None:
        console.print("  trainer.strategy=nemo_sortformer " + " ".join(best.overrides()), markup=False)


def reason(rows: list[Row], best: Row | None) -> str:
    """Why this layout."""
    if best is None:
        least = min(rows, key=lambda row: row.needed)
        return (
            f"Nothing fits: the least that a layout needs is {least.needed / GB:.1f} GB. Take shorter recordings, a "
            f"smaller batch, or GPUs with more memory."
        )
    layout, words = best.config, []
    if layout.tensor_parallel_size == 1:
        words.append("layers need not be shared, which would cost an exchange in each")
    else:
        words.append(f"a layer and its states fit only where {layout.tensor_parallel_size} GPUs share them")
    if layout.activation_checkpointing:
        words.append("the layers' states do not fit, so they are computed again, for a third more arithmetic")
    else:
        words.append("nothing has to be computed twice")
    if layout.zero_stage == 3:
        words.append("the gathered parameters of all layers together do not fit")
    if layout.replicate_size > 1:
        words.append("a whole copy fits on each node, so that parameters are gathered over the fast link only")
    return "Recommended, as the first in the table that fits: " + "; ".join(words) + "."


def _as_dict(row: Row, gpus: int) -> dict[str, Any]:
    memory = row.memory
    groups = gpus // row.config.tensor_parallel_size
    return {
        "overrides": ["trainer.strategy=nemo_sortformer", *row.overrides()],
        "bytes_per_parameter": row.bytes_per_parameter,
        "parameters_bytes": memory.parameters,
        "gradients_bytes": memory.gradients,
        "optimizer_bytes": memory.optimizer,
        "gathered_bytes": memory.gathered,
        "exchange_bytes": memory.exchange,
        "bytes_per_recording": memory.recording,
        "needed_bytes": row.needed,
        "largest_batch": row.largest_batch,
        "largest_global_batch": row.largest_batch * groups,
        "fits": row.fits,
    }
