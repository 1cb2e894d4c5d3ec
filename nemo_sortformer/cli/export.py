# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer export`: a diarizer as a file for onnxruntime or torch alone."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, out, quiet_nemo


class FileFormat(enum.StrEnum):
    """What is written."""

    ONNX = "onnx"
    TORCH = "torch"


class Source(enum.StrEnum):
    """What goes in."""

    AUDIO = "audio"
    MEL = "mel"


def export(
    model: Annotated[Path, typer.Argument(help="A .nemo file of a diarizer, ours or NVIDIA's; `shipped` is ours.")],
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    file_format: Annotated[FileFormat, typer.Option("--format", help="For onnxruntime, or for torch alone.")] = (
        FileFormat.ONNX
    ),
    streaming: Annotated[bool, typer.Option("--streaming", help="The step of a stream, with its state.")] = False,
    latency: Annotated[
        str | None, typer.Option(help="Of the stream: 30.4s, 10s, 1.04s or 0.32s; by default the model's own.")
    ] = None,
    source: Annotated[Source, typer.Option("--input", help="Samples, or mel features.")] = Source.AUDIO,
    int8: Annotated[bool, typer.Option("--int8", help="Also write a copy with 8-bit weights.")] = False,
    verbose: Verbose = False,
) -> None:
    """Write a diarizer as one graph, with a JSON file that says how to call it, and compare it with the model."""
    with command(verbose=verbose):
        from nemo_sortformer.inference.export_onnx import require_onnx

        if file_format is FileFormat.ONNX:
            require_onnx()  # before NeMo is imported, which takes seconds
        quiet_nemo(verbose=verbose)
        from nemo_sortformer.inference.checkpoint import load_model
        from nemo_sortformer.inference.export import export_model

        found = export_model(
            load_model(None if str(model) == "shipped" else model, device="cpu"),
            folder,
            file_format=file_format.value,
            streaming=streaming,
            latency=latency,
            source=source.value,
            int8=int8,
        )
        for kind, path in found.files.items():
            out().print(f"{kind}: {path} ({path.stat().st_size / 2**20:.1f} MiB)", markup=False)
        out().print(f"largest difference from PyTorch: {found.largest_difference:.1e}", markup=False)
