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
    from nemo_sortformer.inference.word_score import WordErrors, WordReport

RATES = {"DER": "der", "missed": "missed", "false alarm": "false_alarm", "confusion": "confusion", "JER": "jer"}


def score(
    reference: Annotated[Path, typer.Argument(help="The truth: an RTTM file, a folder of them, or a manifest.")],
    answer: Annotated[Path, typer.Argument(help="What to score: an RTTM file or a folder of them.")],
    collar: Annotated[float, typer.Option(help="Seconds unscored on each side of a true boundary.")] = 0.25,
    uem: Annotated[Path | None, typer.Option(help="UEM file: the stretches that are scored.")] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Score transcripts (SegLST, STM, CTM): cpWER and tcpWER, with DER beside.")
    ] = False,
    word_collar: Annotated[float, typer.Option(help="Seconds that a word may be off in tcpWER.")] = 5.0,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Compare words without case and punctuation.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead of tables.")] = False,
    verbose: Verbose = False,
) -> None:
    """Score answers: DER with its parts, JER, and the number of speakers, with and without collar and overlap.

    With `--words` transcripts are scored, by cpWER and tcpWER. Recordings of the truth without an answer count as
    wholly missed.
    """
    with command(verbose=verbose):
        if words:
            if uem is not None:
                raise ValueError("`--uem` is for scores of time alone: leave it out with `--words`.")
            report_words(reference, answer, collar=collar, word_collar=word_collar, normalize=normalize, json=as_json)
            return
        from nemo_sortformer.inference.score import Condition, score_sessions
        from nemo_sortformer.inference.score_inputs import pair_sessions

        pairing = pair_sessions(reference, answer, uem=uem)
        note_partners(pairing.unanswered, pairing.unknown)
        collars = dict.fromkeys((collar, 0.0))
        conditions = [Condition(width, skip) for skip in (False, True) for width in collars]
        report = score_sessions(pairing.sessions, conditions)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        else:
            print_report(report)


def note_partners(unanswered: list[str], unknown: list[str]) -> None:
    """Name the recordings that have a truth alone or an answer alone."""
    if unanswered:
        note(f"Without an answer, counted as missed: {', '.join(unanswered)}.")
    if unknown:
        note(f"Without a truth, not scored: {', '.join(unknown)}.")


def report_words(
    reference: Path, answer: Path, *, collar: float, word_collar: float, normalize: bool, json: bool
) -> None:
    """Score transcripts and print a table, or JSON."""
    from json import dumps

    from nemo_sortformer.inference.score import Condition
    from nemo_sortformer.inference.word_score import score_words
    from nemo_sortformer.inference.word_score_inputs import pair_words

    pairing = pair_words(reference, answer)
    note_partners(pairing.unanswered, pairing.unknown)
    report = score_words(pairing.sessions, collar=word_collar, condition=Condition(collar, False), normalize=normalize)
    if json:
        typer.echo(dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        print_word_report(report)


def print_word_report(report: WordReport) -> None:
    """One table: a row per recording, and one of all together."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"In % (tcpWER collar {report.collar:g} s; DER {report.condition})", title_justify="left")
    table.add_column("recording", overflow="fold")
    for name in ("cpWER", "tcpWER", "ins", "del", "sub", "words", "DER", "speakers (true)"):
        table.add_column(name, justify="right")
    for row in report.recordings:
        color = "" if row.answered_speakers == row.true_speakers else "[yellow]"
        speakers = f"{color}{row.answered_speakers} ({row.true_speakers})"
        der = _rates(row.diarization)[0]
        table.add_row(escape(row.recording), *_word_cells(row.cpwer, row.tcpwer), der, speakers)
    table.add_section()
    share = f"{100 * report.speaker_count_accuracy:.1f} % right"
    table.add_row("all", *_word_cells(report.cpwer, report.tcpwer), _rates(report.diarization)[0], share)
    out().print(table)


def _word_cells(cpwer: WordErrors, tcpwer: WordErrors) -> list[str]:
    rates = ["no words" if errors.rate == float("inf") else f"{100 * errors.rate:.2f}" for errors in (cpwer, tcpwer)]
    return [*rates, *(str(n) for n in (cpwer.insertions, cpwer.deletions, cpwer.substitutions, cpwer.words))]


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
