# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer env`: versions, devices, and which optional accelerators are there."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, out, quiet_nemo

PACKAGES = (
    "nemo_sortformer",
    "torch",
    "nemo_toolkit",
    "lightning",
    "lhotse",
    "pyannote.core",
    "pyannote.metrics",
    "numpy",
    "scipy",
    "soundfile",
    "soxr",
    "matplotlib",
)


def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Show versions, devices and accelerators, as a report of a problem needs them."""
    with command(verbose=verbose):
        quiet_nemo(verbose=verbose)
        rows = {"python": f"{sys.version.split()[0]} on {platform.platform()}"}
        rows.update({name: _version(name) for name in PACKAGES})
        rows.update(_devices())
        rows.update(_accelerators())
        rows["shipped model"] = _shipped()
        if as_json:
            import json

            typer.echo(json.dumps(rows, indent=2))
            return
        from rich.table import Table

        table = Table(show_header=False, box=None)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, value)
        out().print(table)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    import torch

    rows = {"cpu": f"{torch.get_num_threads()} threads of torch, {platform.processor() or platform.machine()}"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        rows["cuda"] = "no GPU found"
    rows["torch backends"] = _backends()
    rows["bf16 on GPU"] = "yes" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return rows


def _backends() -> str:
    import torch.distributed as dist

    if not dist.is_available():
        return "torch without distributed training"
    there = [name for name, found in (("gloo", dist.is_gloo_available()), ("nccl", dist.is_nccl_available())) if found]
    return f"{', '.join(there)} between processes"


def _accelerators() -> dict[str, str]:
    """What is there, what it would be used for, and what is chosen; nothing of it is required."""
    from nemo_sortformer.distributed.accelerators import automatic_choices, find_accelerators

    rows = {found.name: str(found) for found in find_accelerators()}
    return rows | {f"auto {what}": choice for what, choice in automatic_choices().items()}


def _shipped() -> str:
    from nemo_sortformer.inference.checkpoint import shipped_checkpoint

    try:
        path = shipped_checkpoint()
    except FileNotFoundError as error:
        return str(error)
    return f"{path} ({path.stat().st_size / 2**20:.1f} MiB)"
