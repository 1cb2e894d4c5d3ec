# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer stream`: who speaks now, from a file at the pace of its audio, or from a microphone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemo_sortformer.cli.console import Verbose, command, complain, err, note, out, quiet_nemo
from nemo_sortformer.cli.live_view import LineOutput, LiveView

if TYPE_CHECKING:
    import numpy as np

    from nemo_sortformer.data.segment import Segment
    from nemo_sortformer.inference.results import Diarization
    from nemo_sortformer.inference.stream import Streamer, StreamUpdate

_PIECE_SECONDS = 0.1
_FAST_PIECE_SECONDS = 1.0
_DRAWS_PER_SECOND = 8


def stream(
    file: Annotated[Path | None, typer.Argument(help="An audio file; none with --microphone.")] = None,
    microphone: Annotated[bool, typer.Option("--microphone", help="Listen to a microphone.")] = False,
    input_device: Annotated[str | None, typer.Option(help="Name or number of the microphone.")] = None,
    latency: Annotated[
        str | None, typer.Option(help="30.4s, 10s, 1.04s or 0.32s. Default: the model's own, or 1.04s.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as possible, not at the pace of the audio.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Each update as a line of JSON.")] = False,
    model: Annotated[Path | None, typer.Option(help="A .nemo file instead of the shipped model.")] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Where results go. Default: beside the file; of a microphone, here.")
    ] = None,
    format: Annotated[str, typer.Option(help="Any of rttm,json,audacity,png.")] = "rttm",
    name: Annotated[str | None, typer.Option(help="Name of the results. Default: the file's, or the time.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after so much audio.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: a GPU if there is one.")] = None,
    assignment: Annotated[str | None, typer.Option(help="heads or clustering. Default: the model's own.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or int8: faster, with slightly other numbers. Default: the model's."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")] = False,
    verbose: Verbose = False,
) -> None:
    """Say who speaks now: a live view on a terminal, one line `start end speaker` per finished segment elsewhere.

    At the end, and when it is stopped with Ctrl-C, what was heard is written as `diarize` writes it.
    """
    with command(verbose=verbose):
        from nemo_sortformer.inference.outputs import blocked_output, check_formats, output_paths
        from nemo_sortformer.inference.sources import AudioSource

        if (file is None) != microphone:
            raise ValueError("`stream` takes one audio file, or `--microphone`.")
        if max_seconds is not None and not max_seconds > 0:
            raise ValueError(f"`max_seconds` must be more than 0, but is {max_seconds}.")
        if input_device is not None and not microphone:
            raise ValueError("`--input-device` goes with `--microphone`.")
        if latency is not None:
            from nemo_sortformer.config.streaming import streaming_settings

            streaming_settings(None, latency)  # a wrong name is said before the model is loaded
        from nemo_sortformer.inference.precision import check_precision

        check_precision(precision)
        own_name = file.stem if file is not None else time.strftime("microphone-%Y%m%d-%H%M%S")
        source = AudioSource(name=name or own_name, path=file)
        paths = output_paths(source, check_formats(format.split(",")), output_dir)
        blocked = blocked_output(source, paths, overwrite=overwrite)
        if blocked:
            raise ValueError(blocked)
        duration = source.seconds() if file is not None else None
        stop = threading.Event()
        with err().status("Loading the model ..."):
            quiet_nemo(verbose=verbose)
            from nemo_sortformer.inference.checkpoint import load_model

            diarizer = load_model(model, device=device)
            from nemo_sortformer.inference.stream import Streamer

            pieces, rate = _pieces(file, input_device, fast=fast, stop=stop)
            streamer = Streamer(
                diarizer,
                latency=latency,
                sample_rate=rate,
                precision=precision,  # type: ignore[arg-type]  # checked there
                override_config=None if assignment is None else {"assignment": assignment},
            )
        heard = Heard(source.name, diarizer.frame_seconds, file)
        seconds = streamer.state.config.latency_seconds(diarizer.frame_seconds)
        live = sys.stdout.isatty() and not json
        title = str(file) if file is not None else "microphone; Ctrl-C ends"
        view = LiveView(title, latency_seconds=round(seconds, 3), duration=duration)
        shown = view if live else LineOutput(as_json=json)
        with _stopped_by_signals(stop):
            failure = _listen(streamer, pieces, heard, view, shown, stop, max_seconds=max_seconds)
        _write(heard.result(), paths)
    if failure is not None:
        raise typer.Exit(1)
    if stop.is_set() and file is not None:
        raise typer.Exit(130)


@dataclass
class Heard:
    """All that was said in a stream."""

    recording: str
    frame_seconds: float
    source: Path | None
    segments: list[Segment] = field(default_factory=list)
    probs: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, update: StreamUpdate) -> None:
        """Keep what an update brings."""
        self.segments.extend(update.finished)
        self.probs.append(update.probs)
        self.seconds = update.seconds

    def result(self) -> Diarization:
        """The result so far."""
        import numpy as np

        from nemo_sortformer.inference.results import Diarization

        return Diarization(
            recording=self.recording,
            segments=tuple(sorted(self.segments)),
            duration=self.seconds,
            frame_seconds=self.frame_seconds,
            probs=np.concatenate(self.probs) if self.probs else None,
            source=self.source,
        )


