# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer label`: sequences of embeddings in, one file per sequence and format out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, err, quiet_nemo
from nemo_sortformer.cli.jobs import Job, print_scores, print_summary, run_jobs, taken_once, true_segments, writable

if TYPE_CHECKING:
    from nemo_sortformer.data.embedding_files import EmbeddingEntry
    from nemo_sortformer.inference.labeling import Labeling


def label(
    files: Annotated[list[Path], typer.Argument(help="Files (.npy, .npz, .pt), folders of them, or manifests.")],
    model: Annotated[Path, typer.Option(help="The .nemo file of a labeler.")],
    output_dir: Annotated[Path | None, typer.Option(help="Where results go. Default: beside each file.")] = None,
    format: Annotated[str, typer.Option(help="Any of rttm,json,audacity,png.")] = "rttm",
    batch_size: Annotated[int, typer.Option(help="Sequences run at once.")] = 8,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: a GPU if there is one.")] = None,
    assignment: Annotated[str | None, typer.Option(help="heads or clustering. Default: the model's own.")] = None,
    postprocessing: Annotated[Path | None, typer.Option(help="Thresholds and durations: NeMo's YAML.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Truth (RTTM, or a folder of them) to score with.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
    verbose: Verbose = False,
) -> None:
    """Say which classes are active when: writes `<name>.rttm` beside each sequence of embeddings.

    A model with several kinds of labels writes `<name>.<kind>.rttm` for each. A sequence that cannot be used costs
    only itself: it is listed at the end, and the exit status is 1.
    """
    with command(verbose=verbose):
        from nemo_sortformer.inference.outputs import check_formats

        formats = check_formats(format.split(","))
        if not model.is_file():  # said before the imports, which take longer than all else
            raise ValueError(f"`model` must be a .nemo file, but `{model}` is missing or is a folder.")
        with err().status("Loading the model ..."):
            quiet_nemo(verbose=verbose)
            from nemo_sortformer.inference.checkpoint import load_labeler
            from nemo_sortformer.inference.label import LabelOptions, collect_sequences, run_labeler
            from nemo_sortformer.inference.settings import inference_settings

            entries = taken_once(collect_sequences(files))
            labeler = load_labeler(model, device=device)
        kinds = list(labeler.num_classes)
        if reference is not None and len(kinds) > 1:
            raise ValueError("`reference` is for models of one kind of label. Score each with `score`.")
        truth = {} if reference is None else true_segments(reference, entries)
        jobs = [Job(entry, _paths(entry, formats, output_dir, kinds)) for entry in entries]
        todo = writable(jobs, overwrite=overwrite)
        if todo:
            config = inference_settings(
                labeler.config.inference,
                override=None if assignment is None else {"assignment": assignment},
                postprocessing_yaml=postprocessing,
            )
            options = LabelOptions(config=config, batch_size=batch_size)
            outcomes = run_labeler(labeler, [job.source for job in todo], options)
            run_jobs(todo, outcomes, truth, task="Labeling")
        print_summary(jobs, _describe, what="sequences")
        if reference is not None:
            print_scores(reference, jobs)
    if any(job.failure for job in jobs):
        raise typer.Exit(1)


def _paths(entry: EmbeddingEntry, formats: list[str], folder: Path | None, kinds: list[str]) -> dict[str, Path]:
    """Where the formats go; with several kinds of labels each has files of its own."""
    from nemo_sortformer.inference.outputs import ENDINGS, output_paths

    paths = output_paths(entry, formats, folder)
    if len(kinds) == 1:
        return paths
    named = {}
    for name, path in paths.items():
        stem = path.name.removesuffix(ENDINGS[name])
        named |= {f"{name}:{kind}": path.with_name(f"{stem}.{kind}{ENDINGS[name]}") for kind in kinds}
    return named


def _describe(result: Labeling) -> str:
    count, frames = result.num_classes, round(result.duration / result.frame_seconds)
    what = f"{result.kind} " if result.kind else ""
    return f"{count} {what}class{'' if count == 1 else 'es'} in {frames} frames"
