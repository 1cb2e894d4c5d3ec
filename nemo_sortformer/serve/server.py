# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""Running the application under uvicorn, until a signal ends it cleanly."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from starlette.applications import Starlette

_BACKLOG = 128
_CLOSE_SECONDS = 5
"""Time for connections to close after their streams have ended."""


def bind(host: str, port: int) -> socket.socket:
    """Take the address, before anything slow is done; nobody is answered yet.

    Args:
        host: name or address of this machine.
        port: 0 takes a free one.

    Raises:
        OSError: the address is in use, or is not one of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise OSError(
            f"`{host}:{port}` cannot be taken: {error.strerror or error}. Choose another `--port`."
        ) from error
    return taken


def build_server(
    app: Starlette,
    *,
    max_message_bytes: int,
    on_ready: Callable[[], None] = lambda: None,
    log_level: str = "warning",
    **options: Any,
) -> uvicorn.Server:
    """A server; `serve` or `run` of it with `sockets=[bind(...)]` serves until SIGINT, SIGTERM or `should_exit`.

    Then streams are finished and closed with a reason. A second SIGINT ends at once.

    Args:
        app: of :func:`nemo_sortformer.serve.app.create_app`.
        max_message_bytes: a longer message closes its connection with the code 1009, before it is read to the end.
        on_ready: called when clients are answered.
        log_level: of uvicorn.
        options: more options of `uvicorn.Config`, e.g. `ssl_certfile`.
    """
    config = uvicorn.Config(
        app,
        log_level=log_level,
        access_log=log_level not in ("warning", "error"),
        lifespan="on",
        ws="websockets-sansio",  # stops reading while the application does not receive
        ws_max_size=max_message_bytes,
        ws_ping_interval=20.0,
        ws_ping_timeout=None,  # the pong of a client that is too fast waits behind its audio; see `idle_seconds`
        ws_per_message_deflate=False,  # audio does not shrink, and what is packed small can be huge
        timeout_graceful_shutdown=_CLOSE_SECONDS,
        backlog=_BACKLOG,
        server_header=False,
        **options,
    )
    return _Server(config, app.state.live.drain, on_ready)


class _Server(uvicorn.Server):
    """Lets the streams finish before the connections are cut, and ends with status 0 when it is told to end."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Any], on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain, self._on_ready = drain, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        drained = asyncio.ensure_future(self._drain())
        while not drained.done() and not self.force_exit:
            await asyncio.wait([drained], timeout=0.1)
        drained.cancel()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {name: signal.signal(name, self.handle_exit) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
