# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer diarize`: recordings in, one file per recording and format out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, err, note, quiet_nemo
from nemo_sortformer.cli.jobs import Job, print_scores, print_summary, run_jobs, taken_once, true_segments, writable

if TYPE_CHECKING:
    from nemo_sortformer.inference.results import Diarization
    from nemo_sortformer.inference.sources import AudioSource


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
    min_speaker_seconds: Annotated[
        float | None, typer.Option(help="Who speaks less in all is nobody. Default: the model's own.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32; or bfloat16 or int8, which are faster, with slightly other numbers.")
    ] = "float32",
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with long recordings where a stopped run was.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
    verbose: Verbose = False,
) -> None:
    """Say who spoke when: writes `<name>.rttm` beside each recording.

    A recording that cannot be read costs only itself: it is listed at the end, and the exit status is 1. A run that is
    stopped in a recording of more than 5 minutes goes on there when it is started again.
    """
    with command(verbose=verbose):
        from nemo_sortformer.inference.assign import SpeakerLimits
        from nemo_sortformer.inference.outputs import check_formats, output_paths

        limits = SpeakerLimits(num_speakers=num_speakers, min_speakers=min_speakers, max_speakers=max_speakers)
        formats = check_formats(format.split(","))
        sources = _sources(files)
        truth = {} if reference is None else true_segments(reference, sources)
        jobs = [Job(source, output_paths(source, formats, output_dir)) for source in sources]
        todo = writable(jobs, overwrite=overwrite)
        if todo:
            with err().status("Loading the model ..."):  # the imports take longer than the file
                quiet_nemo(verbose=verbose)
                from nemo_sortformer.inference.checkpoint import load_model
                from nemo_sortformer.inference.diarize import WindowProgress
                from nemo_sortformer.inference.engine import RunOptions, run
                from nemo_sortformer.inference.outputs import partial_path, remove_partial
                from nemo_sortformer.inference.settings import inference_settings

                diarizer = load_model(model, device=device)
            config = inference_settings(
                diarizer.config.inference,
                override=_given(assignment=assignment, min_speaker_seconds=min_speaker_seconds),
                postprocessing_yaml=postprocessing,
            )
            windows, where = WindowProgress(), partial(partial_path, folder=output_dir)
            options = RunOptions(
                config=config,
                limits=limits,
                batch_size=batch_size,
                num_workers=num_workers,
                precision=precision,
                partial_path=where,
                on_windows=windows,
            )
            _say_what_is_done(todo, where, resume=resume)
            outcomes = run(diarizer, [job.source for job in todo], options)
            run_jobs(todo, outcomes, truth, task="Diarizing", windows=windows)
            for job in todo:
                if job.failure is None:
                    remove_partial(where(job.source))
        print_summary(jobs, _describe, what="recordings")
        if reference is not None:
            print_scores(reference, jobs)
    if any(job.failure for job in jobs):
        raise typer.Exit(1)


def _given(**values: object) -> dict[str, object]:
    """The options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def _say_what_is_done(jobs: list[Job], where: Callable[[AudioSource], Path | None], *, resume: bool) -> None:
    """Name the recordings that an earlier run began, or forget what it did."""
    from nemo_sortformer.inference.outputs import remove_partial
    from nemo_sortformer.inference.partial_work import PartialWorkWarning

    warnings.filterwarnings("always", category=PartialWorkWarning)
    for job in jobs:
        path = where(job.source)
        if path is not None and path.exists():
            if resume:
                note(
                    f"Note: `{path}` holds what an earlier run has done; what fits is used. `--no-resume` begins anew."
                )
            else:
                remove_partial(path)


def _sources(files: list[Path]) -> list[AudioSource]:
    """The recordings of the arguments; one that is given twice is taken once."""
    from nemo_sortformer.inference.sources import collect_sources

    return taken_once(collect_sources(files))


def _describe(result: Diarization) -> str:
    from nemo_sortformer.inference.report import clock

    count = len(result.speakers)
    return f"{count} speaker{'' if count == 1 else 's'} in {clock(result.duration)}"
