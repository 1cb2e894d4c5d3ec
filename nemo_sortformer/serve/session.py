# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""One client: audio comes in, updates go out, and it ends with a code and a reason."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, NamedTuple

from starlette.websockets import WebSocket, WebSocketDisconnect

from nemo_sortformer.inference.stream_answers import StreamUpdate
from nemo_sortformer.serve.hub import StreamHub
from nemo_sortformer.serve.limits import ServerLimits
from nemo_sortformer.serve.waiting_audio import WaitingAudio

RATES = (8_000, 192_000)
"""Lowest and highest sample rate that a client may declare, in Hz."""
_BYTES_PER_SAMPLE = 2
_COMMAND_LENGTH = 100
_REASON_BYTES = 120
"""A close frame has room for 123."""


class Ending(NamedTuple):
    """Why a connection ends."""

    code: int
    """Of the close frame, by RFC 6455: 1000 done, 1001 the server stops, 1003 not audio, 1008 against the rules,
    1009 too long a message, 1011 an error here, 1013 come again later."""
    reason: str
    orderly: bool = False
    """What was heard is answered to the end before the connection closes."""
    gone: bool = False
    """Nobody is there any more to be told."""


FINISHED = Ending(1000, "finished", orderly=True)
_LOGGER = logging.getLogger(__name__)


class BadRequest(ValueError):
    """The address that a client asks for has a wrong parameter."""


class StreamRequest(NamedTuple):
    """What a client declares in the address of its WebSocket."""

    sample_rate: int
    probs: bool
    """Updates carry the probabilities of their frames."""

    @classmethod
    def from_query(cls, query: dict[str, str]) -> StreamRequest:
        """Read `sample_rate` (16000) and `probs` (false).

        Raises:
            BadRequest: a key is unknown, or a value is wrong.
        """
        unknown = sorted(set(query) - {"sample_rate", "probs"})
        if unknown:
            raise BadRequest(f"`{unknown[0][:40]}` is no parameter. There are `sample_rate` and `probs`.")
        rate, probs = query.get("sample_rate", "16000"), query.get("probs", "false").lower()
        if not (rate.isascii() and rate.isdigit() and len(rate) < 8 and RATES[0] <= int(rate) <= RATES[1]):
            raise BadRequest(f"`sample_rate` must be from {RATES[0]} to {RATES[1]} Hz, but is `{rate[:40]}`.")
        if probs not in ("true", "false", "1", "0"):
            raise BadRequest(f"`probs` must be `true` or `false`, but is `{probs[:40]}`.")
        return cls(int(rate), probs in ("true", "1"))


