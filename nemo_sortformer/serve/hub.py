# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One model for many streams: whatever waits when a step ends goes into the next step together.

The model and all states are touched by a single thread. A client is known by an object that only its own connection
holds; nothing that a client sends can name a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nemo_sortformer.inference.stream import BatchedStreamer
from nemo_sortformer.inference.stream_answers import StreamUpdate

if TYPE_CHECKING:
    from nemo_sortformer.inference.precision import Precision
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer


@dataclass(frozen=True, eq=False)
class _Request:
    kind: Literal["open", "push", "finish", "close"]
    key: object
    value: Any = None
    answer: asyncio.Future[list[StreamUpdate]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class StreamHub:
    """Runs the streams of all connections through one model, those that wait as one batch.

    Args:
        model: the diarizer.
        latency: of all streams; see :func:`nemo_sortformer.config.streaming.streaming_settings`.
        override_config: an `InferenceConfig`, or single keys of it, instead of the model's.
        max_batch: most streams run at once.
        precision: as in :func:`nemo_sortformer.inference.stream.stream`.

    Raises:
        ConfigError: a setting is wrong, or the model cannot stream.
    """

    def __init__(
        self,
        model: SortformerDiarizer,
        *,
        latency: Any = None,
        override_config: Any = None,
        max_batch: int = 64,
        precision: Precision | None = None,
    ) -> None:
        self._streamer = BatchedStreamer(
            model, latency=latency, override_config=override_config, max_batch=max_batch, precision=precision
        )
        self._streamer.open("trial")  # what is wrong with the settings is said before the first client comes
        self._streamer.close("trial")
        self.model, self.config = self._streamer.model, self._streamer.config
        self.inference = self._streamer.inference
        self._requests: list[_Request] = []
        self._wake = asyncio.Event()
        self.num_batches = 0
        """Times that the model was called for waiting pieces."""
        self.num_pieces = 0
        """Pieces that it was called with."""

    @property
    def step_seconds(self) -> float:
        """Audio that a step of a stream answers."""
        return float(self.config.chunk_len * self.model.frame_seconds)

    @property
    def latency_seconds(self) -> float:
        """The longest that a sample waits for its answer, the time of computing apart."""
        return float(self.config.latency_seconds(self.model.frame_seconds))

    async def run(self) -> None:
        """Serve requests until cancelled; start it once."""
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(1, thread_name_prefix="nemo-sortformer-streams")
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                requests, self._requests = self._requests, []
                for request, answer in await loop.run_in_executor(executor, self._answer, requests):
                    if request.answer.done():  # nobody waits for it any more
                        continue
                    if isinstance(answer, Exception):
                        request.answer.set_exception(answer)
                    else:
                        request.answer.set_result(answer)
        finally:
            executor.shutdown(wait=False)
            for request in self._requests:
                request.answer.cancel()

    async def open(self, key: object, sample_rate: int) -> None:
        """Begin a stream of 16-bit PCM."""
        await self._ask(_Request("open", key, sample_rate))

    async def push(self, key: object, piece: bytes) -> list[StreamUpdate]:
        """Take in a piece, and wait for what it brings; one call per stream at a time."""
        return await self._ask(_Request("push", key, piece))

    async def finish(self, key: object) -> list[StreamUpdate]:
        """Answer what is left of a stream, and forget it."""
        return await self._ask(_Request("finish", key))

    def close(self, key: object) -> None:
        """Forget a stream, if it is still known; nobody waits for that."""
        self._add(_Request("close", key))

    async def _ask(self, request: _Request) -> list[StreamUpdate]:
        self._add(request)
        return await request.answer

    def _add(self, request: _Request) -> None:
        self._requests.append(request)
        self._wake.set()

    def _answer(self, requests: Sequence[_Request]) -> list[tuple[_Request, list[StreamUpdate] | Exception]]:
        """Serve requests, in the one thread that may; an error is the answer of its own stream alone."""
        answers = [(request, self._single(request)) for request in requests if request.kind != "push"]
        pushes = [request for request in requests if request.kind == "push"]
        if not pushes:
            return answers
        self.num_batches += 1
        self.num_pieces += len(pushes)
        try:
            found = self._streamer.push({request.key: request.value for request in pushes})
            return answers + [(request, found[request.key]) for request in pushes]
        except Exception:  # whose fault it is shows when each is run alone; the streams are as they were before
            return answers + [(request, self._single(request)) for request in pushes]

    def _single(self, request: _Request) -> list[StreamUpdate] | Exception:
        streamer, key = self._streamer, request.key
        try:
            if request.kind == "open":
                streamer.open(key, sample_rate=request.value)
            elif request.kind == "push":
                return streamer.push({key: request.value})[key]
            elif request.kind == "finish":
                return streamer.finish(key)
            elif key in streamer.streams:
                streamer.close(key)
        except Exception as error:  # goes to the connection, which says it to its client
            return error
        return []
