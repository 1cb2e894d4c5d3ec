# Copyright (c) 2026 the nemo_sortformer authors. Licensed under the Apache License, Version 2.0.
"""`nemo-sortformer serve`: a web server for live streams, and a page that uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nemo_sortformer.cli.console import Verbose, command, err, note, out, quiet_nemo

_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.", min=0, max=65535)] = 8765,
    model: Annotated[Path | None, typer.Option(help="A .nemo file instead of the shipped model.")] = None,
    latency: Annotated[
        str | None, typer.Option(help="30.4s, 10s, 1.04s or 0.32s. Default: the model's own, or 1.04s.")
    ] = None,
    max_connections: Annotated[int, typer.Option(help="Streams at once; others are refused.")] = 16,
    max_seconds: Annotated[float, typer.Option(help="Audio of one stream.")] = 3600.0,
    idle_seconds: Annotated[float, typer.Option(help="A stream without audio for so long is closed.")] = 60.0,
    max_waiting_seconds: Annotated[
        float, typer.Option(help="Audio of one stream that may wait; then it is read no further.")
    ] = 10.0,
    grace_seconds: Annotated[float, typer.Option(help="At the end, streams have so long to finish.")] = 10.0,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Another site whose pages may use the server: https://example.org")
    ] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Serve https and wss with this certificate.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: a GPU if there is one.")] = None,
    assignment: Annotated[str | None, typer.Option(help="heads or clustering. Default: the model's own.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or int8: faster, with slightly other numbers. Default: the model's."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Serve live diarization: a WebSocket at `/stream` for 16-bit PCM, and a page at `/` for the browser.

    Ctrl-C or SIGTERM ends it: streams are finished and closed with a reason.
    """
    with command(verbose=verbose):
        try:
            from nemo_sortformer.serve.server import bind, build_server
        except ImportError as error:
            raise ImportError(
                f"`serve` needs a web server, which is an extra ({error}): pip install 'nemo_sortformer[serve]'"
            ) from error
        from nemo_sortformer.serve.limits import ServerLimits

        limits = ServerLimits(
            max_connections=max_connections,
            max_seconds=max_seconds,
            idle_seconds=idle_seconds,
            max_waiting_seconds=max_waiting_seconds,
            grace_seconds=grace_seconds,
        )
        if ssl_keyfile is not None and ssl_certfile is None:
            raise ValueError("`--ssl-keyfile` needs its certificate, `--ssl-certfile`.")
        for path in (ssl_certfile, ssl_keyfile):
            if path is not None and not path.is_file():
                raise ValueError(f"`{path}` must be a PEM file, but is missing.")
        taken = bind(host, port)
        with err().status("Loading the model ..."):
            quiet_nemo(verbose=verbose)
            from nemo_sortformer.inference.checkpoint import load_model
            from nemo_sortformer.serve.app import create_app

            app = create_app(
                load_model(model, device=device),
                latency=latency,
                precision=precision,  # type: ignore[arg-type]  # checked there
                override_config=None if assignment is None else {"assignment": assignment},
                limits=limits,
                allowed_origins=allow_origin or (),
            )
        scheme = "https" if ssl_certfile else "http"
        if host not in _LOCAL:
            note(
                "Note: whoever reaches this address can use the server; there are no accounts."
                + ("" if ssl_certfile else " Browsers give their microphone to https pages only, or on this machine.")
            )
        name = f"[{host}]" if ":" in host else host
        address = f"{scheme}://{name}:{taken.getsockname()[1]}/"
        hub = app.state.live.hub

        def say() -> None:
            out().print(
                f"Listening at {address}   latency {hub.latency_seconds:g} s, up to {max_connections} streams. "
                "Ctrl-C stops.",
                markup=False,
            )

        server = build_server(
            app,
            max_message_bytes=limits.max_message_bytes,
            on_ready=say,
            log_level="info" if verbose else "warning",
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
        )
        server.run(sockets=[taken])
        out().print("Stopped; all streams are closed.", markup=False)
