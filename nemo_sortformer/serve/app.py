# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""The web application: the page, the WebSocket, and how many clients there are."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from nemo_sortformer.inference.report import speaker_color
from nemo_sortformer.serve.hub import StreamHub
from nemo_sortformer.serve.limits import ServerLimits
from nemo_sortformer.serve.session import BadRequest, Ending, Session, StreamRequest, close

if TYPE_CHECKING:
    from nemo_sortformer.inference.precision import Precision
    from nemo_sortformer.models.diarizer.model import SortformerDiarizer

_STOPPED = Ending(1001, "the server stops", orderly=True)


class LiveServer:
    """All connections of a server.

    Args:
        model: the diarizer; nothing else may use it meanwhile.
        latency: of all streams; see :func:`nemo_sortformer.config.streaming.streaming_settings`.
        override_config: an `InferenceConfig`, or single keys of it, instead of the model's.
        precision: as in :func:`nemo_sortformer.inference.stream.stream`.
        limits: what one client, and all together, may take.
        allowed_origins: pages of other sites that may use the server, as `https://example.org`; its own page may.

    Raises:
        ConfigError: a setting is wrong, or the model cannot stream.
    """

    def __init__(
        self,
        model: SortformerDiarizer,
        *,
        latency: Any = None,
        override_config: Any = None,
        precision: Precision | None = None,
        limits: ServerLimits | None = None,
        allowed_origins: Sequence[str] = (),
    ) -> None:
        self.limits = limits or ServerLimits()
        self.hub = StreamHub(
            model,
            latency=latency,
            override_config=override_config,
            max_batch=self.limits.max_connections,
            precision=precision,
        )
        self._origins = {origin.rstrip("/").lower() for origin in allowed_origins}
        self._sessions: dict[Session, asyncio.Event] = {}
        self._stopping = False
        self._page = str(files("nemo_sortformer.serve").joinpath("page.html").read_text(encoding="utf-8"))
        self._headers = _page_headers(self._page)
        num_speakers = (
            self.hub.inference.clustering.max_speakers
            if self.hub.inference.assignment == "clustering" and self.hub.inference.clustering.max_speakers
            else model.num_slots
        )
        self._greeting = {
            "type": "ready",
            "latency_seconds": round(self.hub.latency_seconds, 3),
            "frame_seconds": model.frame_seconds,
            "num_speakers": num_speakers,
            "colors": [speaker_color(i) for i in range(num_speakers)],
            "max_seconds": self.limits.max_seconds,
            "max_message_bytes": self.limits.max_message_bytes,
            "idle_seconds": self.limits.idle_seconds,
        }

    @property
    def num_streams(self) -> int:
        """Open streams."""
        return len(self._sessions)

    @asynccontextmanager
    async def running(self, app: Starlette | None = None) -> AsyncIterator[None]:
        """While this lasts streams are served."""
        task = asyncio.create_task(self.hub.run())
        try:
            yield
        finally:
            await self.drain()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def drain(self) -> None:
        """Take no new streams, and let those that there are finish, for so long as the limits say."""
        self._stopping = True
        ends = [event.wait() for event in self._sessions.values()]
        for session in list(self._sessions):
            await session.stop(_STOPPED)
        if ends:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.gather(*ends), self.limits.grace_seconds)

    async def page(self, request: Request) -> HTMLResponse:
        """The page that streams the browser's microphone, or a file."""
        return HTMLResponse(self._page, headers=self._headers)

    async def health(self, request: Request) -> JSONResponse:
        """Whether the server takes streams, and how many it has."""
        content = {"ok": not self._stopping, "streams": self.num_streams, "max_streams": self.limits.max_connections}
        return JSONResponse(content, status_code=503 if self._stopping else 200, headers={"Cache-Control": "no-store"})

    async def stream(self, websocket: WebSocket) -> None:
        """One WebSocket: taken, or refused with a code and a reason."""
        refused: Ending | None = None
        request = StreamRequest(16_000, probs=False)
        try:
            request = StreamRequest.from_query(dict(websocket.query_params))
        except BadRequest as error:
            refused = Ending(1008, str(error))
        if not self._is_own(websocket):
            refused = Ending(1008, "pages of other sites may not use this server (`--allow-origin`)")
        elif self._stopping:
            refused = Ending(1001, "the server stops")
        elif refused is None and self.num_streams >= self.limits.max_connections:
            refused = Ending(1013, f"all {self.limits.max_connections} streams are in use; come again later")
        if refused is not None:
            with suppress(WebSocketDisconnect, asyncio.TimeoutError):
                await asyncio.wait_for(websocket.accept(), self.limits.send_seconds)
                await close(websocket, refused, seconds=self.limits.send_seconds)
            return
        session, over = Session(websocket, self.hub, self.limits, request, self._greeting), asyncio.Event()
        self._sessions[session] = over  # before anything is awaited, so that the count is right
        try:
            await websocket.accept()
            await session.run()
        except WebSocketDisconnect:
            return
        finally:
            del self._sessions[session]
            over.set()

    def _is_own(self, websocket: WebSocket) -> bool:
        """Browsers say which page opens a WebSocket; programs do not, and need not."""
        origin = websocket.headers.get("origin")
        if origin is None or origin.lower() in self._origins:
            return True
        try:
            return urlsplit(origin).netloc.lower() == websocket.headers.get("host", "").lower()
        except ValueError:
            return False


def create_app(model: SortformerDiarizer, **options: Any) -> Starlette:
    """The ASGI application of a server.

    Args:
        model: the diarizer; nothing else may use it meanwhile.
        options: those of :class:`LiveServer`, which is `app.state.live`.
    """
    live = LiveServer(model, **options)
    routes = [Route("/", live.page), Route("/health", live.health), WebSocketRoute("/stream", live.stream)]
    app = Starlette(routes=routes, lifespan=live.running)
    app.state.live = live
    return app


def _page_headers(page: str) -> dict[str, str]:
    """The page may run what stands in it and talk to this server, and nothing else."""
    script, style = (_hashes(page, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {script} blob:; worker-src blob:; style-src {style}; connect-src 'self'; "
        "img-src data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _hashes(page: str, tag: str) -> str:
    found = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, flags=re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
