# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer validate`: what is wrong with a data set, before a training run finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, complain, note, out


def validate(
    manifests: Annotated[list[Path], typer.Argument(help="Manifests, one JSON object per line.")],
    num_slots: Annotated[int, typer.Option(help="Speakers that the model can tell apart.")] = 4,
    session_len_sec: Annotated[
        float | None, typer.Option(help="Length of the training windows: a recording may then have more speakers.")
    ] = None,
    decode: Annotated[bool, typer.Option(help="Read all audio to its end, instead of the headers alone.")] = True,
    verbose: Verbose = False,
) -> None:
    """Check manifests, and every audio and label file that they name; exit status 1 where there are errors."""
    failed = False
    with command(verbose=verbose):
        from nemo_sortformer.data.validate import validate_manifest

        for path in manifests:
            report = validate_manifest(path, num_slots, session_len_sec=session_len_sec, decode=decode)
            for problem in report:
                (complain if problem.severity == "error" else note)(str(problem))
            errors = len(report.errors)
            failed = failed or errors > 0
            summary = report.summary
            out().print(
                f"{path}: {summary.recordings} recordings, {summary.hours:.2f} h, "
                f"{summary.speech_hours:.2f} h of speech, {100 * summary.overlap_share:.1f} % of it overlapped, "
                f"at most {summary.most_speakers} speakers; {errors} errors, {len(report) - errors} warnings.",
                markup=False,
            )
    if failed:
        raise typer.Exit(1)
