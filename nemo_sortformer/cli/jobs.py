# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""What `diarize` and `label` have in common: inputs on their way to files, what failed of them, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nemo_sortformer.cli.console import complain, note, out

if TYPE_CHECKING:
    from nemo_sortformer.data.embedding_files import EmbeddingEntry
    from nemo_sortformer.data.segment import Segment
    from nemo_sortformer.inference.diarize import WindowProgress
    from nemo_sortformer.inference.engine import Failure
    from nemo_sortformer.inference.results import Diarization
    from nemo_sortformer.inference.sources import AudioSource

    SourceT = TypeVar("SourceT", AudioSource, EmbeddingEntry)


@dataclass
class Job:
    """One input on its way through a command."""

    source: AudioSource | EmbeddingEntry
    paths: dict[str, Path]
    """Where each format goes; a format may end in `:<kind>` where an input has several results."""
    results: list[Any] = field(default_factory=list)
    failure: str | None = None

    def paths_of(self, kind: str) -> dict[str, Path]:
        """The formats of the result of one kind."""
        named = (name.partition(":") for name in self.paths)
        return {fmt: self.paths[fmt + colon + own] for fmt, colon, own in named if own in ("", kind)}


def taken_once(sources: Sequence[SourceT]) -> list[SourceT]:
    """The sources; one that is given twice is taken once, with a note."""
    seen: set[tuple[Path | None, float, float | None]] = set()
    kept = []
    for source in sources:
        key = (source.path.resolve() if source.path else None, source.offset, source.duration)
        if key in seen:
            note(f"Note: `{source.path}` is given twice and taken once.")
        else:
            kept.append(source)
        seen.add(key)
    return kept


def writable(jobs: Sequence[Job], *, overwrite: bool) -> list[Job]:
    """The jobs whose outputs may be written; the others fail."""
    from nemo_sortformer.inference.outputs import blocked_output

    for job in jobs:
        job.failure = blocked_output(job.source, job.paths, overwrite=overwrite)
    return [job for job in jobs if job.failure is None]


def run_jobs(
    jobs: Sequence[Job],
    outcomes: Iterable[tuple[int, Diarization | Sequence[Diarization] | Failure]],
    truth: dict[str, list[Segment]],
    *,
    task: str,
    windows: WindowProgress | None = None,
    write: Callable[[Any, dict[str, Path]], Any] | None = None,
) -> None:
    """Write results as they come, under a progress bar; each job gets its results, or its failure.

    Results that are no diarizations are written by `write`, which gives what is kept of one.
    """
    from nemo_sortformer.inference.diarize import progress
    from nemo_sortformer.inference.engine import Failure
    from nemo_sortformer.inference.outputs import write_result
    from nemo_sortformer.inference.results import Diarization

    with progress(len(jobs), shown=True, task=task, windows=windows) as advance:
        for i, outcome in outcomes:
            job = jobs[i]
            if isinstance(outcome, Failure):
                job.failure = outcome.message
            else:
                try:
                    if write is not None:
                        job.results.append(write(outcome, job.paths))
                        advance()
                        continue
                    for result in [outcome] if isinstance(outcome, Diarization) else outcome:
                        paths = job.paths_of(getattr(result, "kind", ""))
                        write_result(result, paths, reference=truth.get(result.recording))
                        job.results.append(replace(result, probs=None))  # an hour's worth of files stays small
                except OSError as error:
                    job.failure = f"cannot be written: {error}"
            advance()


def print_summary(jobs: Sequence[Job], describe: Callable[[Any], str], *, what: str) -> None:
    """One line per result, and the failures at the end."""
    for job in jobs:
        if job.failure is None:
            for result in job.results:
                paths = job.paths_of(getattr(result, "kind", "")).values()
                out().print(f"{', '.join(map(str, paths))}: {describe(result)}", markup=False)
    failed = [job for job in jobs if job.failure]
    if failed:
        complain(f"{len(failed)} of {len(jobs)} {what} failed:")
        for job in failed:
            complain(f"  {job.source.name}: {job.failure}")


def true_segments(reference: Path, sources: Sequence[AudioSource | EmbeddingEntry]) -> dict[str, list[Segment]]:
    """True segments by the inputs' names; one truth for one input needs no equal name."""
    from nemo_sortformer.inference.score_inputs import read_truth

    truth = read_truth(reference)
    different = {id(segments): segments for segments in truth.values()}
    if len(sources) == 1 and len(different) == 1:
        return {sources[0].name: next(iter(different.values()))}
    return truth


def print_scores(reference: Path, jobs: Sequence[Job]) -> None:
    """Score the results that there are."""
    from nemo_sortformer.cli.score import print_report
    from nemo_sortformer.inference.score import score_sessions
    from nemo_sortformer.inference.score_inputs import pair_sessions

    answers = {job.source.name: job.results[0].segments for job in jobs if job.results and job.failure is None}
    if not answers:
        return
    pairing = pair_sessions(reference, answers)
    sessions = [session for session in pairing.sessions if session.recording not in pairing.unanswered]
    if pairing.unknown:
        note(f"No truth in `{reference}` for: {', '.join(pairing.unknown)}.")
    print_report(score_sessions(sessions))
