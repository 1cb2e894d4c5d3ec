# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer score`: DER, JER and speaker counts of answers against the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, note, out

if TYPE_CHECKING:
    from nemo_sortformer.inference.score import ErrorCounts, ScoreReport

RATES = {"DER": "der", "missed": "missed", "false alarm": "false_alarm", "confusion": "confusion", "JER": "jer"}


def score(
    reference: Annotated[Path, typer.Argument(help="The truth: an RTTM file, a folder of them, or a manifest.")],
    answer: Annotated[Path, typer.Argument(help="What to score: an RTTM file or a folder of them.")],
    collar: Annotated[float, typer.Option(help="Seconds unscored on each side of a true boundary.")] = 0.25,
    uem: Annotated[Path | None, typer.Option(help="UEM file: the stretches that are scored.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead of tables.")] = False,
    verbose: Verbose = False,
) -> None:
    """Score answers: DER with its parts, JER, and the number of speakers, with and without collar and overlap.

    Recordings of the truth without an answer count as wholly missed.
    """
    with command(verbose=verbose):
        from nemo_sortformer.inference.score import Condition, score_sessions
        from nemo_sortformer.inference.score_inputs import pair_sessions

        pairing = pair_sessions(reference, answer, uem=uem)
        if pairing.unanswered:
            note(f"Without an answer, counted as missed: {', '.join(pairing.unanswered)}.")
        if pairing.unknown:
            note(f"Without a truth, not scored: {', '.join(pairing.unknown)}.")
        collars = dict.fromkeys((collar, 0.0))
        conditions = [Condition(width, skip) for skip in (False, True) for width in collars]
        report = score_sessions(pairing.sessions, conditions)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        else:
            print_report(report)


def print_report(report: ScoreReport) -> None:
    """Two tables: the recordings under the first condition, and the totals under all."""
    from rich.markup import escape
    from rich.table import Table

    first = report.conditions[0]
    table = Table(title=f"Per recording, in % ({first})", title_justify="left")
    table.add_column("recording", overflow="fold")
    for name in (*RATES, "speakers (true)", "speech"):
        table.add_column(name, justify="right")
    for row in report.recordings:
        counts = row.counts[first]
        color = "" if row.answered_speakers == row.true_speakers else "[yellow]"
        table.add_row(
            escape(row.recording),
            *_rates(counts),
            f"{color}{row.answered_speakers} ({row.true_speakers})",
            f"{counts.speech:.1f} s",
        )
    totals = Table(title="All recordings, in %", title_justify="left")
    totals.add_column("scored", no_wrap=True)
    for name in RATES:
        totals.add_column(name, justify="right")
    for condition in report.conditions:
        totals.add_row(str(condition), *_rates(report.total(condition)))
    console = out()
    console.print(table, totals, sep="\n")
    console.print(
        f"Number of speakers right in {100 * report.speaker_count_accuracy:.1f} % of {len(report.recordings)} "
        f"recordings; off by {report.speaker_count_error:.2f} on average."
    )


def _rates(counts: ErrorCounts) -> list[str]:
    values = counts.to_dict()
    return ["no speech" if values[key] is None else f"{100 * (values[key] or 0.0):.2f}" for key in RATES.values()]
