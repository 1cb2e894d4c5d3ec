# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer transcribe`: recordings in, who said what out."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, err, note, quiet_nemo
from nemo_sortformer.cli.jobs import Job, print_summary, run_jobs, taken_once, writable

if TYPE_CHECKING:
    from nemo_sortformer.inference.transcript import Transcript


def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Audio files, folders of them, or manifests (.json, .jsonl).")],
    asr: Annotated[
        Path | None, typer.Option(help="The .nemo file of a NeMo speech recognizer, or of a joint model.")
    ] = None,
    diarizer: Annotated[
        Path | None,
        typer.Option(help="A .nemo file instead of the shipped diarizer; or a joint model, without --asr."),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "--out", help="Where results go. Default: beside each recording.")
    ] = None,
    format: Annotated[str, typer.Option(help="Any of txt,seglst,stm,ctm,srt,vtt,rttm,png.")] = "txt,seglst",
    overlap: Annotated[
        str,
        typer.Option(
            help="shared: decode once; masked: once per speaker, silent where the speaker is; kernels: once per "
            "speaker by a multi-talker recognizer; auto: kernels where the recognizer has them, else shared."
        ),
    ] = "auto",
    num_speakers: Annotated[int | None, typer.Option(help="Exactly so many speak in each recording.")] = None,
    min_speakers: Annotated[int | None, typer.Option(help="At least so many speak.")] = None,
    max_speakers: Annotated[int | None, typer.Option(help="At most so many speak.")] = None,
    names: Annotated[str | None, typer.Option(help="What speakers are called: speaker_0=Ann,speaker_1=Bob.")] = None,
    max_seconds: Annotated[float, typer.Option(help="Longest stretch that the recognizer hears at once.")] = 30.0,
    asr_option: Annotated[
        list[str] | None, typer.Option(help="Of the recognizer's own transcribe(), as source_lang=en. Repeatable.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Stretches of speech decoded at once.")] = 4,
    num_workers: Annotated[int, typer.Option(help="Threads that read audio ahead.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: a GPU if there is one.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Truth (SegLST, STM, CTM, manifest) to score with.")] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Score words without case and punctuation.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
    verbose: Verbose = False,
) -> None:
    """Say who said what: writes `<name>.txt` and `<name>.seglst.json` beside each recording.

    Any NeMo speech recognizer does, and no training is needed: the diarizer says who speaks when, and each word goes
    to a speaker. A recording that fails costs only itself: it is listed at the end, and the exit status is 1.
    """
    with command(verbose=verbose):
        from nemo_sortformer.inference.assign import SpeakerLimits
        from nemo_sortformer.inference.outputs import check_formats, output_paths
        from nemo_sortformer.inference.sources import collect_sources
        from nemo_sortformer.inference.transcript_outputs import TRANSCRIPT_ENDINGS, write_transcript

        if asr is None and diarizer is None:
            raise ValueError("`--asr` is missing: name the .nemo file of a NeMo speech recognizer, or a joint model.")
        limits = SpeakerLimits(num_speakers=num_speakers, min_speakers=min_speakers, max_speakers=max_speakers)
        formats = check_formats(format.split(","), TRANSCRIPT_ENDINGS)
        called = dict(_pair(part, "--names") for part in names.split(",")) if names else None
        asr_options = {key: _value(text) for key, text in (_pair(part, "--asr-option") for part in asr_option or ())}
        sources = taken_once(collect_sources(files))
        jobs = [Job(source, output_paths(source, formats, output_dir, TRANSCRIPT_ENDINGS)) for source in sources]
        if reference is not None and any(reference.absolute() == p.absolute() for j in jobs for p in j.paths.values()):
            raise ValueError(
                f"`{reference}` is the truth, and a result would replace it. Choose another `--output-dir`."
            )
        todo = writable(jobs, overwrite=overwrite)
        if todo:
            with err().status("Loading the models ..."):  # the imports take longer than the files
                quiet_nemo(verbose=verbose)
                from nemo_sortformer.inference.diarize import WindowProgress
                from nemo_sortformer.inference.engine import RunOptions
                from nemo_sortformer.inference.recognizer import TranscriptWarning
                from nemo_sortformer.inference.settings import inference_settings
                from nemo_sortformer.inference.transcribe import TranscribeOptions, load_pair, transcripts

                options = TranscribeOptions(
                    overlap=overlap,  # type: ignore[arg-type]  # checked there
                    batch_size=batch_size,
                    max_seconds=max_seconds,
                    asr_options=asr_options,
                )
                models = load_pair(asr, diarizer, device=device)
            warnings.filterwarnings("once", category=TranscriptWarning)
            windows = WindowProgress()
            run_options = RunOptions(
                config=inference_settings(models.diarizer.config.inference),
                limits=limits,
                batch_size=batch_size,
                num_workers=num_workers,
                on_windows=windows,
            )

            def write(result: Transcript, paths: dict[str, Path]) -> Transcript:
                write_transcript(result, paths, names=called)
                heard = result.diarization
                return replace(result, diarization=replace(heard, probs=None) if heard is not None else None)

            outcomes = transcripts(models, [job.source for job in todo], options, run_options)
            run_jobs(todo, outcomes, {}, task="Transcribing", windows=windows, write=write)
        print_summary(jobs, _describe, what="recordings")
        if reference is not None:
            _print_scores(reference, jobs, normalize=normalize)
    if any(job.failure for job in jobs):
        raise typer.Exit(1)


def _pair(text: str, option: str) -> tuple[str, str]:
    key, mark, value = text.partition("=")
    if not mark or not key.strip() or not value.strip():
        raise ValueError(f"`{option}` must be `name=value`, but is `{text}`.")
    return key.strip(), value.strip()


def _value(text: str) -> object:
    """True, False, a number, or the text itself."""
    import yaml

    value = yaml.safe_load(text)
    return value if isinstance(value, (bool, int, float)) and text.lower() not in ("yes", "no", "on", "off") else text


def _describe(result: Transcript) -> str:
    from nemo_sortformer.inference.report import clock

    words, speakers = len(result.words), len(result.speakers)
    return (
        f"{words} word{'' if words == 1 else 's'} of {speakers} speaker{'' if speakers == 1 else 's'} in "
        f"{clock(result.duration)}"
    )


def _print_scores(reference: Path, jobs: list[Job], *, normalize: bool) -> None:
    """Score the transcripts that there are."""
    from nemo_sortformer.cli.score import print_word_report
    from nemo_sortformer.inference.word_score import score_words
    from nemo_sortformer.inference.word_score_inputs import pair_words

    answers = [job.results[0] for job in jobs if job.results and job.failure is None]
    if not answers:
        return
    pairing = pair_words(reference, answers)
    if pairing.unknown:
        note(f"No truth in `{reference}` for: {', '.join(pairing.unknown)}.")
    sessions = [session for session in pairing.sessions if session.recording not in pairing.unanswered]
    print_word_report(score_words(sessions, normalize=normalize))
