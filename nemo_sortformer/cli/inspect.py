# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer inspect`: what a .nemo file is, what it can do here, and what would stop it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_sortformer.cli.console import Verbose, command, out

if TYPE_CHECKING:
    from nemo_sortformer.nemo_bridge import Checkpoint

STOPPED = 1
"""Exit status of a diarizer that does not load here."""


def inspect(
    path: Annotated[Path, typer.Argument(help="A .nemo file of any NeMo model, or a folder with its contents.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Say what a .nemo file is and can do here, and what would stop it from loading, with the way out.

    The model is not built and no code of the file is run. The exit status is 1 where something stops a diarizer.
    """
    with command(verbose=verbose):
        from nemo_sortformer.nemo_bridge import describe

        found = describe(path.expanduser())
        if as_json:
            typer.echo(json.dumps(as_plain(found), indent=2, default=str))
        else:
            show(found)
    if found.problems:
        raise typer.Exit(STOPPED)


def as_plain(found: Checkpoint) -> dict[str, Any]:
    """The description as JSON has it."""
    return dataclasses.asdict(found) | {"total_parameters": found.total_parameters, "loads": not found.problems}


def show(found: Checkpoint) -> None:
    """Print the description: tables on a terminal, one line per thing elsewhere."""
    from rich.markup import escape
    from rich.table import Table

    console = out()
    if not console.is_terminal:
        for line in lines(found):
            typer.echo(line)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows(found):
        table.add_row(name, escape(text))
    console.print(table)
    console.print("\nHere it can", style="bold")
    table = Table(show_header=False, box=None, pad_edge=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, ability in found.abilities.items():
        answer = "[green]yes[/]" if ability.possible else "[red]no[/]"
        table.add_row(name.replace("_", " "), answer, escape(ability.text))
    console.print(table)
    for title, style, findings in (("What stops it", "red", found.problems), ("Ignored", "yellow", found.notes)):
        if findings:
            console.print(f"\n{title}", style=f"bold {style}")
        for finding in findings:
            console.print(f"- {finding}", style=style, markup=False)


def lines(found: Checkpoint) -> Iterator[str]:
    """The description without tables and colours."""
    for name, text in rows(found):
        yield f"{name}: {text}"
    for name, ability in found.abilities.items():
        yield f"{name.replace('_', ' ')}: {'yes' if ability.possible else 'no'}, {ability.text}"
    for finding in found.problems:
        yield f"stopped by {finding}"
    for finding in found.notes:
        yield f"ignored {finding}"


def rows(found: Checkpoint) -> Iterator[tuple[str, str]]:
    """What is printed above the abilities, as pairs of a name and a text."""
    yield "file", f"{found.path} ({found.file_bytes / 2**20:.1f} MiB)"
    yield "what", found.kind
    yield "class", found.target or "not named"
    if found.nemo_version:
        yield "written by", f"NeMo {found.nemo_version}"
    if found.mel:
        yield "audio", ", ".join(_mel(found.mel, found.sample_rate))
    if found.encoder:
        frames = f"{1000 * found.frame_seconds:g} ms per frame" if found.frame_seconds else ""
        yield "encoder", ", ".join(filter(None, [*_sizes(found.encoder, "n_layers", "d_model", "n_heads"), frames]))
    if found.state_encoder:
        sizes = _sizes(found.state_encoder, "num_layers", "hidden_size", "num_attention_heads")
        yield "state encoder", ", ".join(sizes)
    if found.slots:
        yield "speakers", f"at most {found.slots}"
        yield "trained", "on streams" if found.streaming is not None else "on whole recordings"
    if found.streaming:
        yield "stream", ", ".join(f"{name} {value}" for name, value in found.streaming.items())
    if found.latencies:
        yield "latencies", ", ".join(found.latencies)
    if found.tokenizer:
        yield "tokens", ", ".join(_tokens(found.tokenizer))
    if found.parameters:
        parts = sorted(found.parameters.items(), key=lambda part: -part[1])
        listed = ", ".join(f"{name} {_count(size)}" for name, size in parts)
        yield "parameters", f"{_count(found.total_parameters)} ({', '.join(found.dtypes)}): {listed}"


def _mel(mel: Mapping[str, Any], sample_rate: int | None) -> Iterator[str]:
    if sample_rate:
        yield f"{sample_rate} Hz"
    if mel.get("features"):
        yield f"{mel['features']} mels"
    if "normalize" in mel:
        yield "not normalized" if mel["normalize"] in (None, "NA") else f"normalized {mel['normalize']}"
    for key, name in (("window_size", "window"), ("window_stride", "hop")):
        if isinstance(mel.get(key), (int, float)):
            yield f"{name} {1000 * mel[key]:g} ms"


def _sizes(group: Mapping[str, Any], layers: str, width: str, heads: str) -> Iterator[str]:
    yield str(group.get("_target_", "class not named")).rpartition(".")[2]
    for key, name in ((layers, "layers"), (width, "wide"), (heads, "heads")):
        if group.get(key) is not None:
            yield f"{group[key]} {name}"


def _tokens(tokenizer: Mapping[str, Any]) -> Iterator[str]:
    yield str(tokenizer["type"])
    if "tokens" in tokenizer:
        yield str(tokenizer["tokens"])
    if "languages" in tokenizer:
        yield f"of {', '.join(tokenizer['languages'])}"


def _count(size: int) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return str(size)
