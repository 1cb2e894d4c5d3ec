# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The engine: recordings read, batched by length, run, named; a bad one costs only itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.merge import ConfigError
from nemo_sortformer.inference.assign import (
    SpeakerLimits,
    check_limits,
    find_segments,
    named_segments,
    order_of_arrival,
    prune_phantoms,
    speaker_probs,
)
from nemo_sortformer.inference.long_audio import LongAudio
from nemo_sortformer.inference.model_identity import identify
from nemo_sortformer.inference.partial_work import PartialWork
from nemo_sortformer.inference.precision import in_precision
from nemo_sortformer.inference.results import Diarization
from nemo_sortformer.inference.sources import AudioSource
from nemo_sortformer.inference.windows import (
    BLOCK_SECONDS,
    CONTEXT_SECONDS,
    MEMORY_SECONDS,
    WINDOW_SECONDS,
    Outputs,
    batch_outputs,
    windowed_outputs,
)

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

OutputT = TypeVar("OutputT")
ItemT = TypeVar("ItemT")


def nowhere(source: AudioSource) -> None:
    """No file for the work on a recording."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run goes about its recordings; what is said of the speakers stands in `config` and `limits`."""

    config: InferenceConfig
    limits: SpeakerLimits = field(default_factory=SpeakerLimits)
    batch_size: int = 1
    """Recordings (or windows of one recording) run at once."""
    num_workers: int = 0
    """Threads that read audio ahead; 0 reads in between."""
    window_seconds: float = WINDOW_SECONDS
    """Length of a window where the assignment is `clustering`."""
    context_seconds: float = CONTEXT_SECONDS
    """Heard on each side of such a window."""
    max_seconds_one_pass: float = 600.0
    """With the assignment `heads`, longer recordings are cut into windows of this length."""
    overlap_seconds: float = 60.0
    """Shared by two neighbours of those, so that their speakers can be matched."""
    memory_seconds: float = MEMORY_SECONDS
    """So much of each speaker heard so far is played before each of those windows, so that who is silent in the shared
    seconds is known again; 0 is nothing."""
    precision: Literal["float32", "bfloat16", "int8"] = "float32"
    """Of the network's products. bfloat16 and int8 are faster on processors that have them, with other numbers."""
    partial_path: Callable[[AudioSource], Path | None] = nowhere
    """In which file the work done on a long recording is kept, for a run that was stopped to go on; none by default.
    Whoever has the result removes the file."""
    on_windows: Callable[[str, int, int], None] | None = None
    """Called with the name of a long recording, how many of its windows are done, and of how many."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_workers < 0:
            raise ConfigError(
                f"`batch_size` must be at least 1 and `num_workers` at least 0, but they are {self.batch_size} and "
                f"{self.num_workers}."
            )
        if not self.window_seconds > 2 * self.context_seconds >= 0:
            raise ConfigError(
                f"`window_seconds` must be more than twice `context_seconds`, but they are {self.window_seconds} and "
                f"{self.context_seconds}."
            )
        if self.precision not in ("float32", "bfloat16", "int8"):
            raise ConfigError(f"`precision` must be float32, bfloat16 or int8, but is {self.precision}.")
        if self.memory_seconds < 0:
            raise ConfigError(f"`memory_seconds` must be 0 or more, but is {self.memory_seconds}.")
        if not self.max_seconds_one_pass > self.overlap_seconds >= 0:
            raise ConfigError(
                f"`max_seconds_one_pass` must be more than `overlap_seconds`, but they are "
                f"{self.max_seconds_one_pass} and {self.overlap_seconds}."
            )

    @property
    def one_pass_seconds(self) -> float:
        """Longest recording that is run without windows."""
        return self.window_seconds if self.config.assignment == "clustering" else self.max_seconds_one_pass


class Failure(NamedTuple):
    """A recording that could not be diarized, and why."""

    recording: str
    message: str


class DiarizationError(ValueError):
    """Some recordings could not be diarized; `results` holds the others, `failures` says what was wrong."""

    def __init__(self, results: list[Diarization], failures: list[Failure]) -> None:
        self.results, self.failures = results, failures
        shown = "\n".join(f"  `{failure.recording}`: {failure.message}" for failure in failures[:10])
        more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
        total = len(results) + len(failures)
        super().__init__(f"{len(failures)} of {total} recordings could not be diarized:\n{shown}{more}")


def run(
    model: SortformerDiarizer, sources: Sequence[AudioSource], options: RunOptions
) -> Iterator[tuple[int, Diarization | Failure]]:
    """Diarize recordings one batch after the other, the longest first, and give each as soon as it is done.

    Memory holds the batches being read and run; what has been given is not kept.

    Returns:
        An iterator over pairs: the place of the recording in `sources`, and its result or what was wrong with it.

    Raises:
        ConfigError: the settings cannot work for any recording; raised before the iterator is.
    """
    check_limits(options.limits, options.config, num_slots=model.num_slots)
    if options.config.assignment == "clustering" and model.affinity_head is None:
        raise ConfigError(
            "`assignment` is `clustering`, but the model has no affinity embeddings. Set it to `heads`, or train with "
            "`model.affinity`."
        )
    return _outcomes(model, sources, options)


def _outcomes(
    model: SortformerDiarizer, sources: Sequence[AudioSource], options: RunOptions
) -> Iterator[tuple[int, Diarization | Failure]]:
    lengths: dict[int, float] = {}
    rate = model.config.sample_rate
    for i, source in enumerate(sources):
        try:
            lengths[i] = source.seconds()
        except (ValueError, OSError, RuntimeError) as error:
            yield i, Failure(source.name, str(error))
    if options.precision == "int8":
        model = in_precision(model, "int8")  # once for all
    with evaluating(model):
        for batch, audio in _read_ahead(sources, _batches(lengths, options), rate, options, lengths):
            good: list[int] = []
            recordings: list[np.ndarray | LongAudio] = []
            for i, samples in zip(batch, audio, strict=True):
                if isinstance(samples, Failure):
                    yield i, samples
                else:
                    good.append(i)
                    recordings.append(samples)
            source = sources[good[0]] if len(batch) == 1 and good else None
            found = _safe_outputs(model, recordings, options, source)
            for i, samples, outputs in zip(good, recordings, found, strict=True):
                if isinstance(outputs, Exception):
                    yield i, Failure(sources[i].name, failure_reason(outputs))
                else:
                    yield i, _finish(model, sources[i], len(samples), outputs, options)


def _batches(lengths: dict[int, float], options: RunOptions) -> list[list[int]]:
    """Recordings of similar length together; one that needs windows is alone."""
    order = sorted(lengths, key=lambda i: -lengths[i])
    long = [i for i in order if lengths[i] > options.one_pass_seconds]
    short = order[len(long) :]
    return [[i] for i in long] + [short[k : k + options.batch_size] for k in range(0, len(short), options.batch_size)]


def _read_ahead(
    sources: Sequence[AudioSource],
    batches: list[list[int]],
    sample_rate: int,
    options: RunOptions,
    lengths: dict[int, float],
) -> Iterator[tuple[list[int], list[np.ndarray | LongAudio | Failure]]]:
    """Yield batches with their audio; with workers the next batch is read while this one is run."""

    def read(i: int) -> np.ndarray | LongAudio | Failure:
        try:
            long = lengths[i] > max(options.one_pass_seconds, BLOCK_SECONDS)
            return sources[i].open(sample_rate) if long else sources[i].read(sample_rate)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:  # soundfile's errors are RuntimeErrors
            return Failure(sources[i].name, failure_reason(error))

    if options.num_workers == 0:
        yield from ((batch, [read(i) for i in batch]) for batch in batches)
        return
    with ThreadPoolExecutor(options.num_workers) as pool:
        coming: list[list[Future[np.ndarray | LongAudio | Failure]]] = [
            [pool.submit(read, i) for i in b] for b in batches[:2]
        ]
        for number, batch in enumerate(batches):
            audio = [future.result() for future in coming.pop(0)]
            if number + 2 < len(batches):
                coming.append([pool.submit(read, i) for i in batches[number + 2]])
            yield batch, audio


def network_outputs(
    model: SortformerDiarizer,
    recordings: list[np.ndarray] | list[np.ndarray | LongAudio],
    options: RunOptions,
    *,
    source: AudioSource | None = None,
) -> list[Outputs]:
    """Run recordings, shape (samples,) each, as one batch; a single long one window by window, or as a stream.

    Args:
        model: in evaluation mode.
        recordings: samples at the model's rate.
        options: how.
        source: where a single recording comes from; without it no work is kept, and no progress told.
    """
    model = in_precision(model, "int8" if options.precision == "int8" else None)
    faster = options.precision == "bfloat16"
    with torch.autocast(model.device.type, torch.bfloat16) if faster else nullcontext():
        if model.config.streaming is not None and options.config.assignment == "heads":
            from nemo_sortformer.inference.stream_recordings import stream_recordings  # here, as it needs this file

            return stream_recordings(model, recordings, **_kept_work(recordings, options, source))
        if len(recordings) != 1 or len(recordings[0]) <= options.one_pass_seconds * model.config.sample_rate:
            return batch_outputs(model, recordings)
        return [_outputs_of_long(model, recordings[0], options, source)]


def _kept_work(
    recordings: list[np.ndarray] | list[np.ndarray | LongAudio], options: RunOptions, source: AudioSource | None
) -> dict[str, Any]:
    """Where a stream over one long recording keeps its work, and whom it tells of its progress."""
    if source is None or len(recordings) != 1:
        return {}
    told = None if options.on_windows is None else partial(options.on_windows, source.name)
    identity = {"audio": source.identity(), "precision": options.precision}
    return {"on_blocks": told, "path": options.partial_path(source), "identity": identity}


def _outputs_of_long(
    model: SortformerDiarizer, audio: np.ndarray | LongAudio, options: RunOptions, source: AudioSource | None
) -> Outputs:
    settings: dict[str, Any] = {"batch_size": options.batch_size, "memory_seconds": 0.0}
    if options.config.assignment == "clustering":
        settings |= {"window_seconds": options.window_seconds, "context_seconds": options.context_seconds}
    else:
        settings |= {"window_seconds": options.max_seconds_one_pass, "context_seconds": options.overlap_seconds / 2}
        settings |= {"batch_size": 1, "memory_seconds": options.memory_seconds}
    on_windows = None
    if source is not None and options.on_windows is not None:
        on_windows = partial(options.on_windows, source.name)
    path = None if source is None else options.partial_path(source)
    if source is None or path is None:
        return windowed_outputs(model, audio, on_windows=on_windows, **settings)
    identity = {
        "model": str(identify(model)),
        "audio": source.identity(),
        "samples": len(audio),
        "precision": options.precision,
        **settings,
    }
    with PartialWork(path, identity) as work:
        return windowed_outputs(model, audio, work=work, on_windows=on_windows, **settings)


def _safe_outputs(
    model: SortformerDiarizer,
    recordings: list[np.ndarray | LongAudio],
    options: RunOptions,
    source: AudioSource | None,
) -> list[Outputs | Exception]:
    """Run a batch; where that fails, as for want of memory, run its recordings one by one."""
    return outputs_or_errors(recordings, lambda batch: network_outputs(model, batch, options, source=source))


def outputs_or_errors(
    items: list[ItemT], run_batch: Callable[[list[ItemT]], list[OutputT]]
) -> list[OutputT | Exception]:
    """What `run_batch` gives for a batch; where it fails, for each item by itself, or what was wrong with it."""
    if not items:
        return []
    try:
        return [*run_batch(items)]
    except ConfigError:
        raise
    except (RuntimeError, ValueError, MemoryError) as error:
        if len(items) == 1:
            return [error]
    results: list[OutputT | Exception] = []
    for item in items:
        results.extend(outputs_or_errors([item], run_batch))
    return results


def _finish(
    model: SortformerDiarizer, source: AudioSource, num_samples: int, outputs: Outputs, options: RunOptions
) -> Diarization | Failure:
    duration = num_samples / model.config.sample_rate
    try:
        probs = speaker_probs(outputs, options.config, options.limits)
        probs = prune_phantoms(probs, options.config, options.limits, frame_seconds=model.frame_seconds)
        columns = find_segments(probs, options.config, frame_seconds=model.frame_seconds, max_seconds=duration)
    except ConfigError:
        raise
    except (RuntimeError, ValueError, MemoryError) as error:
        return Failure(source.name, failure_reason(error))
    order = order_of_arrival(columns)
    return Diarization(
        recording=source.name,
        segments=named_segments(columns, order, offset=source.offset),
        probs=probs[:, order],
        slots=tuple(order),
        frame_seconds=model.frame_seconds,
        duration=duration,
        offset=source.offset,
        source=source.path,
    )


def failure_reason(error: BaseException) -> str:
    """What a user is told of an error."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "memory ran out. Lower `batch_size` or `max_seconds_one_pass`, or take another device."
    return str(error).strip() or type(error).__name__


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, and back afterwards."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training
