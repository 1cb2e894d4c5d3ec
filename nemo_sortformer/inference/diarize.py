# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Diarize recordings from Python: as rich results, or as NeMo's strings and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_sortformer.inference.assign import SpeakerLimits
from nemo_sortformer.inference.engine import DiarizationError, Failure, RunOptions, nowhere, run
from nemo_sortformer.inference.outputs import partial_path, remove_partial
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.settings import inference_settings, is_nemo_config
from nemo_sortformer.inference.sources import collect_sources

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

__all__ = ["DiarizationError", "Failure", "diarize_files", "diarize_recordings", "diarize_to_strings"]


def diarize_files(
    audio: Any, *, model: SortformerDiarizer | str | Path | None = None, device: str | None = None, **options: Any
) -> list[Diarization]:
    """Say who speaks when, with a model named by its file, or the one that ships with the package.

    Args:
        audio: a file, a folder, a manifest, samples, or a list of these; see :func:`collect_sources`.
        model: a model, a .nemo file, or None for the shipped one.
        device: where a model that is loaded here runs; None takes a GPU where there is one.
        options: those of :func:`diarize_recordings`.

    Raises:
        DiarizationError: some recordings could not be diarized; it holds the results of the others.
        ValueError: the model or the input is of no use.
    """
    if model is None or isinstance(model, (str, Path)):
        from nemo_sortformer.inference.checkpoint import load_model

        model = load_model(model, device=device)
    return diarize_recordings(model, audio, **options)


def diarize_recordings(
    model: SortformerDiarizer,
    audio: Any,
    *,
    sample_rate: int | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    num_speakers: int | None = None,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
    postprocessing_yaml: str | Path | None = None,
    override_config: Any = None,
    verbose: bool = False,
    failures: list[Failure] | None = None,
    partial_dir: str | Path | None = None,
    **engine_options: Any,
) -> list[Diarization]:
    """Say who speaks when, one :class:`Diarization` per recording, in the order given.

    Args:
        model: the diarizer; its mode (training or evaluation) is put back afterwards.
        audio: a file, a folder, a manifest, samples, or a list of these; see :func:`collect_sources`.
        sample_rate: of samples, in Hz.
        batch_size: recordings (or windows of a long one) run at once; the results do not depend on it.
        num_workers: threads that read audio ahead.
        num_speakers: how many speak, if that is known; else `min_speakers` and `max_speakers` may bound it.
        min_speakers: with the assignment `heads` it only has to fit the model; with `clustering` it is reached.
        max_speakers: with `heads` the columns with most speech stay and take over the speech of the others.
        postprocessing_yaml: thresholds and durations in NeMo's form, instead of the model's own.
        override_config: an `InferenceConfig` or single keys of it; wins over `postprocessing_yaml`.
        verbose: show a progress bar.
        failures: a list that receives what went wrong; without it the run ends with an error that holds the results.
        partial_dir: a folder in which the work done on recordings of more than 5 minutes is kept until they are done:
            the same call after a crash goes on where it was. None keeps nothing.
        engine_options: `window_seconds`, `context_seconds`, `max_seconds_one_pass`, `overlap_seconds`,
            `memory_seconds`, `precision`, `on_windows`; see :class:`RunOptions`.

    Raises:
        DiarizationError: some recordings could not be diarized and `failures` is None. The others are in it.
        ConfigError: a setting is unknown or wrong.
        ValueError: `audio` is of no use as a whole.
    """
    sources = collect_sources(audio, sample_rate=sample_rate)
    windows = WindowProgress()
    engine_options.setdefault("on_windows", windows)
    options = RunOptions(
        config=inference_settings(
            model.config.inference, override=override_config, postprocessing_yaml=postprocessing_yaml
        ),
        limits=SpeakerLimits(num_speakers=num_speakers, min_speakers=min_speakers, max_speakers=max_speakers),
        batch_size=batch_size,
        num_workers=num_workers,
        partial_path=partial(partial_path, folder=partial_dir) if partial_dir is not None else nowhere,
        **engine_options,
    )
    found: dict[int, Diarization] = {}
    failed: dict[int, Failure] = {}
    outcomes = run(model, sources, options)
    with progress(len(sources), shown=verbose, windows=windows) as advance:
        for i, outcome in outcomes:
            if isinstance(outcome, Failure):
                failed[i] = outcome
            else:
                found[i] = outcome
            advance()
    for i in found:
        remove_partial(options.partial_path(sources[i]))
    results = [found[i] for i in sorted(found)]
    if failed and failures is None:
        raise DiarizationError(results, [failed[i] for i in sorted(failed)])
    if failures is not None:
        failures.extend(failed[i] for i in sorted(failed))
    return results