def _pieces(
    file: Path | None, input_device: str | None, *, fast: bool, stop: threading.Event
) -> tuple[Iterable[np.ndarray], int]:
    """The audio: of a microphone, of a file as it would be heard, or of a file at once."""
    if file is None:
        from nemo_sortformer.inference.microphone import microphone_pieces

        return microphone_pieces(device=input_device, seconds=_PIECE_SECONDS, stopped=stop.is_set)
    from nemo_sortformer.inference.stream_audio import file_pieces

    pieces, rate = file_pieces(file, seconds=_FAST_PIECE_SECONDS if fast else _PIECE_SECONDS)
    return (pieces if fast else _paced(pieces, rate, stop)), rate


def _paced(pieces: Iterable[np.ndarray], rate: int, stop: threading.Event) -> Iterator[np.ndarray]:
    """Each piece when its last sample would have been heard."""
    began, done = time.monotonic(), 0
    for piece in pieces:
        done += len(piece)
        stop.wait(max(began + done / rate - time.monotonic(), 0.0))
        yield piece


def _listen(
    streamer: Streamer,
    pieces: Iterable[np.ndarray],
    heard: Heard,
    view: LiveView,
    shown: LiveView | LineOutput,
    stop: threading.Event,
    *,
    max_seconds: float | None,
) -> Exception | None:
    """Run the stream to its end, or to where it is stopped; what ended it too early is said and given back."""
    rate, began, failure = streamer.state.sample_rate, time.monotonic(), None
    most = None if max_seconds is None else round(max_seconds * rate)
    taken = 0

    def take(updates: list[StreamUpdate]) -> None:
        for update in updates:
            heard.add(update)
            try:
                shown.show(update)
            except BrokenPipeError:  # as with `| head`: nobody reads any more
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                stop.set()

    with _drawn(view) if shown is view else nullcontext():
        try:
            for piece in pieces:
                if stop.is_set() or (most is not None and taken >= most):
                    break
                piece = piece if most is None else piece[: most - taken]
                started = time.monotonic()
                taken += len(piece)
                view.heard_seconds = taken / rate
                view.behind_seconds = started - began - view.heard_seconds
                take(streamer.push(piece))
                view.busy_seconds += time.monotonic() - started
        except (ValueError, OSError, RuntimeError) as error:  # what was heard before it counts
            failure = error
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        try:
            take(streamer.finish())
        except (ValueError, RuntimeError) as error:
            failure = failure or error
    if failure is not None:
        complain(f"Error after {heard.seconds:.1f} s: {failure}")
    elif stop.is_set() and heard.source is not None:
        note(f"Stopped after {heard.seconds:.1f} s; what was heard is kept.")
    return failure


@contextmanager
def _drawn(view: LiveView) -> Iterator[None]:
    """The live view on the terminal; its last state stays there."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(
        console=console, refresh_per_second=_DRAWS_PER_SECOND, get_renderable=lambda: view.render(console.width)
    ):
        yield


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the stream between two pieces; a second one ends the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(result: Diarization, paths: dict[str, Path]) -> None:
    """Write the results; where that fails they are shown, so that nobody has to speak again."""
    from nemo_sortformer.inference.outputs import write_result
    from nemo_sortformer.inference.report import clock

    try:
        write_result(result, paths)
    except OSError:
        complain("The results cannot be written. They are:")
        err().print(result.to_rttm(), markup=False, end="")
        raise
    count = len(result.speakers)
    console = out() if sys.stdout.isatty() else err()  # standard output holds the lines
    who = f"{count} speaker{'' if count == 1 else 's'} in {clock(result.duration)}"
    console.print(f"{', '.join(map(str, paths.values()))}: {who}", markup=False)
