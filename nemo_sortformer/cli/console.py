# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What all commands share: errors as one readable line, and silence of the libraries below."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Verbose = Annotated[bool, typer.Option("--verbose", help="Show what the libraries say, and whole tracebacks.")]
"""The option that every command has."""
BAD_USE = 2
"""Exit status where nothing could be done at all; 1 is: some of it failed."""


def out() -> Console:
    """Console for results, on standard output."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 120, soft_wrap=not sys.stdout.isatty())


def err() -> Console:
    """Console for notes and errors, on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Say something beside the results."""
    err().print(text, style="yellow", markup=False)


def complain(text: str) -> None:
    """Say that something went wrong."""
    err().print(text, style="red", markup=False)


@contextmanager
def command(*, verbose: bool = False) -> Iterator[None]:
    """Run a command: user errors become one line and exit status 2; NeMo and warnings are silent unless `verbose`."""
    quiet(verbose=verbose)
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        if verbose:
            raise
        complain(f"Error: {error}")
        raise typer.Exit(BAD_USE) from error
    except KeyboardInterrupt:
        complain("Stopped.")
        raise typer.Exit(130) from None


def quiet(*, verbose: bool) -> None:
    """Silence the libraries' warnings and loggers, but not our own warnings; NeMo's: :func:`quiet_nemo`."""
    if verbose:
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)

    def show(message: Any, category: type[Warning], *_: object, **__: object) -> None:
        note(f"Note: {message}")

    from nemo_sortformer.data.audio import AudioWarning
    from nemo_sortformer.data.rttm import RttmWarning

    for category in (AudioWarning, RttmWarning):
        warnings.filterwarnings("always", category=category)
    warnings.showwarning = show  # type: ignore[assignment]


def quiet_nemo(*, verbose: bool) -> None:
    """Import NeMo's logger and leave it errors only, unless `verbose`. Call it before a model is loaded."""
    if verbose:
        return
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(nemo_logging.ERROR)
    for name in ("nemo_logger", "lightning", "lightning.pytorch", "pytorch_lightning", "nv_one_logger"):
        logging.getLogger(name).setLevel(logging.ERROR)