def diarize_to_strings(
    model: SortformerDiarizer,
    audio: Any,
    sample_rate: int | None = None,
    batch_size: int = 1,
    include_tensor_outputs: bool = False,
    postprocessing_yaml: str | Path | None = None,
    num_workers: int = 0,
    verbose: bool = True,
    override_config: Any = None,
) -> list[list[str]] | tuple[list[list[str]], list[Tensor]]:
    """Say who speaks when in NeMo's form: per recording the lines "start end speaker_k", grouped by speaker.

    As in NeMo, k is the model's output column: `speaker_1` is column 1 of the tensor. A trained model puts them in
    order of arrival; :func:`diarize_recordings` does so whatever the model does.

    Args:
        model: the diarizer.
        audio: as in :func:`diarize_recordings`.
        sample_rate: of samples, in Hz.
        batch_size: recordings run at once.
        include_tensor_outputs: return the probabilities, too.
        postprocessing_yaml: thresholds and durations in NeMo's form.
        num_workers: threads that read audio ahead.
        verbose: show a progress bar.
        override_config: an `InferenceConfig`, single keys of it, or NeMo's `DiarizeConfig`, whose values then stand
            for the arguments above.

    Returns:
        Lines per recording; with `include_tensor_outputs` also one tensor (1, frames, slots) per recording, as long
        as the recording itself.

    Raises:
        DiarizationError: a recording could not be diarized; it holds the results of the others.
    """
    max_speakers = None
    if is_nemo_config(override_config):
        batch_size, num_workers = override_config.batch_size, override_config.num_workers or 0
        verbose, include_tensor_outputs = override_config.verbose, override_config.include_tensor_outputs
        sample_rate = override_config.sample_rate or sample_rate
        postprocessing_yaml = override_config.postprocessing_yaml or postprocessing_yaml
        max_speakers = override_config.max_num_of_spks
    results = diarize_recordings(
        model,
        audio,
        sample_rate=sample_rate,
        batch_size=batch_size,
        num_workers=num_workers,
        postprocessing_yaml=postprocessing_yaml,
        override_config=override_config,
        max_speakers=max_speakers,
        verbose=verbose,
    )
    lines = [_lines_by_slot(result) for result in results]
    if not include_tensor_outputs:
        return lines
    return lines, [_probs_by_slot(result) for result in results]


def _lines_by_slot(result: Diarization) -> list[str]:
    names = {f"speaker_{k}": f"speaker_{slot}" for k, slot in enumerate(result.slots)}
    segments = tuple(segment._replace(speaker=names[segment.speaker]) for segment in result.segments)
    return Diarization(recording=result.recording, segments=segments, duration=result.duration).to_strings()


def _probs_by_slot(result: Diarization) -> Tensor:
    import torch

    order = sorted(range(len(result.slots)), key=lambda k: result.slots[k])
    return torch.from_numpy(result.probs[:, order].copy())[None] if result.probs is not None else torch.zeros(1, 0, 0)


class WindowProgress:
    """Passes on how many windows of a long recording are done, to a bar that may be there later or never."""

    def __init__(self) -> None:
        self.show: Callable[[str, int, int], None] | None = None

    def __call__(self, recording: str, done: int, total: int) -> None:
        if self.show is not None:
            self.show(recording, done, total)


@contextmanager
def progress(
    total: int, *, shown: bool, task: str = "Diarizing", windows: WindowProgress | None = None
) -> Iterator[Callable[[], None]]:
    """Give a function to call after each recording; a bar on stderr, where `shown`, and one for the windows."""
    if not shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        whole = bar.add_task(task, total=total)
        inside = bar.add_task("windows", total=None, visible=False)

        def show(recording: str, done: int, number: int) -> None:
            if done == 1 or bar.tasks[inside].total != number:
                bar.reset(inside, total=number, description=f"windows of {recording}", visible=True)
            bar.update(inside, completed=done, visible=done < number)

        if windows is not None:
            windows.show = show
        try:
            yield lambda: bar.advance(whole)
        finally:
            if windows is not None:
                windows.show = None
