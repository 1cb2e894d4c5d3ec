# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Who speaks, while the audio comes in: one stream, many side by side, or a recording run as a stream."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nemo_sortformer.config.inference import InferenceConfig
from nemo_sortformer.config.streaming import StreamingConfig, streaming_settings
from nemo_sortformer.inference.model_identity import ModelIdentity, identify
from nemo_sortformer.inference.precision import Precision, in_precision
from nemo_sortformer.inference.settings import inference_settings
from nemo_sortformer.inference.stream_answers import StreamUpdate
from nemo_sortformer.inference.stream_audio import pieces_of
from nemo_sortformer.inference.stream_state import StreamError, StreamState
from nemo_sortformer.inference.stream_steps import add_audio, new_state, run_steps

if TYPE_CHECKING:
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

__all__ = ["BatchedStreamer", "StreamError", "StreamState", "StreamUpdate", "Streamer", "stream"]


def stream(
    model: SortformerDiarizer,
    chunks: Any,
    *,
    sample_rate: int | None = None,
    latency: Any = None,
    precision: Precision | None = None,
    override_config: Any = None,
) -> Iterator[StreamUpdate]:
    """Say who speaks, chunk by chunk.

    Args:
        model: the diarizer; between two updates it is as it was.
        chunks: an iterable of pieces of any length, each an array or tensor (samples,) or (samples, channels), or
            `bytes` of 16-bit PCM in one channel; or the path of an audio file.
        sample_rate: of the pieces, in Hz; by default the model's, and for a file its own.
        latency: ``30.4s``, ``10s``, ``1.04s`` or ``0.32s``, or settings; see :func:`streaming_settings`.
        precision: ``float32``, ``bfloat16``, ``float16`` or ``int8``, the model's where None; see
            :func:`~nemo_sortformer.inference.precision.in_precision`.
        override_config: an `InferenceConfig`, or single keys of it, instead of the model's.

    Returns:
        An iterator of updates, the last of which has `is_last`.

    Raises:
        ConfigError: a setting is unknown or wrong, or the model cannot stream.
        AudioError: a piece is of no use.
    """
    pieces, rate = pieces_of(chunks, sample_rate=sample_rate, model_rate=model.config.sample_rate)
    streamer = Streamer(model, sample_rate=rate, latency=latency, precision=precision, override_config=override_config)

    def updates() -> Iterator[StreamUpdate]:
        for piece in pieces:
            yield from streamer.push(piece)
        yield from streamer.finish()

    return updates()


class BatchedStreamer:
    """Many streams through one model: those that have enough audio for a step are run together.

    Streams come and go as they like. What is said of one does not depend on the others, and an error in a piece leaves
    all of them as they were.

    Args:
        model: the diarizer.
        latency: settings of new streams; see :func:`streaming_settings`. All streams of a batch have the same.
        override_config: an `InferenceConfig`, or single keys of it, instead of the model's.
        sample_rate: of the pieces of new streams, in Hz; the model's where None.
        max_batch: most streams run at once.
        precision: as in :func:`stream`; one that the model has not makes a copy of it.
    """

    def __init__(
        self,
        model: SortformerDiarizer,
        *,
        latency: Any = None,
        override_config: Any = None,
        sample_rate: int | None = None,
        max_batch: int = 64,
        precision: Precision | None = None,
    ) -> None:
        self.model = in_precision(model, precision)
        self.config: StreamingConfig = streaming_settings(model.config.streaming, latency)
        self.inference: InferenceConfig = inference_settings(model.config.inference, override=override_config)
        self.sample_rate = sample_rate or model.config.sample_rate
        self.max_batch = max_batch
        self.identity = identify(self.model)
        self._states: dict[Hashable, StreamState] = {}

    @property
    def streams(self) -> tuple[Hashable, ...]:
        """Names of the open streams."""
        return tuple(self._states)

    def open(self, name: Hashable, *, sample_rate: int | None = None, state: StreamState | None = None) -> None:
        """Begin a stream, or take one up from its state.

        Raises:
            StreamError: the name is in use, or the state is of another model or other settings.
        """
        if name in self._states:
            raise StreamError(f"The stream `{name}` is open already. Close it first, or take another name.")
        if state is None:
            state = new_state(
                self.model, self.config, self.inference, self.identity, sample_rate=sample_rate or self.sample_rate
            )
        self._states[name] = checked_state(state, self.identity, self.config, sample_rate)

    def push(
        self, pieces: Mapping[Hashable, Any], *, sample_rate: int | None = None
    ) -> dict[Hashable, list[StreamUpdate]]:
        """Take in a piece of audio for each of some streams; one that is not open is begun.

        Args:
            pieces: by stream; see :func:`stream`.
            sample_rate: of these pieces; an error where it is not that of their streams.

        Returns:
            The updates of each of these streams, often none.

        Raises:
            AudioError: a piece is of no use.
            StreamError: a stream is finished, or the rate is another one.
        """
        states = {}
        for name, piece in pieces.items():
            state = self._states.get(name)
            if state is None:
                state = new_state(
                    self.model, self.config, self.inference, self.identity, sample_rate=sample_rate or self.sample_rate
                )
            states[name] = add_audio(state, piece, self.model, name=name, sample_rate=sample_rate)
        return self._run(states)

    def finish(self, name: Hashable) -> list[StreamUpdate]:
        """Answer what is left of a stream, with silence after it, and close it."""
        state = self._open_state(name)
        updates = self._run({name: add_audio(state, None, self.model, name=name)})[name]
        del self._states[name]
        return updates

    def close(self, name: Hashable) -> StreamState:
        """Stop a stream without finishing it, and give its state."""
        state = self._open_state(name)
        del self._states[name]
        return state

    def state(self, name: Hashable) -> StreamState:
        """The state of a stream: a value, which later pieces do not change."""
        return self._open_state(name)

    def _open_state(self, name: Hashable) -> StreamState:
        if name not in self._states:
            raise StreamError(f"There is no open stream `{name}`.")
        return self._states[name]

    def _run(self, states: dict[Hashable, StreamState]) -> dict[Hashable, list[StreamUpdate]]:
        found = run_steps(self.model, list(states.values()), max_batch=self.max_batch)
        self._states.update(zip(states, (state for state, _ in found), strict=True))
        return dict(zip(states, (updates for _, updates in found), strict=True))