class Session:
    """The stream of one connection. It holds the only key to its stream.

    Args:
        websocket: accepted already.
        hub: where the model runs.
        limits: what the client may take.
        request: what the client declared.
        greeting: sent first, with what the client declared.
    """

    def __init__(
        self,
        websocket: WebSocket,
        hub: StreamHub,
        limits: ServerLimits,
        request: StreamRequest,
        greeting: dict[str, Any],
    ) -> None:
        self._websocket, self._hub, self._limits, self._request = websocket, hub, limits, request
        self._greeting = greeting
        self._key = object()
        self._bytes_per_second = request.sample_rate * _BYTES_PER_SAMPLE
        self._audio = WaitingAudio(round(limits.max_waiting_seconds * self._bytes_per_second))
        self._received = 0
        self._ending: Ending | None = None

    async def run(self) -> None:
        """Serve the client until one side ends it."""
        reader = None
        try:
            await self._send({**self._greeting, **self._request._asdict()})
            await self._hub.open(self._key, self._request.sample_rate)
            reader = asyncio.create_task(self._read())
            await self._answer()
        except (TimeoutError, WebSocketDisconnect):
            self._ending = Ending(1006, "the client is gone", gone=True)
        except Exception as error:  # of the model: this stream cannot go on, the others can
            self._ending = _fault(error)
        finally:
            if reader is not None:
                reader.cancel()
            self._hub.close(self._key)
        await close(self._websocket, self._ending or FINISHED, seconds=self._limits.send_seconds)

    async def stop(self, ending: Ending) -> None:
        """End the stream; the first ending counts. What waits is answered where the ending is orderly."""
        if self._ending is None:
            self._ending = ending
        await self._audio.end(drop=not ending.orderly)

    async def _read(self) -> None:
        """Take in what the client sends, no faster than it is used up, until something ends it."""
        try:
            while self._ending is None:
                try:
                    message = await asyncio.wait_for(self._websocket.receive(), self._limits.idle_seconds)
                except TimeoutError:
                    await self.stop(Ending(1008, f"no audio for {self._limits.idle_seconds:g} s", orderly=True))
                    return
                ending = await self._take(message)
                if ending is not None:
                    await self.stop(ending)
        except Exception as error:  # never silent: the client is told
            await self.stop(_fault(error))

    async def _take(self, message: Any) -> Ending | None:
        """One message of the client; why it ends the stream, if it does."""
        if message["type"] == "websocket.disconnect":
            return Ending(1006, "the client is gone", gone=True)
        data = message.get("bytes")
        if data is None:
            return _command(message.get("text") or "")
        if len(data) > self._limits.max_message_bytes:
            return Ending(1009, f"a message has {len(data)} bytes; at most {self._limits.max_message_bytes}")
        room = round(self._limits.max_seconds * self._bytes_per_second) - self._received
        self._received += min(len(data), room)
        await self._audio.put(data[:room])
        if len(data) > room:
            return Ending(1008, f"a stream has at most {self._limits.max_seconds:g} s; begin another", orderly=True)
        return None

    async def _answer(self) -> None:
        """Give the model a step's worth at a time, so that no client holds up the others with a long piece."""
        most = max(round(self._hub.step_seconds * self._bytes_per_second), 1)
        while (piece := await self._audio.take(most)) is not None:
            for update in await self._hub.push(self._key, piece):
                await self._send_update(update)
        if self._ending is None or self._ending.orderly:
            for update in await self._hub.finish(self._key):
                await self._send_update(update)

    async def _send_update(self, update: StreamUpdate) -> None:
        content = update.to_dict()
        if not self._request.probs:
            del content["probs"]
        waiting = len(self._audio) / self._bytes_per_second
        received = self._received / self._bytes_per_second
        await self._send({"type": "update", **content, "received": round(received, 3), "waiting": round(waiting, 3)})

    async def _send(self, content: dict[str, Any]) -> None:
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        await asyncio.wait_for(self._websocket.send_text(text), self._limits.send_seconds)


async def close(websocket: WebSocket, ending: Ending, *, seconds: float) -> None:
    """Tell the client why it ends, as a message where something is wrong, and in the close frame."""
    if ending.gone:
        return
    try:
        async with asyncio.timeout(seconds):
            if not ending.orderly:
                content = {"type": "error", "code": ending.code, "message": ending.reason}
                await websocket.send_text(json.dumps(content, ensure_ascii=False))
            reason = ending.reason.encode()[:_REASON_BYTES].decode(errors="ignore")
            await websocket.close(ending.code, reason)
    except (TimeoutError, WebSocketDisconnect, RuntimeError):
        return  # it went while it was told


def _command(text: str) -> Ending:
    """A text message: there is one, by which the client ends its stream."""
    try:
        content = json.loads(text) if len(text) < _COMMAND_LENGTH else None  # a deep one breaks the parser
    except ValueError:
        content = None
    if content == {"type": "finish"}:
        return FINISHED
    return Ending(1003, 'audio must come as binary messages; the only text is {"type": "finish"}')


def _fault(error: Exception) -> Ending:
    """What a client is told of an error: of its own audio all, of the server's inside nothing."""
    if isinstance(error, ValueError):
        return Ending(1011, str(error))
    _LOGGER.error("A stream failed.", exc_info=error)
    return Ending(1011, "the server has failed at this stream")
