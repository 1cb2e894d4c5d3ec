# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer diarize`: recordings in, one file per recording and format out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, complain, err, note, out, quiet_nemo

if TYPE_CHECKING:
    from nemo_sortformer.data.segment import Segment
    from nemo_sortformer.inference.engine import RunOptions
    from nemo_sortformer.inference.results import Diarization
    from nemo_sortformer.inference.sources import AudioSource
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer


def diarize(
    files: Annotated[list[Path], typer.Argument(help="Audio files, folders of them, or manifests (.json, .jsonl).")],
    model: Annotated[Path | None, typer.Option(help="A .nemo file instead of the shipped model.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where results go. Default: beside each recording.")] = None,
    format: Annotated[str, typer.Option(help="Any of rttm,json,audacity,png.")] = "rttm",
    num_speakers: Annotated[int | None, typer.Option(help="Exactly so many speak in each recording.")] = None,
    min_speakers: Annotated[int | None, typer.Option(help="At least so many speak.")] = None,
    max_speakers: Annotated[int | None, typer.Option(help="At most so many speak.")] = None,
    batch_size: Annotated[int, typer.Option(help="Recordings, or windows of a long one, run at once.")] = 1,
    num_workers: Annotated[int, typer.Option(help="Threads that read audio ahead.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: a GPU if there is one.")] = None,
    assignment: Annotated[str | None, typer.Option(help="heads or clustering. Default: the model's own.")] = None,
    postprocessing: Annotated[Path | None, typer.Option(help="Thresholds and durations: NeMo's YAML.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Truth (RTTM, folder, manifest) to score with.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
    verbose: Verbose = False,
) -> None:
    """Say who spoke when: writes `<name>.rttm` beside each recording.

    A recording that cannot be read costs only itself: it is listed at the end, and the exit status is 1.
    """
    with command(verbose=verbose):
        from nemo_sortformer.inference.assign import SpeakerLimits
        from nemo_sortformer.inference.outputs import blocked_output, check_formats, output_paths

        limits = SpeakerLimits(num_speakers=num_speakers, min_speakers=min_speakers, max_speakers=max_speakers)
        formats = check_formats(format.split(","))
        sources = _sources(files)
        truth = {} if reference is None else _truth(reference, sources)
        jobs = [Job(source, output_paths(source, formats, output_dir)) for source in sources]
        for job in jobs:
            job.failure = blocked_output(job.source, job.paths, overwrite=overwrite)
        todo = [job for job in jobs if job.failure is None]
        if todo:
            with err().status("Loading the model ..."):  # the imports take longer than the file
                quiet_nemo(verbose=verbose)
                from nemo_sortformer.inference.checkpoint import load_model
                from nemo_sortformer.inference.engine import RunOptions
                from nemo_sortformer.inference.settings import inference_settings

                diarizer = load_model(model, device=device)
            config = inference_settings(
                diarizer.config.inference,
                override=None if assignment is None else {"assignment": assignment},
                postprocessing_yaml=postprocessing,
            )
            options = RunOptions(config=config, limits=limits, batch_size=batch_size, num_workers=num_workers)
            _run(diarizer, todo, options, truth)
        _print_summary(jobs)
        if reference is not None:
            _print_scores(reference, jobs)
    if any(job.failure for job in jobs):
        raise typer.Exit(1)


@dataclass
class Job:
    """One recording on its way through the command."""

    source: AudioSource
    paths: dict[str, Path]
    result: Diarization | None = None
    failure: str | None = None


def _sources(files: list[Path]) -> list[AudioSource]:
    """The recordings of the arguments; one that is given twice is taken once."""
    from nemo_sortformer.inference.sources import collect_sources

    seen: set[tuple[Path | None, float, float | None]] = set()
    kept = []
    for source in collect_sources(files):
        key = (source.path.resolve() if source.path else None, source.offset, source.duration)
        if key in seen:
            note(f"Note: `{source.path}` is given twice and taken once.")
        else:
            kept.append(source)
        seen.add(key)
    return kept


def _truth(reference: Path, sources: list[AudioSource]) -> dict[str, list[Segment]]:
    """True segments by the recordings' names; one truth for one recording needs no equal name."""
    from nemo_sortformer.inference.score_inputs import read_truth

    truth = read_truth(reference)
    different = {id(segments): segments for segments in truth.values()}
    if len(sources) == 1 and len(different) == 1:
        return {sources[0].name: next(iter(different.values()))}
    return truth


def _run(diarizer: SortformerDiarizer, jobs: list[Job], options: RunOptions, truth: dict[str, list[Segment]]) -> None:
    """Diarize and write; each job gets its result, or its failure."""
    from nemo_sortformer.inference.diarize import progress
    from nemo_sortformer.inference.engine import Failure, run
    from nemo_sortformer.inference.outputs import write_result

    outcomes = run(diarizer, [job.source for job in jobs], options)
    with progress(len(jobs), shown=True) as advance:
        for i, outcome in outcomes:
            job = jobs[i]
            if isinstance(outcome, Failure):
                job.failure = outcome.message
            else:
                try:
                    write_result(outcome, job.paths, reference=truth.get(outcome.recording))
                    job.result = replace(outcome, probs=None)  # an hour's worth of files stays small
                except OSError as error:
                    job.failure = f"cannot be written: {error}"
            advance()


def _print_summary(jobs: list[Job]) -> None:
    from nemo_sortformer.inference.report import clock

    for job in jobs:
        if job.result is not None:
            count = len(job.result.speakers)
            what = f"{count} speaker{'' if count == 1 else 's'} in {clock(job.result.duration)}"
            out().print(f"{', '.join(map(str, job.paths.values()))}: {what}", markup=False)
    failed = [job for job in jobs if job.failure]
    if failed:
        complain(f"{len(failed)} of {len(jobs)} recordings failed:")
        for job in failed:
            complain(f"  {job.source.name}: {job.failure}")


def _print_scores(reference: Path, jobs: list[Job]) -> None:
    from nemo_sortformer.cli.score import print_report
    from nemo_sortformer.inference.score import score_sessions
    from nemo_sortformer.inference.score_inputs import pair_sessions

    answers = {job.source.name: job.result.segments for job in jobs if job.result is not None}
    if not answers:
        return
    pairing = pair_sessions(reference, answers)
    sessions = [session for session in pairing.sessions if session.recording not in pairing.unanswered]
    if pairing.unknown:
        note(f"No truth in `{reference}` for: {', '.join(pairing.unknown)}.")
    print_report(score_sessions(sessions))