class Streamer:
    """One stream through a model.

    Args:
        model: the diarizer.
        latency: ``30.4s``, ``10s``, ``1.04s`` or ``0.32s``, or settings; see :func:`streaming_settings`.
        sample_rate: of the pieces, in Hz; the model's where None.
        override_config: an `InferenceConfig`, or single keys of it, instead of the model's.
        state: take this stream up where it was left; its settings then hold.
        precision: as in :func:`stream`; one that the model has not makes a copy of it.

    Raises:
        ConfigError: a setting is unknown or wrong, or the model cannot stream.
        StreamError: the state belongs to another model.
    """

    def __init__(
        self,
        model: SortformerDiarizer,
        *,
        latency: Any = None,
        sample_rate: int | None = None,
        override_config: Any = None,
        state: StreamState | None = None,
        precision: Precision | None = None,
    ) -> None:
        model = in_precision(model, precision)
        if state is None:
            config = streaming_settings(model.config.streaming, latency)
            inference = inference_settings(model.config.inference, override=override_config)
            rate = sample_rate or model.config.sample_rate
            state = new_state(model, config, inference, identify(model), sample_rate=rate)
        elif latency is not None or override_config is not None:
            raise StreamError(
                "A stream that is taken up keeps its settings: leave `latency` and `override_config` out."
            )
        self.model = model
        self._state = checked_state(state, identify(model), state.config, sample_rate)

    @property
    def state(self) -> StreamState:
        """Everything the stream knows: a value, which later pieces do not change. See :class:`StreamState`."""
        return self._state

    def push(self, samples: Any, *, sample_rate: int | None = None) -> list[StreamUpdate]:
        """Take in a piece of audio; give the updates that it makes possible, often none.

        Raises:
            AudioError: the piece is of no use; the stream is as it was before.
            StreamError: the stream is finished, or `sample_rate` is not that of the stream.
        """
        return self._run(add_audio(self._state, samples, self.model, sample_rate=sample_rate))

    def finish(self) -> list[StreamUpdate]:
        """Answer what is left, as no more audio comes; the last update has `is_last`. Again it gives none."""
        return [] if self._state.finished else self._run(add_audio(self._state, None, self.model))

    def _run(self, state: StreamState) -> list[StreamUpdate]:
        [(self._state, updates)] = run_steps(self.model, [state])
        return updates


def checked_state(
    state: StreamState, identity: ModelIdentity, config: StreamingConfig, sample_rate: int | None
) -> StreamState:
    """The state, if a stream can go on from it.

    Raises:
        StreamError: it is of another model, of other settings, or of another rate.
    """
    if not identity.matches(state.model):
        raise StreamError(
            f"The state belongs to the model `{state.model}`, but this is `{identity}`. Go on with the model that the "
            "stream began with."
        )
    if state.config != config:
        raise StreamError(
            f"The state has the settings {state.config}, but this streamer has {config}. Give it "
            "`latency=state.config`."
        )
    if sample_rate not in (None, state.sample_rate):
        raise StreamError(f"The state is of a stream at {state.sample_rate} Hz, not at {sample_rate} Hz.")
    return state
